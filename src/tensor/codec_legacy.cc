// Blocks of 32 weights under one half-precision scale: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, both ways.
// Source: ggml's published formats, see blocks.h. The rules of rounding are its reference rules, so that the same
// numbers give the same bytes.
#include <algorithm>
#include <cmath>

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

// Stores the integer `q` (0..15) as element j.
void put_nibble(uint8_t qs[16], int j, int q) {
  if (j < 16) {
    qs[j] = static_cast<uint8_t>(q);  // the low half comes first and clears the byte
  } else {
    qs[j - 16] = static_cast<uint8_t>(qs[j - 16] | q << 4);
  }
}

// A scale whose half is infinite is cut to the largest half before the integers are chosen, so that the block stays
// finite and each weight is the nearest the format can hold. Any other scale is used unrounded, as ggml does.
float cut_to_half_range(float x) {
  return std::fabs(x) < 65520.0f ? x : std::copysign(65504.0f, x);
}

int truncate_to(float x, int top) {
  return static_cast<int>(std::clamp(x, 0.0f, static_cast<float>(top)));
}

// The scale of Q4_0 and Q5_0: the number of the largest magnitude (the first, if several) falls on the lowest level.
struct SignedScale {
  float d, inverse;
};

SignedScale signed_scale(const float* in, int lowest) {
  float extreme = 0;
  for (int j = 0; j < 32; ++j) {
    if (std::fabs(in[j]) > std::fabs(extreme)) extreme = in[j];
  }
  const float d = cut_to_half_range(extreme / static_cast<float>(lowest));
  return {d, inverse_or_zero(d)};
}

// The scale and offset of Q4_1 and Q5_1: the smallest number falls on level 0, the largest on level `top`.
struct OffsetScale {
  float d, m, inverse;
};

OffsetScale offset_scale(const float* in, int top) {
  float low = in[0], high = in[0];
  for (int j = 1; j < 32; ++j) {
    low = std::min(low, in[j]);
    high = std::max(high, in[j]);
  }
  const float m = cut_to_half_range(low);
  const float d = cut_to_half_range((high - m) / static_cast<float>(top));
  return {d, m, inverse_or_zero(d)};
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

void quantise_block(const float* in, BlockQ4_0& block) {
  const SignedScale scale = signed_scale(in, -8);
  block.d = float_to_f16(scale.d);
  for (int j = 0; j < 32; ++j) put_nibble(block.qs, j, truncate_to(in[j] * scale.inverse + 8.5f, 15));
}

void quantise_block(const float* in, BlockQ4_1& block) {
  const OffsetScale scale = offset_scale(in, 15);
  block.d = float_to_f16(scale.d);
  block.m = float_to_f16(scale.m);
  for (int j = 0; j < 32; ++j) put_nibble(block.qs, j, truncate_to((in[j] - scale.m) * scale.inverse + 0.5f, 15));
}

void quantise_block(const float* in, BlockQ5_0& block) {
  const SignedScale scale = signed_scale(in, -16);
  block.d = float_to_f16(scale.d);
  std::fill_n(block.qh, 4, uint8_t{0});
  for (int j = 0; j < 32; ++j) {
    const int q = truncate_to(in[j] * scale.inverse + 16.5f, 31);
    put_nibble(block.qs, j, q & 15);
    block.qh[j / 8] = static_cast<uint8_t>(block.qh[j / 8] | q >> 4 << (j % 8));
  }
}

void quantise_block(const float* in, BlockQ5_1& block) {
  const OffsetScale scale = offset_scale(in, 31);
  block.d = float_to_f16(scale.d);
  block.m = float_to_f16(scale.m);
  std::fill_n(block.qh, 4, uint8_t{0});
  for (int j = 0; j < 32; ++j) {
    const int q = truncate_to((in[j] - scale.m) * scale.inverse + 0.5f, 31);
    put_nibble(block.qs, j, q & 15);
    block.qh[j / 8] = static_cast<uint8_t>(block.qh[j / 8] | q >> 4 << (j % 8));
  }
}

void quantise_block(const float* in, BlockQ8_0& block) {
  float magnitude = 0;
  for (int j = 0; j < 32; ++j) magnitude = std::max(magnitude, std::fabs(in[j]));
  const float d = cut_to_half_range(magnitude / 127);
  const float inverse = inverse_or_zero(d);
  block.d = float_to_f16(d);
  for (int j = 0; j < 32; ++j) {
    // Halves go away from zero; in double, because x + 0.5f of the float just below 0.5 would round up to 1.
    const double q = std::clamp(static_cast<double>(in[j] * inverse), -127.0, 127.0);
    block.qs[j] = static_cast<int8_t>(q + std::copysign(0.5, q));
  }
}

}  // namespace westlake
