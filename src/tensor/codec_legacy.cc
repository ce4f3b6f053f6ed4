// Blocks of 32 weights under one half-precision scale: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, both ways.
// Source: ggml's published formats, see blocks.h. The rules of rounding are its reference rules, so that the same
// numbers give the same bytes.
#include "tensor/codec_parts.h"
#include "tensor/scalar.h"

namespace westlake {
namespace {

// Element j (0..31) of a block of nibbles.
int nibble(const uint8_t qs[16], int j) {
  return j < 16 ? qs[j] & 15 : qs[j - 16] >> 4;
}

int fifth_bit(const uint8_t qh[4], int j) {
  return qh[j / 8] >> (j % 8) & 1;
}

}  // namespace

void dequantise_block(const BlockQ4_0& block, float* out) {
  const float d = f16_to_float(block.d);
  for (int j = 0; j < 32; ++j) out[j] = d * static_cast<float>(nibble(block.qs, j) - 8);
}

void dequantise_block(const BlockQ4_1& block, float* out) {
  const float d = f16_to_float(block.d), m = f16_to_float(block.m);
  for (int j = 0; j < 32; ++j) out[j] = d * static_cast<float>(nibble(block.qs, j)) + m;
}

void dequantise_block(const BlockQ5_0& block, float* out) {
  const float d = f16_to_float(block.d);
  for (int j = 0; j < 32; ++j) {
    out[j] = d * static_cast<float>((nibble(block.qs, j) | fifth_bit(block.qh, j) << 4) - 16);
  }
}

void dequantise_block(const BlockQ5_1& block, float* out) {
  const float d = f16_to_float(block.d), m = f16_to_float(block.m);
  for (int j = 0; j < 32; ++j) {
    out[j] = d * static_cast<float>(nibble(block.qs, j) | fifth_bit(block.qh, j) << 4) + m;
  }
}

void dequantise_block(const BlockQ8_0& block, float* out) {
  const float d = f16_to_float(block.d);
  for (int j = 0; j < 32; ++j) out[j] = d * static_cast<float>(block.qs[j]);
}

void dequantise_block(const BlockIQ4_NL& block, float* out) {
  const float d = f16_to_float(block.d);
  for (int j = 0; j < 32; ++j) out[j] = d * static_cast<float>(kIQ4Values[nibble(block.qs, j)]);
}

}  // namespace westlake
