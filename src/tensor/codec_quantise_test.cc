// Quantisation: bytes equal to ggml's where its rule is simple, error no larger than ggml's where a search decides, and
// the edges: ties, zero, constant, huge and vanishing blocks.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "base/rng.h"
#include "tensor/codec.h"
#include "tensor/golden_test_data.h"
#include "tensor/scalar.h"

namespace westlake {
namespace {

constexpr DType kBlockFormats[] = {DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1,
                                   DType::kQ8_0, DType::kQ4_K, DType::kQ5_K, DType::kQ6_K};

std::vector<std::byte> quantised(DType dtype, const std::vector<float>& x) {
  const auto n = static_cast<int64_t>(x.size());
  std::vector<std::byte> blocks(static_cast<size_t>(dtype_bytes(dtype, n)) + 1, std::byte{0xa5});
  quantise_row(dtype, x.data(), n, blocks.data());
  EXPECT_EQ(blocks.back(), std::byte{0xa5}) << dtype_name(dtype) << " writes past its row";
  blocks.pop_back();
  return blocks;
}

std::vector<float> there_and_back(DType dtype, const std::vector<float>& x) {
  std::vector<float> back(x.size());
  dequantise_row(dtype, quantised(dtype, x).data(), static_cast<int64_t>(x.size()), back.data());
  return back;
}

double rmse(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
  return std::sqrt(sum / static_cast<double>(a.size()));
}

std::vector<float> gaussian(size_t n, float stddev, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> x(n);
  for (float& value : x) value = stddev * static_cast<float>(rng.normal());
  return x;
}

TEST(Quantise, KnowsItsFormats) {
  int count = 0;
  for (int i = 0; i < static_cast<int>(DType::kCount); ++i) count += can_quantise(static_cast<DType>(i));
  EXPECT_EQ(count, 11);
  for (DType dtype : kBlockFormats) EXPECT_TRUE(can_quantise(dtype));
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) EXPECT_TRUE(can_quantise(dtype));
}

TEST(Quantise, BytesOfPlainRulesEqualGgml) {
  const GoldenData golden("tensor/codec.json");
  const JsonObject cases = golden.object("quantise");
  const std::vector<float> x = golden_floats(cases["numbers"]);
  int formats = 0;
  for (const auto& [name, entry] : cases) {
    if (name == "numbers") continue;
    const DType dtype = dtype_from_name(name).value();
    const std::vector<std::byte> want = golden_bytes(entry), got = quantised(dtype, x);
    ASSERT_EQ(want.size(), got.size());
    const size_t block_bytes = static_cast<size_t>(dtype_info(dtype).block_bytes);
    for (size_t i = 0; i < want.size(); ++i) {
      ASSERT_EQ(got[i], want[i]) << name << ", block " << i / block_bytes << ", byte " << i % block_bytes;
    }
    ++formats;
  }
  EXPECT_EQ(formats, 7);
}

TEST(Quantise, SearchBeatsGgmlOnRealWeights) {
  const GoldenData golden("tensor/codec.json");
  const JsonObject real = golden.object("real");
  const std::vector<std::byte> halves = golden_bytes(real["numbers_f16"]);
  std::vector<float> x(halves.size() / 2);
  dequantise_row(DType::kF16, halves.data(), static_cast<int64_t>(x.size()), x.data());
  const JsonObject errors = real["rmse_of_ggml"].get_object().value();
  for (const auto& [name, error] : errors) {
    EXPECT_LT(rmse(x, there_and_back(dtype_from_name(name).value(), x)), error.get_double().value()) << name;
  }
}

// Of a standard normal sample; ggml's reference quantisers leave 0.0713 (q4_k), 0.0361 (q5_k) and 0.01775 (q6_k).
TEST(Quantise, ErrorOnGaussianWeights) {
  const std::vector<float> x = gaussian(256 * 400, 1.0f, 11);
  EXPECT_LT(rmse(x, there_and_back(DType::kQ4_K, x)), 0.0703);
  EXPECT_LT(rmse(x, there_and_back(DType::kQ5_K, x)), 0.0347);
  EXPECT_LT(rmse(x, there_and_back(DType::kQ6_K, x)), 0.0172);
  EXPECT_LT(rmse(x, there_and_back(DType::kQ8_0, x)), 0.006);
  EXPECT_LT(rmse(x, there_and_back(DType::kQ4_0, x)), 0.095);
}

// The error scales with the weights, over the whole range in which halves are normal numbers.
TEST(Quantise, ErrorFollowsTheScaleOfTheWeights) {
  for (DType dtype : kBlockFormats) {
    const double at_one = rmse(gaussian(4096, 1, 3), there_and_back(dtype, gaussian(4096, 1, 3)));
    for (float scale : {0x1p-6f, 0x1p-3f, 0x1p5f, 0x1p10f}) {
      const std::vector<float> x = gaussian(4096, scale, 3);
      EXPECT_NEAR(rmse(x, there_and_back(dtype, x)) / static_cast<double>(scale) / at_one, 1, 0.02)
          << dtype_name(dtype) << " at " << scale;
    }
  }
}

TEST(Quantise, ZeroBlocksGiveZero) {
  const std::vector<float> zeros(512, 0.0f);
  for (DType dtype : kBlockFormats) {
    for (float x : there_and_back(dtype, zeros)) ASSERT_EQ(x, 0.0f) << dtype_name(dtype);
  }
  std::vector<float> signs(512, 0.0f);
  for (size_t i = 0; i < signs.size(); i += 3) signs[i] = -0.0f;
  for (DType dtype : kBlockFormats) {
    for (float x : there_and_back(dtype, signs)) ASSERT_EQ(x, 0.0f) << dtype_name(dtype);
  }
}

TEST(Quantise, ConstantBlocksStayConstant) {
  for (float value : {0.3f, -0.3f, 1000.0f, -0.01f}) {
    const std::vector<float> x(256, value);
    for (DType dtype : kBlockFormats) {
      const std::vector<float> back = there_and_back(dtype, x);
      for (float y : back) {
        ASSERT_EQ(y, back[0]) << dtype_name(dtype);
        ASSERT_NEAR(y, value, std::fabs(value) * 2e-3f) << dtype_name(dtype);
      }
    }
  }
}

TEST(Quantise, OneOutlierLeavesTheRestOfTheSuperblock) {
  std::vector<float> x = gaussian(256, 0.02f, 5);
  x[77] = 8.0f;
  for (DType dtype : {DType::kQ4_K, DType::kQ5_K, DType::kQ6_K}) {
    const std::vector<float> back = there_and_back(dtype, x);
    EXPECT_NEAR(back[77], 8.0f, 0.1f) << dtype_name(dtype);
  }
}

TEST(Quantise, HugeWeightsStayFinite) {
  const float max = std::numeric_limits<float>::max();
  for (float huge : {60000.0f, 600000.0f, 2e6f, 1e7f, 1e20f, max}) {
    std::vector<float> x = gaussian(256, 1.0f, 7);
    x[3] = huge;
    x[90] = -huge;
    x[200] = huge / 2;
    for (DType dtype : kBlockFormats) {
      const std::vector<float> back = there_and_back(dtype, x);
      for (float y : back) ASSERT_TRUE(std::isfinite(y)) << dtype_name(dtype) << " of " << huge;
      EXPECT_GT(back[3], 50000.0f) << dtype_name(dtype) << " of " << huge;
      if (huge < 400000) {
        EXPECT_LT(back[90], -50000.0f) << dtype_name(dtype) << " of " << huge;
      }
    }
  }
}

// Sub-blocks that are 40 orders of magnitude apart: their units are subnormal floats, whose inverses are infinite.
TEST(Quantise, HugeBesideTinyStaysFinite) {
  for (float huge : {-3e38f, 3e38f, -1e30f, 1e6f}) {
    for (float tiny : {1e-45f, 1e-38f, 1e-10f, 1e-3f, 0.0f}) {
      std::vector<float> x = gaussian(256, tiny, 19);
      for (size_t i = 0; i < 64; ++i) x[i] = huge;
      for (DType dtype : kBlockFormats) {
        const std::vector<float> back = there_and_back(dtype, x);
        EXPECT_TRUE(all_finite(back.data(), 256)) << dtype_name(dtype) << ", " << huge << " beside " << tiny;
        EXPECT_GT(std::fabs(back[0]), 50000.0f) << dtype_name(dtype);
        EXPECT_EQ(std::signbit(back[0]), std::signbit(huge)) << dtype_name(dtype);
      }
    }
  }
}

TEST(Quantise, VanishingWeightsGoToZeroOrNearby) {
  for (float tiny : {0x1p-149f, 0x1p-140f, 0x1p-127f, 0x1p-100f, 0x1p-40f, 0x1p-26f, 0x1p-22f, 0x1p-18f, 0x1p-14f}) {
    const std::vector<float> x = gaussian(256, tiny, 9);
    for (DType dtype : kBlockFormats) {
      // The smallest half is 2^-24; no rule may leave more than its steps times the number of levels.
      const std::vector<float> back = there_and_back(dtype, x);
      for (size_t i = 0; i < x.size(); ++i) {
        ASSERT_NEAR(back[i], x[i], 0.5f * std::fabs(x[i]) + 0x1p-17f) << dtype_name(dtype) << " at " << tiny;
      }
    }
  }
  // The searched formats use small integer scales under a coarse half: weights of 2^-20 are not lost.
  const std::vector<float> x = gaussian(2560, 0x1p-20f, 9);
  EXPECT_LT(rmse(x, there_and_back(DType::kQ4_K, x)), 0.15 * 0x1p-20);
  EXPECT_LT(rmse(x, there_and_back(DType::kQ5_K, x)), 0.15 * 0x1p-20);
  EXPECT_LT(rmse(x, there_and_back(DType::kQ6_K, x)), 0.08 * 0x1p-20);
}

// What is below every scale has defined bytes: the level of zero, not what an infinite inverse would leave.
TEST(Quantise, VanishedBlocksHaveTheBytesOfZero) {
  const std::vector<float> x = gaussian(256, 0x1p-140f, 9);
  const std::vector<std::byte> q4_0 = quantised(DType::kQ4_0, x), q8_0 = quantised(DType::kQ8_0, x);
  for (size_t i = 2; i < 18; ++i) ASSERT_EQ(q4_0[i], std::byte{0x88});
  for (size_t i = 2; i < 34; ++i) ASSERT_EQ(q8_0[i], std::byte{0});
  for (DType dtype : {DType::kQ4_K, DType::kQ5_K, DType::kQ6_K}) {
    for (std::byte byte : quantised(dtype, x)) ASSERT_EQ(byte, std::byte{0}) << dtype_name(dtype);
  }
}

TEST(Quantise, WhatTheFormatHoldsExactlyComesBack) {
  Rng rng(13);
  std::vector<float> grid(256);
  for (float& x : grid) x = 0.25f * static_cast<float>(static_cast<int>(rng.below(16)) - 8);
  for (size_t i = 0; i < grid.size(); i += 16) grid[i] = -2.0f, grid[i + 1] = 1.75f;  // both ends in every sub-block
  for (DType dtype : {DType::kQ4_0, DType::kQ4_1}) EXPECT_EQ(there_and_back(dtype, grid), grid) << dtype_name(dtype);
  EXPECT_LT(rmse(grid, there_and_back(DType::kQ4_K, grid)), 2e-3);
  EXPECT_LT(rmse(grid, there_and_back(DType::kQ6_K, grid)), 0.02);
}

TEST(Quantise, BlocksDoNotKnowTheirNeighbours) {
  const std::vector<float> x = gaussian(512, 1.0f, 17);
  for (DType dtype : kBlockFormats) {
    const std::vector<std::byte> both = quantised(dtype, x), second = quantised(dtype, {x.begin() + 256, x.end()});
    EXPECT_EQ(std::memcmp(both.data() + both.size() / 2, second.data(), second.size()), 0) << dtype_name(dtype);
  }
}

TEST(QuantiseDeathTest, WrongCallsStop) {
  const std::vector<float> x(256);
  std::vector<std::byte> out(1024);
  EXPECT_DEATH(quantise_row(DType::kQ3_K, x.data(), 256, out.data()), "no quantiser writes q3_k");
  EXPECT_DEATH(quantise_row(DType::kQ4_K, x.data(), 255, out.data()), "whole blocks");
}

TEST(AllFinite, SeesEveryPlace) {
  std::vector<float> x = gaussian(67, 1.0f, 1);
  x[5] = std::numeric_limits<float>::max(), x[6] = std::numeric_limits<float>::denorm_min();
  EXPECT_TRUE(all_finite(x.data(), 67));
  EXPECT_TRUE(all_finite(nullptr, 0));
  for (float bad : {INFINITY, -INFINITY, std::numeric_limits<float>::quiet_NaN()}) {
    for (size_t i = 0; i < x.size(); ++i) {
      const float kept = std::exchange(x[i], bad);
      EXPECT_FALSE(all_finite(x.data(), 67)) << i;
      EXPECT_TRUE(all_finite(x.data(), static_cast<int64_t>(i))) << i;
      x[i] = kept;
    }
  }
}

}  // namespace
}  // namespace westlake
