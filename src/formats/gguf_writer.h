// GGUF, written: version 3, little-endian, alignment 32.
// Idea: metadata and the list of tensors are told first, then the tensors' bytes stream through in that order. The file
// appears whole or not at all (AtomicFile), so a full disk or a kill leaves the old one.
// Source: as gguf.h; tensors lie one after another, each padded, which is what llama.cpp requires of a file.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/result.h"
#include "formats/gguf.h"
#include "formats/tensor_table.h"

namespace westlake {

// The key-value part of a file to be. Keys keep the order of their first setting; setting again replaces the value.
class GgufMetadata {
 public:
  void set_u32(std::string_view key, uint32_t value);
  void set_u64(std::string_view key, uint64_t value);
  void set_i32(std::string_view key, int32_t value);
  void set_f32(std::string_view key, float value);
  void set_bool(std::string_view key, bool value);
  void set_string(std::string_view key, std::string_view value);
  void set_strings(std::string_view key, std::span<const std::string> values);
  void set_strings(std::string_view key, std::span<const std::string_view> values);
  void set_i32s(std::string_view key, std::span<const int32_t> values);
  void set_f32s(std::string_view key, std::span<const float> values);
  // A value of any type as another file holds it.
  void set_value(std::string_view key, const GgufValue& value);
  void erase(std::string_view key);

  struct Entry {
    std::string key;
    GgufType type;
    std::string encoded;
  };
  const std::vector<Entry>& entries() const { return entries_; }

 private:
  void set(std::string_view key, GgufType type, std::string encoded);
  std::vector<Entry> entries_;
};

// Bytes of tensor data so far, and in all.
using GgufProgress = std::function<void(uint64_t done_bytes, uint64_t total_bytes)>;

class GgufWriter {
 public:
  // Writes the header. `general.alignment` and `split.*` of copied metadata are left out: this file is whole, and its
  // alignment the default. Errors: kIo; kInvalidArgument for a name that occurs twice or is too long for ggml (63
  // bytes), or more than 4 dimensions; kUnsupported for FP8, which ggml does not have. Requires: rows are whole blocks.
  static Result<GgufWriter> create(const std::string& path, const GgufMetadata& metadata,
                                   std::vector<TensorSpec> tensors, GgufProgress progress = {});

  // The order in which the bytes are expected: the order given.
  const std::vector<TensorSpec>& tensors() const { return tensors_; }

  // The next bytes, in pieces of any size; padding between tensors is the writer's own. Requires: no more in all than
  // tensors() need.
  Status write(std::span<const std::byte> bytes);

  // Requires: all bytes have been written.
  Status finish();

 private:
  GgufWriter(AtomicFile file, std::vector<TensorSpec> tensors, GgufProgress progress);
  Status end_tensors();  // pads behind each tensor that is complete

  AtomicFile file_;
  std::vector<TensorSpec> tensors_;
  GgufProgress progress_;
  size_t current_ = 0;      // the tensor that the next byte belongs to
  int64_t left_bytes_ = 0;  // of it
  uint64_t done_bytes_ = 0, total_bytes_ = 0;
};

}  // namespace westlake
