// Rows of numbers <-> rows of blocks: the plain truth that every kernel is held against.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/result.h"
#include "tensor/dtype.h"
#include "tensor/view.h"

namespace westlake {

// out[0..n) = the numbers stored at `in`. Requires: n is a multiple of the block of `dtype`; dtype holds weights
// (not integers; kF8E4M3 without its scales, kF8E8M0 as powers of two).
void dequantise_row(DType dtype, const std::byte* in, int64_t n, float* out);

// Row `row` of a matrix, scales of FP8 applied. out[0..mat.cols).
void dequantise_row(const Mat& mat, int64_t row, float* out);

// True for the formats that quantise_row can write: f32 f16 bf16 q8_0 q4_0 q4_1 q5_0 q5_1 q4_k q5_k q6_k.
bool can_quantise(DType dtype);

// out = the blocks nearest to in[0..n) by each format's rule. Requires: can_quantise(dtype), whole blocks, finite
// input. Sums run in a fixed order: the same numbers give the same bytes on every machine. Blocks of 32 equal those of
// ggml's reference quantisers, q4_k q5_k q6_k minimise the squared error by a search. A block scale too large for its
// half is cut to 65504: blocks of a finite row are finite. (kF16 and kBF16 overflow as IEEE says.)
void quantise_row(DType dtype, const float* in, int64_t n, std::byte* out);

// True where no number is NaN or infinite: what quantise_row requires, for those who read files.
bool all_finite(const float* in, int64_t n);

}  // namespace westlake
