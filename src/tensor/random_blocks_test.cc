// Random blocks: finite, mean zero, the deviation asked for, every level used, the same bytes from the same seed.
#include "tensor/random_blocks.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <set>
#include <vector>

#include "tensor/blocks.h"
#include "tensor/codec.h"

namespace westlake {
namespace {

constexpr DType kWeights[] = {DType::kF32,  DType::kF16,  DType::kBF16,   DType::kF8E4M3, DType::kQ4_0, DType::kQ4_1,
                              DType::kQ5_0, DType::kQ5_1, DType::kQ8_0,   DType::kQ2_K,   DType::kQ3_K, DType::kQ4_K,
                              DType::kQ5_K, DType::kQ6_K, DType::kIQ4_NL, DType::kIQ4_XS};

std::vector<std::byte> random_blocks(DType dtype, uint64_t seed, float stddev, int64_t n) {
  std::vector<std::byte> blocks(static_cast<size_t>(dtype_bytes(dtype, n)));
  Rng rng(seed);
  fill_random_blocks(dtype, rng, stddev, blocks);
  return blocks;
}

struct Moments {
  double mean = 0, stddev = 0;
  bool finite = true;
};

Moments moments(DType dtype, float asked, int64_t n) {
  std::vector<float> x(static_cast<size_t>(n));
  dequantise_row(dtype, random_blocks(dtype, 42, asked, n).data(), n, x.data());
  Moments m{.finite = all_finite(x.data(), n)};
  for (float value : x) m.mean += static_cast<double>(value) / static_cast<double>(n);
  for (float value : x) m.stddev += std::pow(static_cast<double>(value) - m.mean, 2) / static_cast<double>(n);
  m.stddev = std::sqrt(m.stddev);
  return m;
}

TEST(RandomBlocks, HaveTheDeviationAskedForAndMeanZero) {
  constexpr int64_t kElements = 1 << 18;
  for (DType dtype : kWeights) {
    for (float asked : {0.001f, 0.004f, 0.02f, 1.0f, 100.0f}) {
      if (dtype == DType::kF8E4M3 && asked < 0.004f) continue;
      const Moments m = moments(dtype, asked, kElements);
      EXPECT_TRUE(m.finite) << dtype_name(dtype);
      EXPECT_NEAR(m.stddev / static_cast<double>(asked), 1, 0.08) << dtype_name(dtype) << " at " << asked;
      EXPECT_NEAR(m.mean / static_cast<double>(asked), 0, 0.015) << dtype_name(dtype) << " at " << asked;
    }
  }
}

TEST(RandomBlocks, StayFiniteOutsideTheRangeOfTheScales) {
  for (DType dtype : kWeights) {
    for (float asked : {1e-30f, 1e-8f, 1e6f}) EXPECT_TRUE(moments(dtype, asked, 4096).finite) << dtype_name(dtype);
    EXPECT_GT(moments(dtype, 1e6f, 4096).stddev, 100) << dtype_name(dtype);
  }
}

// Q4_K and its kin must hold every level; a mistake in packing shows as a level never seen or a deviation too small.
TEST(RandomBlocks, UseEveryLevel) {
  std::vector<float> x(1 << 15);
  for (DType dtype : kWeights) {
    const auto n = static_cast<int64_t>(x.size());
    dequantise_row(dtype, random_blocks(dtype, 3, 1.0f, n).data(), n, x.data());
    const size_t levels = std::set<float>(x.begin(), x.end()).size();
    EXPECT_GE(levels, is_quantised(dtype) ? 16u : 60u) << dtype_name(dtype);
  }
}

TEST(RandomBlocks, AreTheSameFromTheSameSeed) {
  for (DType dtype : kWeights) {
    const std::vector<std::byte> a = random_blocks(dtype, 7, 0.02f, 5120), b = random_blocks(dtype, 7, 0.02f, 5120),
                                 c = random_blocks(dtype, 8, 0.02f, 5120);
    EXPECT_EQ(a, b) << dtype_name(dtype);
    EXPECT_NE(a, c) << dtype_name(dtype);
    // Blocks differ from each other: no short cycle.
    const auto block = static_cast<size_t>(std::max(dtype_info(dtype).block_bytes, 32));
    EXPECT_NE(std::memcmp(a.data(), a.data() + block, block), 0) << dtype_name(dtype);
  }
}

TEST(RandomBlocks, Q8HasNoMinus128) {
  const std::vector<std::byte> blocks = random_blocks(DType::kQ8_0, 1, 1.0f, 32 * 2000);
  for (size_t at = 0; at < blocks.size(); at += sizeof(BlockQ8_0)) {
    BlockQ8_0 block;
    std::memcpy(&block, blocks.data() + at, sizeof block);
    for (int8_t q : block.qs) ASSERT_NE(q, -128);
  }
}

TEST(RandomBlocks, WritesNothingElse) {
  for (DType dtype : kWeights) {
    const auto bytes = static_cast<size_t>(dtype_bytes(dtype, 256 * 65));
    std::vector<std::byte> out(bytes + 2, std::byte{0x5a});
    Rng rng(1);
    fill_random_blocks(dtype, rng, 1.0f, std::span(out).subspan(1, bytes));
    EXPECT_EQ(out.front(), std::byte{0x5a}) << dtype_name(dtype);
    EXPECT_EQ(out.back(), std::byte{0x5a}) << dtype_name(dtype);
    fill_random_blocks(dtype, rng, 1.0f, {});
  }
}

TEST(RandomBlocksDeathTest, WrongCallsStop) {
  std::vector<std::byte> out(144);
  Rng rng(1);
  EXPECT_DEATH(fill_random_blocks(DType::kQ4_K, rng, 1.0f, std::span(out).first(100)), "whole blocks");
  EXPECT_DEATH(fill_random_blocks(DType::kQ4_K, rng, NAN, out), "deviation");
  EXPECT_DEATH(fill_random_blocks(DType::kF8E8M0, rng, 1.0f, out), "no random weights");
}

}  // namespace
}  // namespace westlake
