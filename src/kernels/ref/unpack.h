// One block of 32 quantised weights as small integers and their scales: what the int8 product is defined on.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tensor/dtype.h"

namespace westlake {

// w[i] = scale[h] * q[i] + min[h], where h = i / (32 / halves).
// scale and min are products of a half-precision number and an integer of at most seven bits, so they are exact.
struct IntBlock {
  int8_t q[32];
  int halves;  // 1: one scale for all 32; 2: one for each 16
  float scale[2], min[2];
};

// Block `b` (elements 32b .. 32b+31) of the row that starts at `row`. Requires: is_quantised(dtype).
IntBlock unpack_block(DType dtype, const std::byte* row, int64_t b);

// True for the formats whose min is not always zero.
bool has_min(DType dtype);

}  // namespace westlake
