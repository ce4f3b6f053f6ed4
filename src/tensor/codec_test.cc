// Dequantisation against blocks that Python's `gguf` package has read, against the formulae of blocks.h one weight at a
// time, and FP8 matrices under their scales.
#include "tensor/codec.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "base/rng.h"
#include "tensor/blocks.h"
#include "tensor/golden_test_data.h"
#include "tensor/scalar.h"

namespace westlake {
namespace {

TEST(Dequantise, EqualsGgmlBitForBit) {
  const GoldenData golden("tensor/codec.json");
  int formats = 0;
  for (const auto& [name, entry] : golden.object("dequantise")) {
    const auto dtype = dtype_from_name(name);
    ASSERT_TRUE(dtype.has_value()) << name;
    const std::vector<std::byte> blocks = golden_bytes(entry["blocks"]);
    const std::vector<float> want = golden_floats(entry["numbers"]);
    ASSERT_EQ(dtype_bytes(*dtype, static_cast<int64_t>(want.size())), static_cast<int64_t>(blocks.size())) << name;
    // At an odd address, with canaries around the result.
    std::vector<std::byte> shifted(blocks.size() + 1);
    std::memcpy(shifted.data() + 1, blocks.data(), blocks.size());
    std::vector<float> got(want.size() + 2, 12345.0f);
    dequantise_row(*dtype, shifted.data() + 1, static_cast<int64_t>(want.size()), got.data() + 1);
    EXPECT_EQ(got.front(), 12345.0f) << name;
    EXPECT_EQ(got.back(), 12345.0f) << name;
    for (size_t i = 0; i < want.size(); ++i) {
      ASSERT_EQ(std::bit_cast<uint32_t>(got[i + 1]), std::bit_cast<uint32_t>(want[i])) << name << " element " << i;
    }
    ++formats;
  }
  EXPECT_EQ(formats, 14);
}

TEST(Dequantise, AnEmptyRowWritesNothing) {
  for (int i = 0; i < static_cast<int>(DType::kCount); ++i) {
    const auto dtype = static_cast<DType>(i);
    if (dtype == DType::kI8 || dtype == DType::kI32 || dtype == DType::kI64 || dtype == DType::kU8) continue;
    dequantise_row(dtype, nullptr, 0, nullptr);
  }
}

TEST(Dequantise, PlainNumbersAtOddAddresses) {
  std::byte bytes[9] = {};
  const float x[2] = {1.5f, -2.25f};
  std::memcpy(bytes + 1, x, sizeof x);
  float out[2];
  dequantise_row(DType::kF32, bytes + 1, 2, out);
  EXPECT_EQ(out[0], 1.5f);
  EXPECT_EQ(out[1], -2.25f);
  bytes[0] = std::byte{0x38}, bytes[1] = std::byte{0xff};
  dequantise_row(DType::kF8E4M3, bytes, 2, out);
  EXPECT_EQ(out[0], 1.0f);
  EXPECT_TRUE(std::isnan(out[1]));
  bytes[0] = std::byte{128}, bytes[1] = std::byte{0};
  dequantise_row(DType::kF8E8M0, bytes, 2, out);
  EXPECT_EQ(out[0], 2.0f);
  EXPECT_EQ(out[1], 0x1p-127f);
}

TEST(DequantiseDeathTest, WrongCallsStop) {
  float out[256];
  std::byte in[256] = {};
  EXPECT_DEATH(dequantise_row(DType::kI32, in, 1, out), "holds no weights");
  EXPECT_DEATH(dequantise_row(DType::kQ4_K, in, 32, out), "whole blocks");
  Mat mat{.rows = 1, .cols = 4, .data = in, .row_bytes = 16};
  EXPECT_DEATH(dequantise_row(mat, 1, out), "row 1 of 1");
}

// An FP8 matrix of [rows, cols] with scales per 128 x 128, partial blocks at both edges.
struct Fp8Case {
  Fp8Case(int64_t rows, int64_t cols, DType scale_dtype) {
    Rng rng(5);
    weights.resize(static_cast<size_t>(rows * cols));
    for (auto& weight : weights) weight = static_cast<std::byte>(rng.below(255) & 0xfe);  // never a NaN
    mat = {DType::kF8E4M3, rows, cols, weights.data(), cols, nullptr, scale_dtype};
    const int64_t n = (rows + 127) / 128 * mat.scale_cols();
    for (int64_t i = 0; i < n; ++i) {
      exact.push_back(scale_dtype == DType::kF32 ? 0.37f + static_cast<float>(i)
                                                 : std::ldexp(1.0f, static_cast<int>(i) - 5));
    }
    scales.resize(static_cast<size_t>(n) * 4 + 1);
    for (int64_t i = 0; i < n; ++i) {
      if (scale_dtype == DType::kF32) {
        std::memcpy(scales.data() + 1 + i * 4, &exact[static_cast<size_t>(i)], 4);  // at an odd address
      } else {
        scales[static_cast<size_t>(i) + 1] = static_cast<std::byte>(127 - 5 + i);
      }
    }
    mat.scales = scales.data() + 1;
  }
  std::vector<std::byte> weights, scales;
  std::vector<float> exact;
  Mat mat;
};

TEST(Dequantise, Fp8ScalesCoverBlocksOf128) {
  for (DType scale_dtype : {DType::kF32, DType::kF8E8M0}) {
    for (int64_t rows : {1, 128, 129, 300}) {
      for (int64_t cols : {1, 127, 128, 200, 385}) {
        const Fp8Case fp8(rows, cols, scale_dtype);
        std::vector<float> out(static_cast<size_t>(cols) + 1, 7.0f);
        for (int64_t row = 0; row < rows; ++row) {
          dequantise_row(fp8.mat, row, out.data());
          for (int64_t col = 0; col < cols; ++col) {
            const auto stored = std::to_integer<uint8_t>(fp8.weights[static_cast<size_t>(row * cols + col)]);
            const float scale = fp8.exact[static_cast<size_t>(row / 128 * fp8.mat.scale_cols() + col / 128)];
            ASSERT_EQ(out[static_cast<size_t>(col)], e4m3_to_float(stored) * scale) << row << ", " << col;
          }
        }
        EXPECT_EQ(out.back(), 7.0f);
      }
    }
  }
}

TEST(Dequantise, Fp8WithoutScalesIsAsStored) {
  Fp8Case fp8(2, 130, DType::kF32);
  fp8.mat.scales = nullptr;
  std::vector<float> out(130);
  dequantise_row(fp8.mat, 1, out.data());
  for (size_t i = 0; i < 130; ++i) ASSERT_EQ(out[i], e4m3_to_float(std::to_integer<uint8_t>(fp8.weights[130 + i])));
}

TEST(Dequantise, RowsOfAQuantisedMatrixStandApart) {
  std::vector<BlockQ8_0> blocks(6);  // [3, 64]
  for (int i = 0; i < 6; ++i) {
    blocks[static_cast<size_t>(i)].d = float_to_f16(1.0f);
    for (auto& q : blocks[static_cast<size_t>(i)].qs) q = static_cast<int8_t>(i + 1);
  }
  const Mat mat{.dtype = DType::kQ8_0,
                .rows = 3,
                .cols = 64,
                .data = reinterpret_cast<const std::byte*>(blocks.data()),
                .row_bytes = 2 * sizeof(BlockQ8_0)};
  float out[64];
  for (int row = 0; row < 3; ++row) {
    dequantise_row(mat, row, out);
    EXPECT_EQ(out[0], static_cast<float>(2 * row + 1));
    EXPECT_EQ(out[63], static_cast<float>(2 * row + 2));
  }
}

}  // namespace
}  // namespace westlake
