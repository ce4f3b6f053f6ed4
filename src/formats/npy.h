// NumPy's .npy: ids in, logits and hidden states out.
//
//   "\x93NUMPY", major u8, minor u8, length of the header (u16 in 1.0, u32 in 2.0 and 3.0)
//   header: a Python dict, "{'descr': '<f4', 'fortran_order': False, 'shape': (48, 96), }", padded to 64 bytes
//   data in C order, little-endian
//
// Read: <f4 <f2 <i4 <i8 |u1 |i1 |b1. Written: float32 and int32, version 1.0.
// Source: the NEP of the format, numpy.lib.format.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/result.h"
#include "tensor/view.h"

namespace westlake {

// One array. Owns: the mapping that view() points into (moving it keeps it valid). Thread-safe: reads.
class Npy {
 public:
  // Errors: kNotFound, kIo; kCorrupt for what contradicts the format; kUnsupported for another descr (big-endian,
  // float64, strings, objects) and for Fortran order.
  static Result<Npy> open(const std::string& path);

  // The same from memory. Requires: bytes outlive the object.
  static Result<Npy> from_bytes(std::span<const std::byte> bytes, std::string_view place);

  const TensorView& view() const { return view_; }

  // Copies, converted. Errors: kInvalidArgument for another kind of number, or an id outside int32.
  Result<std::vector<int32_t>> int32s() const;  // from i4, i8, u1, i1
  Result<std::vector<float>> floats() const;    // from f4, f2

 private:
  std::string place_;
  MappedFile file_;
  TensorView view_;
};

// Writes an array row by row, so that logits [T, V] need not be held whole. Nothing is visible before finish().
class NpyWriter {
 public:
  // dtype: kF32 or kI32. Requires: extents are not negative.
  static Result<NpyWriter> create(const std::string& path, DType dtype, const std::vector<int64_t>& shape);

  // Any number of elements, as long as all of them together are no more than the shape's. Requires: the dtype of
  // create.
  Status append(std::span<const float> values);
  Status append(std::span<const int32_t> values);

  // Errors: kIo. Requires: exactly the shape's elements have been appended.
  Status finish();

 private:
  NpyWriter(AtomicFile file, DType dtype, int64_t elements)
      : file_(std::move(file)), dtype_(dtype), left_elements_(elements) {}
  AtomicFile file_;
  DType dtype_;
  int64_t left_elements_;
};

// A whole array at once. Requires: values.size() is the product of the shape.
Status write_npy(const std::string& path, std::span<const float> values, const std::vector<int64_t>& shape);
Status write_npy(const std::string& path, std::span<const int32_t> values, const std::vector<int64_t>& shape);

}  // namespace westlake
