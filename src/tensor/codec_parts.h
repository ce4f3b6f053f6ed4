// What the files of the codec share: one function a block format, and the packing of the 6-bit scales.
// Private to the codec; everybody else calls codec.h.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "tensor/blocks.h"
#include "tensor/scalar.h"

namespace westlake {

// Scale and minimum of sub-block `i` (0..7) of Q4_K and Q5_K. Four pairs stand in the low six bits of bytes 0..7; the
// other four pairs have their low nibbles in bytes 8..11 and their two high bits on top of bytes 0..7.
struct ScaleMin {
  uint8_t scale, min;
};

inline ScaleMin unpack_scale_min(const uint8_t packed[12], int i) {
  if (i < 4) return {static_cast<uint8_t>(packed[i] & 63), static_cast<uint8_t>(packed[i + 4] & 63)};
  return {static_cast<uint8_t>((packed[i + 4] & 15) | (packed[i - 4] >> 6) << 4),
          static_cast<uint8_t>((packed[i + 4] >> 4) | (packed[i] >> 6) << 4)};
}

// The half-precision bits of a scale. Finite numbers stay finite: beyond the range stands the largest half, 65504.
inline uint16_t finite_f16(float x) {
  const uint16_t bits = float_to_f16(x);
  return (bits & 0x7fff) == 0x7c00 ? static_cast<uint16_t>(bits - 1) : bits;
}

// 1 / d, and 0 where that is no number: a zero block, or weights so far below a half's range that the block loses them.
inline float inverse_or_zero(float d) {
  const float inverse = d == 0 ? 0.0f : 1.0f / d;
  return std::isinf(inverse) ? 0.0f : inverse;
}

// One block to its numbers (codec_legacy.cc: out[0..32), codec_k.cc: out[0..256)).
void dequantise_block(const BlockQ4_0& block, float* out);
void dequantise_block(const BlockQ4_1& block, float* out);
void dequantise_block(const BlockQ5_0& block, float* out);
void dequantise_block(const BlockQ5_1& block, float* out);
void dequantise_block(const BlockQ8_0& block, float* out);
void dequantise_block(const BlockIQ4_NL& block, float* out);
void dequantise_block(const BlockQ2_K& block, float* out);
void dequantise_block(const BlockQ3_K& block, float* out);
void dequantise_block(const BlockQ4_K& block, float* out);
void dequantise_block(const BlockQ5_K& block, float* out);
void dequantise_block(const BlockQ6_K& block, float* out);
void dequantise_block(const BlockIQ4_XS& block, float* out);

// Numbers to one block (codec_legacy.cc, codec_k_quantise.cc). Requires: finite numbers.
void quantise_block(const float* in, BlockQ4_0& block);
void quantise_block(const float* in, BlockQ4_1& block);
void quantise_block(const float* in, BlockQ5_0& block);
void quantise_block(const float* in, BlockQ5_1& block);
void quantise_block(const float* in, BlockQ8_0& block);
void quantise_block(const float* in, BlockQ4_K& block);
void quantise_block(const float* in, BlockQ5_K& block);
void quantise_block(const float* in, BlockQ6_K& block);

}  // namespace westlake
