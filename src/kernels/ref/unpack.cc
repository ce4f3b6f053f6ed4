// Blocks of every quantised format to integers and scales, one element at a time.
// Source: the layouts of tensor/blocks.h. In a superblock of 256, block b is the b-th 32 elements.
#include "kernels/ref/unpack.h"

#include "base/check.h"
#include "tensor/blocks.h"
#include "tensor/scalar.h"

namespace westlake {
namespace {

constexpr int kBlocks = 8;  // of 32 in a superblock

template <typename Block>
const Block& block_at(const std::byte* row, int64_t i) {
  return reinterpret_cast<const Block*>(row)[i];
}

// Element i of 32 in sixteen bytes: the low halves first, then the high halves.
int nibble(const uint8_t* qs, int i) {
  return i < 16 ? qs[i] & 15 : qs[i - 16] >> 4;
}

// The 6-bit scale and minimum number j of 8 that Q4_K and Q5_K pack in 12 bytes.
void scale_and_min(const uint8_t* packed, int j, int* scale, int* min) {
  if (j < 4) {
    *scale = packed[j] & 63;
    *min = packed[j + 4] & 63;
  } else {
    *scale = (packed[j + 4] & 15) | (packed[j - 4] >> 6) << 4;
    *min = packed[j + 4] >> 4 | (packed[j] >> 6) << 4;
  }
}

// The 6-bit scale number j of 16 that Q3_K packs in 12 bytes.
int q3_scale(const uint8_t* packed, int j) {
  const int low = j < 8 ? packed[j] & 15 : packed[j - 8] >> 4;
  return (low | (packed[8 + j % 4] >> 2 * (j / 4) & 3) << 4) - 32;
}

template <typename Element>
IntBlock plain(float scale, float min, Element element) {
  IntBlock out{};
  out.halves = 1;
  out.scale[0] = scale;
  out.min[0] = min;
  for (int i = 0; i < 32; ++i) out.q[i] = static_cast<int8_t>(element(i));
  return out;
}

IntBlock unpack_q2_k(const BlockQ2_K& block, int b) {
  const float d = f16_to_float(block.d), dmin = f16_to_float(block.dmin);
  IntBlock out = plain(0, 0, [&](int i) { return block.qs[32 * (b / 4) + i] >> 2 * (b % 4) & 3; });
  out.halves = 2;
  for (int h = 0; h < 2; ++h) {
    const uint8_t packed = block.scales[2 * b + h];
    out.scale[h] = d * static_cast<float>(packed & 15);
    out.min[h] = -(dmin * static_cast<float>(packed >> 4));
  }
  return out;
}

IntBlock unpack_q3_k(const BlockQ3_K& block, int b) {
  const float d = f16_to_float(block.d);
  IntBlock out = plain(0, 0, [&](int i) {
    return ((block.qs[32 * (b / 4) + i] >> 2 * (b % 4) & 3) | (block.hmask[i] >> b & 1) << 2) - 4;
  });
  out.halves = 2;
  for (int h = 0; h < 2; ++h) out.scale[h] = d * static_cast<float>(q3_scale(block.scales, 2 * b + h));
  return out;
}

IntBlock unpack_q4_k(const BlockQ4_K& block, int b) {
  int scale, min;
  scale_and_min(block.scales, b, &scale, &min);
  return plain(f16_to_float(block.d) * static_cast<float>(scale), -(f16_to_float(block.dmin) * static_cast<float>(min)),
               [&](int i) { return block.qs[32 * (b / 2) + i] >> 4 * (b % 2) & 15; });
}

IntBlock unpack_q5_k(const BlockQ5_K& block, int b) {
  int scale, min;
  scale_and_min(block.scales, b, &scale, &min);
  return plain(f16_to_float(block.d) * static_cast<float>(scale), -(f16_to_float(block.dmin) * static_cast<float>(min)),
               [&](int i) { return (block.qs[32 * (b / 2) + i] >> 4 * (b % 2) & 15) | (block.qh[i] >> b & 1) << 4; });
}

IntBlock unpack_q6_k(const BlockQ6_K& block, int b) {
  const int half = b / 4, part = b % 4;
  const uint8_t* ql = block.ql + 64 * half + 32 * (part % 2);
  const uint8_t* qh = block.qh + 32 * half;
  IntBlock out =
      plain(0, 0, [&](int i) { return ((ql[i] >> 4 * (part / 2) & 15) | (qh[i] >> 2 * part & 3) << 4) - 32; });
  out.halves = 2;
  for (int h = 0; h < 2; ++h) out.scale[h] = f16_to_float(block.d) * static_cast<float>(block.scales[2 * b + h]);
  return out;
}

IntBlock unpack_iq4_xs(const BlockIQ4_XS& block, int b) {
  const int scale = ((block.scales_l[b / 2] >> 4 * (b % 2) & 15) | (block.scales_h >> 2 * b & 3) << 4) - 32;
  return plain(f16_to_float(block.d) * static_cast<float>(scale), 0,
               [&](int i) { return kIQ4Values[nibble(block.qs + 16 * b, i)]; });
}

uint32_t bits_of(const uint8_t (&qh)[4]) {
  return qh[0] | static_cast<uint32_t>(qh[1]) << 8 | static_cast<uint32_t>(qh[2]) << 16 |
         static_cast<uint32_t>(qh[3]) << 24;
}

}  // namespace

bool has_min(DType dtype) {
  return dtype == DType::kQ4_1 || dtype == DType::kQ5_1 || dtype == DType::kQ2_K || dtype == DType::kQ4_K ||
         dtype == DType::kQ5_K;
}

IntBlock unpack_block(DType dtype, const std::byte* row, int64_t b) {
  const int64_t super = b / kBlocks;
  const int part = static_cast<int>(b % kBlocks);
  switch (dtype) {
    case DType::kQ4_0: {
      const auto& block = block_at<BlockQ4_0>(row, b);
      return plain(f16_to_float(block.d), 0, [&](int i) { return nibble(block.qs, i) - 8; });
    }
    case DType::kQ4_1: {
      const auto& block = block_at<BlockQ4_1>(row, b);
      return plain(f16_to_float(block.d), f16_to_float(block.m), [&](int i) { return nibble(block.qs, i); });
    }
    case DType::kQ5_0: {
      const auto& block = block_at<BlockQ5_0>(row, b);
      const uint32_t high = bits_of(block.qh);
      return plain(f16_to_float(block.d), 0,
                   [&](int i) { return (nibble(block.qs, i) | static_cast<int>(high >> i & 1) << 4) - 16; });
    }
    case DType::kQ5_1: {
      const auto& block = block_at<BlockQ5_1>(row, b);
      const uint32_t high = bits_of(block.qh);
      return plain(f16_to_float(block.d), f16_to_float(block.m),
                   [&](int i) { return nibble(block.qs, i) | static_cast<int>(high >> i & 1) << 4; });
    }
    case DType::kQ8_0: {
      const auto& block = block_at<BlockQ8_0>(row, b);
      return plain(f16_to_float(block.d), 0, [&](int i) { return block.qs[i]; });
    }
    case DType::kIQ4_NL: {
      const auto& block = block_at<BlockIQ4_NL>(row, b);
      return plain(f16_to_float(block.d), 0, [&](int i) { return kIQ4Values[nibble(block.qs, i)]; });
    }
    case DType::kQ2_K:
      return unpack_q2_k(block_at<BlockQ2_K>(row, super), part);
    case DType::kQ3_K:
      return unpack_q3_k(block_at<BlockQ3_K>(row, super), part);
    case DType::kQ4_K:
      return unpack_q4_k(block_at<BlockQ4_K>(row, super), part);
    case DType::kQ5_K:
      return unpack_q5_k(block_at<BlockQ5_K>(row, super), part);
    case DType::kQ6_K:
      return unpack_q6_k(block_at<BlockQ6_K>(row, super), part);
    case DType::kIQ4_XS:
      return unpack_iq4_xs(block_at<BlockIQ4_XS>(row, super), part);
    default:
      CHECK(false, "{} is no format of blocks", dtype_name(dtype));
  }
}

}  // namespace westlake
