// Views: a shape over bytes that somebody else owns (a mapped file, an arena).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "tensor/dtype.h"

namespace westlake {

// A tensor as a file holds it: C order, the last dimension contiguous and, for block formats, a whole number of blocks.
// Does not own its bytes.
struct TensorView {
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;  // outermost first, as PyTorch and safetensors print it
  const std::byte* data = nullptr;
  int64_t size_bytes = 0;

  int64_t elements() const {
    int64_t n = 1;
    for (int64_t extent : shape) n *= extent;
    return n;
  }
};

// "[256, 7168]", for messages.
std::string shape_text(const std::vector<int64_t>& shape);

// How the rows of a matrix lie in memory: one after the other as in a file, or sixteen side by side (panels.h).
enum class MatLayout : uint8_t { kRows, kPanels };

// A weight matrix [rows, cols] as kernels read it: row i starts at data + i * row_bytes and is cols numbers in blocks
// along the row; in panels, row_bytes is the share of a row, and row(16 p) the begin of panel p. FP8 weights carry
// scales: weight(i, j) = stored(i, j) * scale(i / 128, j / 128).
struct Mat {
  DType dtype = DType::kF32;
  int64_t rows = 0, cols = 0;
  const std::byte* data = nullptr;
  int64_t row_bytes = 0;
  // F8_E4M3 only; null means 1. [ceil(rows/128), ceil(cols/128)] of kF32 or kF8E8M0.
  const std::byte* scales = nullptr;
  DType scale_dtype = DType::kF32;
  MatLayout layout = MatLayout::kRows;

  explicit operator bool() const { return data != nullptr; }
  const std::byte* row(int64_t i) const { return data + i * row_bytes; }
  int64_t scale_cols() const { return (cols + kScaleBlock - 1) / kScaleBlock; }
  int64_t bytes() const { return rows * row_bytes; }

  static constexpr int64_t kScaleBlock = 128;
};

// The matrix of a contiguous 2-d view. Requires: two dimensions, row a whole number of blocks.
Mat matrix_of(const TensorView& view);

}  // namespace westlake
