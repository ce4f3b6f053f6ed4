// Superblocks of 256 to numbers: Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_XS. Idea: a half-precision scale for the superblock
// times a small integer scale for each sub-block of 16 or 32. The order of the float operations (first scale times
// sub-scale, then times the integer, then minus the minimum) is part of the format: results equal ggml's bit for bit.
// Source: the layouts of ggml's k-quants and i-quants, see blocks.h.
#include "tensor/codec_parts.h"
#include "tensor/scalar.h"

namespace westlake {

// Each half of 128 has 32 bytes of qs; bit pair p of byte l is element 32 p + l of the half.
void dequantise_block(const BlockQ2_K& block, float* out) {
  const float d = f16_to_float(block.d), dmin = f16_to_float(block.dmin);
  for (int sub = 0; sub < 16; ++sub) {
    const float scale = d * static_cast<float>(block.scales[sub] & 15);
    const float min = dmin * static_cast<float>(block.scales[sub] >> 4);
    const uint8_t* qs = block.qs + sub / 8 * 32 + sub % 2 * 16;
    const int shift = sub / 2 % 4 * 2;
    for (int l = 0; l < 16; ++l) out[sub * 16 + l] = scale * static_cast<float>(qs[l] >> shift & 3) - min;
  }
}

// As Q2_K; the third bit of element 32 b + l of the superblock is bit b of hmask[l]. Scales: low nibbles in bytes 0..7
// (first eight in the low, last eight in the high halves), high bit pairs in bytes 8..11.
void dequantise_block(const BlockQ3_K& block, float* out) {
  const float d = f16_to_float(block.d);
  for (int sub = 0; sub < 16; ++sub) {
    const int low = block.scales[sub % 8] >> (sub / 8 * 4) & 15;
    const int high = block.scales[8 + sub % 4] >> (sub / 4 * 2) & 3;
    const float scale = d * static_cast<float>((low | high << 4) - 32);
    const uint8_t* qs = block.qs + sub / 8 * 32 + sub % 2 * 16;
    const uint8_t* hmask = block.hmask + sub % 2 * 16;
    const int shift = sub / 2 % 4 * 2, bit = sub / 2;
    for (int l = 0; l < 16; ++l) {
      const int q = (qs[l] >> shift & 3) | (hmask[l] >> bit & 1) << 2;
      out[sub * 16 + l] = scale * static_cast<float>(q - 4);
    }
  }
}

// Each pair of sub-blocks shares 32 bytes of qs: low nibbles the first, high nibbles the second.
void dequantise_block(const BlockQ4_K& block, float* out) {
  const float d = f16_to_float(block.d), dmin = f16_to_float(block.dmin);
  for (int sub = 0; sub < 8; ++sub) {
    const ScaleMin packed = unpack_scale_min(block.scales, sub);
    const float scale = d * static_cast<float>(packed.scale), min = dmin * static_cast<float>(packed.min);
    const uint8_t* qs = block.qs + sub / 2 * 32;
    const int shift = sub % 2 * 4;
    for (int l = 0; l < 32; ++l) out[sub * 32 + l] = scale * static_cast<float>(qs[l] >> shift & 15) - min;
  }
}

// As Q4_K; the fifth bit of element l of sub-block b is bit b of qh[l].
void dequantise_block(const BlockQ5_K& block, float* out) {
  const float d = f16_to_float(block.d), dmin = f16_to_float(block.dmin);
  for (int sub = 0; sub < 8; ++sub) {
    const ScaleMin packed = unpack_scale_min(block.scales, sub);
    const float scale = d * static_cast<float>(packed.scale), min = dmin * static_cast<float>(packed.min);
    const uint8_t* qs = block.qs + sub / 2 * 32;
    const int shift = sub % 2 * 4;
    for (int l = 0; l < 32; ++l) {
      const int q = (qs[l] >> shift & 15) | (block.qh[l] >> sub & 1) << 4;
      out[sub * 32 + l] = scale * static_cast<float>(q) - min;
    }
  }
}

// Each half of 128 is four rows of 32. Row r: low bits in nibble r / 2 of the 32 bytes ql[r % 2], high bits in pair r
// of qh.
void dequantise_block(const BlockQ6_K& block, float* out) {
  const float d = f16_to_float(block.d);
  for (int sub = 0; sub < 16; ++sub) {
    const float scale = d * static_cast<float>(block.scales[sub]);
    const int half = sub / 8, row = sub / 2 % 4, column = sub % 2 * 16;
    const uint8_t* ql = block.ql + half * 64 + row % 2 * 32 + column;
    const uint8_t* qh = block.qh + half * 32 + column;
    for (int l = 0; l < 16; ++l) {
      const int q = (ql[l] >> (row / 2 * 4) & 15) | (qh[l] >> (row * 2) & 3) << 4;
      out[sub * 16 + l] = scale * static_cast<float>(q - 32);
    }
  }
}

void dequantise_block(const BlockIQ4_XS& block, float* out) {
  const float d = f16_to_float(block.d);
  for (int sub = 0; sub < 8; ++sub) {
    const int low = block.scales_l[sub / 2] >> (sub % 2 * 4) & 15;
    const int high = block.scales_h >> (sub * 2) & 3;
    const float scale = d * static_cast<float>((low | high << 4) - 32);
    const uint8_t* qs = block.qs + sub * 16;
    for (int l = 0; l < 16; ++l) {
      out[sub * 32 + l] = scale * static_cast<float>(kIQ4Values[qs[l] & 15]);
      out[sub * 32 + l + 16] = scale * static_cast<float>(kIQ4Values[qs[l] >> 4]);
    }
  }
}

}  // namespace westlake
