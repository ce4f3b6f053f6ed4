// Every level of this machine against ref, bit-identity over tokens and ranges, and ref against double.
#include <gtest/gtest.h>

#include <limits>

#include "kernels/op_cases.h"
#include "kernels/ref/unpack.h"
#include "tensor/codec.h"

namespace westlake {
namespace {

constexpr DType kBlockFormats[] = {DType::kQ4_0, DType::kQ4_1, DType::kQ5_0,   DType::kQ5_1,
                                   DType::kQ8_0, DType::kQ2_K, DType::kQ3_K,   DType::kQ4_K,
                                   DType::kQ5_K, DType::kQ6_K, DType::kIQ4_NL, DType::kIQ4_XS};
constexpr DType kNumberFormats[] = {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E4M3};

// ----------------------------------------------------------------------------------------------------- the table of
// ops

void add_gemms(std::vector<OpCase>& cases) {
  for (DType dtype : kBlockFormats) {
    const int64_t block = dtype_info(dtype).block_elements;
    for (int64_t T : {1, 2, 3, 5, 8, 17, 33}) {
      cases.push_back({.op = Op::kGemmQ8, .dtype = dtype, .rows = 37, .cols = 3 * block, .T = T});
      cases.push_back({.op = Op::kGemmF32, .dtype = dtype, .rows = 19, .cols = 2 * block, .T = T, .gap = 3});
    }
    for (int64_t rows : {1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33})
      cases.push_back(
          {.op = Op::kGemmQ8, .dtype = dtype, .rows = rows, .cols = block, .T = 2, .gap = 5, .misalign = 1});
    // More blocks than a chunk of any level takes, and a tile of tokens that is not all of them.
    cases.push_back({.op = Op::kGemmQ8, .dtype = dtype, .rows = 16, .cols = block * (2048 / block) + block, .T = 1});
    cases.push_back({.op = Op::kGemmQ8, .dtype = dtype, .rows = 18, .cols = 768, .T = 131});
    cases.push_back({.op = Op::kGemmQ8, .dtype = dtype, .rows = 17, .cols = 256, .T = 200});
    cases.push_back({.op = Op::kGemmNnF32, .dtype = dtype, .rows = 35, .cols = 3 * block, .T = 5});
    for (int64_t T : {1, 2, 3, 4, 7, 11, 131})
      cases.push_back({.op = Op::kGemmQ8, .dtype = dtype, .rows = 48, .cols = 3 * block, .T = T, .panels = true});
    cases.push_back({.op = Op::kGemmQ8, .dtype = dtype, .rows = 16, .cols = 2048 + block, .T = 1, .panels = true});
    cases.push_back({.op = Op::kGemmF32, .dtype = dtype, .rows = 32, .cols = 2 * block, .T = 5, .panels = true});
    cases.push_back({.op = Op::kGemmNnF32, .dtype = dtype, .rows = 48, .cols = 3 * block, .T = 2, .panels = true});
    cases.push_back({.op = Op::kDequantise, .dtype = dtype, .rows = 16, .cols = 2 * block, .panels = true});
    cases.push_back({.op = Op::kGemmNnF32, .dtype = dtype, .rows = 1, .cols = block, .T = 1, .gap = 2, .misalign = 3});
    cases.push_back({.op = Op::kDequantise, .dtype = dtype, .rows = 5, .cols = 2 * block});
  }
  for (DType dtype : kNumberFormats) {
    for (int64_t T : {1, 2, 3, 5, 8, 17, 33}) {
      for (int64_t cols : {1, 16, 33, 260})
        cases.push_back({.op = Op::kGemmF32, .dtype = dtype, .rows = 21, .cols = cols, .T = T, .misalign = 1});
    }
    for (int64_t cols = 1; cols <= 33; ++cols) {
      cases.push_back({.op = Op::kGemmF32, .dtype = dtype, .rows = 5, .cols = cols, .T = 1, .gap = 1});
      cases.push_back({.op = Op::kGemmNnF32, .dtype = dtype, .rows = 17, .cols = cols, .T = 3, .gap = 1});
      cases.push_back({.op = Op::kDequantise, .dtype = dtype, .rows = 2, .cols = cols});
    }
    for (int64_t rows = 1; rows <= 33; ++rows)
      cases.push_back({.op = Op::kGemmF32, .dtype = dtype, .rows = rows, .cols = 40, .T = 3});
    cases.push_back({.op = Op::kGemmF32, .dtype = dtype, .rows = 9, .cols = 1100, .T = 26});
    cases.push_back({.op = Op::kGemmNnF32, .dtype = dtype, .rows = 40, .cols = 1100, .T = 9});
  }
  // One, some and many tokens; less than a block of rows; more of K than a chunk; more tokens than a tile.
  for (int64_t T : {1, 2, 3, 4, 5, 6, 7, 12, 16, 17, 33, 50}) {
    for (int64_t cols : {32, 64, 576})
      cases.push_back({.op = Op::kGemmBf16, .dtype = DType::kBF16, .rows = 37, .cols = cols, .T = T, .gap = 3});
    cases.push_back({.op = Op::kGemmBf16, .dtype = DType::kBF16, .rows = 64, .cols = 96, .T = T, .misalign = 1});
  }
  for (int64_t rows = 1; rows <= 50; ++rows)
    cases.push_back({.op = Op::kGemmBf16, .dtype = DType::kBF16, .rows = rows, .cols = 64, .T = 3});
  cases.push_back({.op = Op::kGemmBf16, .dtype = DType::kBF16, .rows = 19, .cols = 2080, .T = 7});
  cases.push_back({.op = Op::kGemmBf16, .dtype = DType::kBF16, .rows = 17, .cols = 6176, .T = 50});
  cases.push_back({.op = Op::kGemmBf16, .dtype = DType::kBF16, .rows = 33, .cols = 128, .T = 200});
  for (DType scale : {DType::kF32, DType::kF8E8M0}) {
    for (int64_t T : {1, 2, 4, 9}) {
      for (Op op : {Op::kGemmF32, Op::kGemmNnF32})
        cases.push_back({.op = op,
                         .dtype = DType::kF8E4M3,
                         .rows = 130,
                         .cols = 260,
                         .T = T,
                         .fp8_scales = true,
                         .scale_dtype = scale});
    }
    cases.push_back({.op = Op::kGemmF32,
                     .dtype = DType::kF8E4M3,
                     .rows = 3,
                     .cols = 700,
                     .T = 7,
                     .fp8_scales = true,
                     .scale_dtype = scale});
    cases.push_back({.op = Op::kDequantise,
                     .dtype = DType::kF8E4M3,
                     .rows = 130,
                     .cols = 260,
                     .fp8_scales = true,
                     .scale_dtype = scale});
  }
}

void add_rows(std::vector<OpCase>& cases) {
  std::vector<int64_t> sizes;
  for (int64_t n = 0; n <= 33; ++n) sizes.push_back(n);
  for (int64_t n : {64, 65, 127, 130, 576, 1001}) sizes.push_back(n);
  for (int64_t n : sizes) {
    for (int64_t misalign : {0, 1, 3}) {
      for (Op op : {Op::kSiluMul, Op::kAxpy, Op::kDot}) cases.push_back({.op = op, .cols = n, .misalign = misalign});
      if (n == 0) continue;
      for (Op op : {Op::kRmsNorm, Op::kSoftmax}) cases.push_back({.op = op, .cols = n, .misalign = misalign});
      if (n % 2 == 0) {
        for (Op op : {Op::kRopeInterleaved, Op::kRopeHalves})
          cases.push_back({.op = op, .cols = n, .misalign = misalign});
      }
    }
  }
  for (int64_t n : {32, 64, 128, 512}) cases.push_back({.op = Op::kHadamard, .cols = n, .misalign = n / 64});
  cases.push_back({.op = Op::kRmsNorm, .cols = 100, .gap = 4});  // without a weight
  for (int64_t n : {32, 64, 96, 576})
    cases.push_back({.op = Op::kQuantiseQ8, .cols = n, .T = 3, .gap = 7, .misalign = 1});
}

void add_attends(std::vector<OpCase>& cases) {
  struct Shape {
    int64_t keys, k_dim, v_dim, n_q, page;
  };
  for (const Shape& s : {Shape{1, 64, 64, 1, 16},
                         {5, 64, 64, 3, 2},
                         {33, 128, 128, 4, 16},
                         {130, 16, 16, 2, 7},
                         {67, 24, 24, 5, 32},
                         {40, 40, 40, 7, 64},
                         {70, 576, 512, 16, 16},
                         {129, 576, 512, 128, 64},
                         {9, 192, 128, 1, 4},
                         {31, 17, 9, 6, 3},
                         {200, 80, 80, 13, 1}}) {
    for (int64_t gap : {0, 5})
      cases.push_back({.op = Op::kAttend,
                       .rows = s.keys,
                       .cols = s.k_dim,
                       .T = s.n_q,
                       .v_dim = s.v_dim,
                       .page_tokens = s.page,
                       .causal = gap != 0 && s.keys >= s.n_q,
                       .gap = gap,
                       .misalign = gap ? 1 : 0});
  }
}

const std::vector<OpCase>& op_cases() {
  static const std::vector<OpCase> cases = [] {
    std::vector<OpCase> all;
    add_gemms(all);
    add_rows(all);
    add_attends(all);
    return all;
  }();
  return cases;
}

// --------------------------------------------------------------------------------------------------------- comparisons

bool same_bits(float a, float b) {
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b) || (std::isnan(a) && std::isnan(b));
}

// Empty when `seen` agrees with `truth` within the tolerance of the case.
std::string difference(const OpRun& op, Guarded& truth, Guarded& seen) {
  double magnitude = 0;
  for (int64_t i = 0; i < truth.size(); ++i) {
    if (op.is_output(i)) magnitude = std::max(magnitude, static_cast<double>(std::abs(truth.data()[i])));
  }
  const double allowed = op.tolerance(magnitude);
  for (int64_t i = 0; i < truth.size(); ++i) {
    const float a = truth.data()[i], b = seen.data()[i];
    if (!op.is_output(i) || allowed == 0) {
      if (!same_bits(a, b)) return fmt::format("at {}: ref {}, here {}, the same bits wanted", i, a, b);
    } else if (!(std::abs(static_cast<double>(a) - b) <= allowed)) {
      return fmt::format("at {}: ref {}, here {}, allowed {}", i, a, b, allowed);
    }
  }
  if (!seen.intact()) return "wrote beyond its output";
  if (!op.scratch_intact()) return "wrote beyond its scratch";
  return "";
}

class Levels : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    level_ = kernels_by_name(GetParam());
    if (level_ == nullptr) GTEST_SKIP() << "SKIPPED: this machine or build has no level " << GetParam();
  }
  const KernelTable* level_ = nullptr;
};

std::string level_name(const testing::TestParamInfo<const char*>& info) {
  return info.param;
}
INSTANTIATE_TEST_SUITE_P(All, Levels,
                         testing::Values("ref", "avx2", "avx512", "avx512_vnni", "avx512_bf16", "avx512_amx",
                                         "avx512_amx_emulated"),
                         level_name);

TEST_P(Levels, AgreeWithRef) {
  for (const OpCase& c : op_cases()) {
    OpRun op(c);
    if (!op.runs_on(*level_)) continue;
    Guarded truth = op.output(), seen = op.output();
    op.run(*kernels_by_name("ref"), truth);
    op.run(*level_, seen);
    const std::string wrong = difference(op, truth, seen);
    ASSERT_EQ(wrong, "") << c.name();
  }
}

// The whole at once = one token at a time = rows in odd pieces, bit for bit.
TEST_P(Levels, GemmsDoNotDependOnTheCut) {
  for (const OpCase& c : op_cases()) {
    OpRun op(c);
    if (!op.is_gemm() || !op.runs_on(*level_)) continue;
    Guarded whole = op.output(), tokens = op.output(), pieces = op.output();
    op.run(*level_, whole);
    for (int64_t t = 0; t < c.T; ++t) op.run(*level_, {0, c.rows}, t, t + 1, tokens);
    for (int64_t begin = 0, size = 1; begin < c.rows; begin += size, size = size % 13 + 3) {
      if (c.panels) size = kPanelRows;
      const RowRange rows = {begin, std::min(begin + size, c.rows)};
      op.run(*level_, rows, 0, c.T / 2, pieces);
      op.run(*level_, rows, c.T / 2, c.T, pieces);
    }
    for (int64_t i = 0; i < whole.size(); ++i) {
      ASSERT_TRUE(same_bits(whole.data()[i], tokens.data()[i])) << c.name() << ": token by token differs at " << i;
      ASSERT_TRUE(same_bits(whole.data()[i], pieces.data()[i])) << c.name() << ": rows in pieces differ at " << i;
    }
  }
}

// The same cache in pages of any size, and query rows asked alone, give the same bits.
TEST_P(Levels, AttendDoesNotDependOnPages) {
  constexpr int64_t kKeys = 77, kDim = 40, kQueries = 7;
  Rng rng(3);
  std::vector<float> cache(kKeys * kDim), q(kQueries * kDim), scratch(kQueries * kKeys);
  for (float& v : cache) v = static_cast<float>(rng.normal());
  for (float& v : q) v = static_cast<float>(rng.normal());
  const auto attend = [&](int64_t page, int queries, const float* from, float* out) {
    std::vector<const float*> pages;
    for (int64_t s = 0; s < kKeys; s += page) pages.push_back(cache.data() + s * kDim);
    level_->attend({.q = from,
                    .q_stride = kDim,
                    .n_q = queries,
                    .pages = pages.data(),
                    .page_tokens = page,
                    .row_stride = kDim,
                    .k_dim = kDim,
                    .v_dim = kDim,
                    .n_keys = kKeys,
                    .scale = 0.2f,
                    .out = out,
                    .out_stride = kDim,
                    .scratch = scratch.data()});
  };
  std::vector<float> whole(kQueries * kDim), other(kQueries * kDim);
  attend(kKeys, kQueries, q.data(), whole.data());
  for (int64_t page : {1, 3, 16, 64, 128}) {
    attend(page, kQueries, q.data(), other.data());
    EXPECT_EQ(whole, other) << "pages of " << page;
  }
  for (int i = 0; i < kQueries; ++i) attend(16, 1, q.data() + i * kDim, other.data() + i * kDim);
  EXPECT_EQ(whole, other) << "query rows one at a time";
}

// ----------------------------------------------------------------------------------------------------- unusual numbers

constexpr float kInf = std::numeric_limits<float>::infinity();
const float kNaN = std::numeric_limits<float>::quiet_NaN();

TEST_P(Levels, NanInAWeightOrAnActivationIsSeen) {
  for (DType dtype : kNumberFormats) {
    for (int64_t T : {1, 3}) {
      OpRun op({.op = Op::kGemmF32, .dtype = dtype, .rows = 5, .cols = 35, .T = T});
      auto* row2 = const_cast<std::byte*>(op.weight().row(2));
      const size_t bytes = static_cast<size_t>(dtype_info(dtype).block_bytes);
      constexpr uint32_t kNaNs = 0x7fff7fff;  // its first bytes are a NaN in bf16, f16 and f32
      std::memcpy(row2 + 34 * bytes, dtype == DType::kF8E4M3 ? "\x7f" : reinterpret_cast<const char*>(&kNaNs), bytes);
      Guarded y = op.output();
      op.run(*level_, y);
      for (int64_t i = 0; i < y.size(); ++i) EXPECT_EQ(std::isnan(y.data()[i]), i % 5 == 2) << dtype_name(dtype);
      op.x()[34] = kNaN;
      op.run(*level_, y);
      EXPECT_TRUE(std::isnan(y.data()[0]));
    }
  }
}

TEST_P(Levels, NanIsSeenInBfloat16) {
  OpRun op({.op = Op::kGemmBf16, .dtype = DType::kBF16, .rows = 5, .cols = 64, .T = 3});
  if (!op.runs_on(*level_)) GTEST_SKIP() << "SKIPPED: no products in bfloat16 at this level";
  const auto put = [&](int64_t row, int64_t k, uint16_t bits) {
    std::memcpy(const_cast<std::byte*>(op.weight().row(row)) + 2 * k, &bits, 2);
  };
  put(2, 63, 0x7fff);
  put(3, 0, 0x7f80);  // infinity
  Guarded y = op.output();
  op.run(*level_, y);
  for (int64_t i = 0; i < y.size(); ++i) {
    EXPECT_EQ(std::isnan(y.data()[i]), i % 5 == 2) << i;
    EXPECT_EQ(std::isinf(y.data()[i]), i % 5 == 3) << i;
  }
  op.x()[64 + 34] = std::bit_cast<float>(0x7f800001);  // a NaN whose upper half alone is infinity
  op.run(*level_, y);
  for (int64_t i = 0; i < y.size(); ++i) EXPECT_EQ(std::isnan(y.data()[i]), i % 5 == 2 || i / 5 == 1) << i;
}

// One token takes FP8 by a way of its own: every byte, NaN among them, and scales from the smallest to the largest.
TEST_P(Levels, Fp8OfOneTokenIsThatOfMany) {
  for (const int exponent : {1, 20, 100, 127, 134, 135, 136, 200, 246, 254}) {
    OpRun op({.op = Op::kGemmF32,
              .dtype = DType::kF8E4M3,
              .rows = 6,
              .cols = 300,
              .T = 3,
              .fp8_scales = true,
              .scale_dtype = DType::kF8E8M0});
    std::memset(const_cast<std::byte*>(op.weight().scales), exponent, 3);
    for (int64_t r = 0; r < 6; ++r) {
      auto* row = reinterpret_cast<uint8_t*>(const_cast<std::byte*>(op.weight().row(r)));
      for (int64_t k = 0; k < 300; ++k) {
        row[k] = static_cast<uint8_t>(k + 50 * r);
        if (r % 2 == 0 && (row[k] & 0x7f) == 0x7f) row[k] = 1;  // half of the rows without a NaN
      }
    }
    Guarded whole = op.output(), tokens = op.output();
    op.run(*level_, whole);
    for (int64_t t = 0; t < 3; ++t) op.run(*level_, {0, 6}, t, t + 1, tokens);
    for (int64_t i = 0; i < whole.size(); ++i) {
      const float a = whole.data()[i], b = tokens.data()[i];
      EXPECT_TRUE(same_bits(a, b) || (std::isnan(a) && std::isnan(b))) << exponent << ": " << a << " and " << b;
    }
  }
}

TEST_P(Levels, NanScaleIsSeen) {
  OpRun fp8({.op = Op::kGemmF32,
             .dtype = DType::kF8E4M3,
             .rows = 2,
             .cols = 200,
             .fp8_scales = true,
             .scale_dtype = DType::kF8E8M0});
  const_cast<std::byte&>(fp8.weight().scales[1]) = std::byte{0xff};
  Guarded y = fp8.output();
  fp8.run(*level_, y);
  EXPECT_TRUE(std::isnan(y.data()[0]) && std::isnan(y.data()[1]));
  for (DType dtype : {DType::kQ4_0, DType::kQ8_0, DType::kQ4_1, DType::kQ4_K}) {
    OpRun op({.op = Op::kGemmQ8, .dtype = dtype, .rows = 3, .cols = 256});
    std::memset(const_cast<std::byte*>(op.weight().row(1)), 0xff, 2);  // d
    Guarded out = op.output();
    op.run(*level_, out);
    EXPECT_FALSE(std::isnan(out.data()[0]));
    EXPECT_TRUE(std::isnan(out.data()[1])) << dtype_name(dtype);
  }
}

TEST_P(Levels, QuantiseUnusualBlocks) {
  constexpr int64_t kBlocks = 8;
  std::vector<float> x(32 * kBlocks, 0.0f);
  for (int i = 0; i < 32; ++i) x[32 + i] = static_cast<float>(i) - 127.5f;  // ties
  x[2 * 32 + 5] = kNaN;
  x[3 * 32 + 7] = -kInf;
  x[4 * 32 + 1] = 1e-40f;  // subnormal: too small to divide by
  x[5 * 32 + 31] = std::numeric_limits<float>::max();
  for (int i = 0; i < 32; ++i) x[6 * 32 + i] = 0x1p-99f * static_cast<float>(i - 16);
  for (int i = 0; i < 32; ++i) x[7 * 32 + i] = (static_cast<float>(i) + 0.5f) * (127.0f / 127.0f);
  x[7 * 32] = 127;
  std::vector<int8_t> qs[2];
  std::vector<float> d[2];
  std::vector<int16_t> sums[2];
  const KernelTable* tables[2] = {kernels_by_name("ref"), level_};
  for (int i = 0; i < 2; ++i) {
    qs[i].assign(x.size(), 99);
    d[i].assign(kBlocks, 99);
    sums[i].assign(2 * kBlocks, 99);
    tables[i]->quantise_q8(x.data(), 0, 1, {qs[i].data(), d[i].data(), sums[i].data(), 32 * kBlocks});
  }
  EXPECT_EQ(qs[0], qs[1]);
  EXPECT_EQ(sums[0], sums[1]);
  for (int b = 0; b < kBlocks; ++b) EXPECT_TRUE(same_bits(d[0][b], d[1][b])) << b;
  EXPECT_EQ(d[1][0], 0);
  EXPECT_TRUE(std::isnan(d[1][2]) && std::isnan(d[1][3]));
  EXPECT_EQ(d[1][4], 0);
  EXPECT_EQ(qs[1][5 * 32 + 31], 127);
  EXPECT_EQ(qs[1][7 * 32 + 1], 2) << "1.5 rounds to even";
  EXPECT_EQ(qs[1][7 * 32 + 2], 2) << "2.5 rounds to even";
}

TEST_P(Levels, SiluOfUnusualNumbers) {
  std::vector<float> gate = {kInf, -kInf, kNaN, 0, -0.0f, 1e30f, -1e30f, 88.5f, -88.5f, 89.5f, -104.5f, 1e-30f};
  for (float x = -110; x < 110; x += 0.37f) gate.push_back(x);
  std::vector<float> up(gate.size(), 1.0f), y(gate.size());
  level_->silu_mul(gate.data(), up.data(), static_cast<int64_t>(gate.size()), y.data());
  for (size_t i = 0; i < gate.size(); ++i) {
    const double x = gate[i], truth = std::isinf(x) && x < 0 ? kNaN : x / (1 + std::exp(-x));
    if (std::isnan(truth)) {
      EXPECT_TRUE(std::isnan(y[i])) << x;
    } else if (std::isinf(truth)) {
      EXPECT_EQ(y[i], truth) << x;
    } else {  // exp overflows in float32 below -88.7, so that what is smaller than 3e-37 may become zero
      EXPECT_NEAR(y[i], truth, 4e-7 * std::abs(truth) + 3e-37) << x;
    }
  }
}

TEST_P(Levels, SoftmaxOfUnusualNumbers) {
  const auto softmax = [&](std::vector<float> x) {
    level_->softmax(x.data(), static_cast<int64_t>(x.size()));
    return x;
  };
  for (size_t n : {3, 16, 40}) {
    std::vector<float> x(n, -1e30f);
    x[n - 1] = 5;
    EXPECT_EQ(softmax(x)[n - 1], 1);
    EXPECT_EQ(softmax(x)[0], 0);
    std::fill(x.begin(), x.end(), 3e38f);
    EXPECT_NEAR(softmax(x)[n / 2], 1.0 / static_cast<double>(n), 1e-7);
    x[1] = -kInf;
    EXPECT_EQ(softmax(x)[1], 0);
    x[0] = kNaN;
    for (float p : softmax(x)) EXPECT_TRUE(std::isnan(p));
    std::fill(x.begin(), x.end(), -kInf);
    for (float p : softmax(x)) EXPECT_TRUE(std::isnan(p));
  }
}

// ---------------------------------------------------------------------------------------------------- ref, held to
// truth

TEST(Ref, IntegersAndScalesAreTheCodecsNumbers) {
  Rng rng(5);
  for (DType dtype : kBlockFormats) {
    const std::vector<std::byte> row = random_weight(dtype, 1, 1024, rng);
    std::vector<float> numbers(1024);
    dequantise_row(dtype, row.data(), 1024, numbers.data());
    for (int64_t b = 0; b < 32; ++b) {
      const IntBlock block = unpack_block(dtype, row.data(), b);
      for (int i = 0; i < 32; ++i) {
        const int h = i / (32 / block.halves);
        const float expected = std::fmaf(block.scale[h], block.q[i], block.min[h]);
        ASSERT_EQ(numbers[32 * b + i], expected) << dtype_name(dtype) << " element " << 32 * b + i;
        ASSERT_TRUE(has_min(dtype) || block.min[h] == 0) << dtype_name(dtype);
      }
    }
  }
}

// y against double sums over the codec's numbers and the activations as ref quantised them.
TEST(Ref, GemmsAreTheirEquation) {
  for (const OpCase& c : op_cases()) {
    if (c.op != Op::kGemmF32 && c.op != Op::kGemmQ8 && c.op != Op::kGemmBf16) continue;
    OpRun op(c);
    Guarded y = op.output();
    op.run(*kernels_by_name("ref"), y);
    std::vector<float> w(static_cast<size_t>(c.cols));
    for (int64_t n = 0; n < c.rows; ++n) {
      dequantise_row(op.weight(), n, w.data());
      for (int64_t t = 0; t < c.T; ++t) {
        double sum = 0, size = 0;
        for (int64_t k = 0; k < c.cols; ++k) {
          const float given = op.x()[t * (c.cols + c.gap) + k];
          const double x = c.op == Op::kGemmF32 ? given
                           : c.op == Op::kGemmBf16
                               ? bf16_to_float(float_to_bf16(given))
                               : op.q8().qs_row(t)[k] * static_cast<double>(op.q8().d_row(t)[k / 32]);
          sum += x * w[static_cast<size_t>(k)];
          size += std::abs(x * w[static_cast<size_t>(k)]);
        }
        const double rounding = 0x1p-24 * (4 + std::sqrt(static_cast<double>(c.cols)));
        ASSERT_NEAR(y.data()[t * op.ldy() + n], sum, rounding * size + 1e-30) << c.name();
      }
    }
  }
}

TEST(Registry, RefIsFirstAndTheFastestIsDefault) {
  EXPECT_EQ(available_kernels().front()->name, "ref");
  EXPECT_EQ(kernels_by_name(""), available_kernels().back());
  EXPECT_EQ(kernels_by_name("ref"), available_kernels().front());
  EXPECT_EQ(kernels_by_name("no such level"), nullptr);
}

}  // namespace
}  // namespace westlake
