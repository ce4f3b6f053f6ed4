// The byte layout of quantised blocks, as GGUF files hold them (little-endian, no padding).
// Source: ggml's published formats. w is the weight, q the stored integer, d and m half-precision scales ("f16 bits").
// Low nibbles come first: byte j of a block of 32 holds element j in its low and element j + 16 in its high half.
#pragma once

#include <cstdint>

namespace westlake {

// w = d * (q - 8), q in 0..15
struct BlockQ4_0 {
  uint16_t d;
  uint8_t qs[16];
};

// w = d * q + m, q in 0..15
struct BlockQ4_1 {
  uint16_t d, m;
  uint8_t qs[16];
};

// w = d * (q - 16), q in 0..31: low four bits in qs, bit 4 of element j in bit j of qh
struct BlockQ5_0 {
  uint16_t d;
  uint8_t qh[4];
  uint8_t qs[16];
};

// w = d * q + m, q in 0..31
struct BlockQ5_1 {
  uint16_t d, m;
  uint8_t qh[4];
  uint8_t qs[16];
};

// w = d * q, q in -127..127
struct BlockQ8_0 {
  uint16_t d;
  int8_t qs[32];
};

// 16 sub-blocks of 16: w = d * (scales & 15) * q - dmin * (scales >> 4), q in 0..3
struct BlockQ2_K {
  uint8_t scales[16];
  uint8_t qs[64];
  uint16_t d, dmin;
};

// 16 sub-blocks of 16: w = d * (scale - 32) * (q - 4), q in 0..7: two bits in qs, the third in hmask; 6-bit scales
struct BlockQ3_K {
  uint8_t hmask[32];
  uint8_t qs[64];
  uint8_t scales[12];
  uint16_t d;
};

// 8 sub-blocks of 32: w = d * scale * q - dmin * min, q in 0..15; 6-bit scales and mins packed in 12 bytes
struct BlockQ4_K {
  uint16_t d, dmin;
  uint8_t scales[12];
  uint8_t qs[128];
};

// 8 sub-blocks of 32: as Q4_K with a fifth bit in qh
struct BlockQ5_K {
  uint16_t d, dmin;
  uint8_t scales[12];
  uint8_t qh[32];
  uint8_t qs[128];
};

// 16 sub-blocks of 16: w = d * scale * (q - 32), q in 0..63: low four bits in ql, high two in qh
struct BlockQ6_K {
  uint8_t ql[128];
  uint8_t qh[64];
  int8_t scales[16];
  uint16_t d;
};

// w = d * kIQ4Values[q]
struct BlockIQ4_NL {
  uint16_t d;
  uint8_t qs[16];
};

// 8 sub-blocks of 32: w = d * (scale - 32) * kIQ4Values[q]; 6-bit scales: low four bits in scales_l, high two in scales_h
struct BlockIQ4_XS {
  uint16_t d, scales_h;
  uint8_t scales_l[4];
  uint8_t qs[128];
};

// The 16 levels of IQ4_NL and IQ4_XS.
inline constexpr int8_t kIQ4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

static_assert(sizeof(BlockQ4_0) == 18 && sizeof(BlockQ4_1) == 20 && sizeof(BlockQ5_0) == 22);
static_assert(sizeof(BlockQ5_1) == 24 && sizeof(BlockQ8_0) == 34 && sizeof(BlockQ2_K) == 84);
static_assert(sizeof(BlockQ3_K) == 110 && sizeof(BlockQ4_K) == 144 && sizeof(BlockQ5_K) == 176);
static_assert(sizeof(BlockQ6_K) == 210 && sizeof(BlockIQ4_NL) == 18 && sizeof(BlockIQ4_XS) == 136);

}  // namespace westlake
