// Training's products at every level of this machine: against double, bit for bit over cuts, threads and levels' own
// packings, with canaries around whatever is written.
#include <gtest/gtest.h>

#include <limits>

#include "kernels/train_cases.h"

namespace westlake {
namespace {

class TrainLevels : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    level_ = train_kernels_by_name(GetParam());
    if (level_ == nullptr) GTEST_SKIP() << "SKIPPED: this machine or build has no level " << GetParam();
  }
  const TrainKernels<float>* level_ = nullptr;
};
std::string level_name(const testing::TestParamInfo<const char*>& info) {
  return info.param;
}
INSTANTIATE_TEST_SUITE_P(All, TrainLevels,
                         testing::Values("ref", "avx2", "avx512", "avx512_bf16", "avx512_amx", "avx512_amx_emulated"),
                         level_name);

// f(case) for sizes of every kind, in all orientations of both operands and both precisions.
template <typename F>
void for_each_case(F&& f) {
  const auto all = [&](ProductCase c) {
    for (int turned = 0; turned < 8; ++turned) {
      c.left_transposed = turned & 1;
      c.right_transposed = turned & 2;
      c.add = turned & 4;
      for (Precision p : {Precision::kFull, Precision::kBf16}) {
        c.precision = p;
        f(c);
      }
    }
  };
  for (int64_t n = 1; n <= 65; n += n < 34 ? 1 : 15) all({.M = 3, .N = n, .K = 7, .gap = n % 3});
  for (int64_t k = 1; k <= 67; k += k < 36 ? 1 : 31) all({.M = 5, .N = 20, .K = k, .gap = k % 2, .misalign = k % 4});
  for (int64_t m = 1; m <= 33; ++m) all({.M = m, .N = 37, .K = 19, .misalign = m % 2});
  all({.M = 31, .N = 97, .K = 1501});  // more of k than a piece of any level
}

TEST_P(TrainLevels, ProductsAreTheirEquation) {
  for_each_case([&](const ProductCase& c) {
    ProductRun run(c);
    Guarded out = run.output(), before = run.output();
    run.pack(*level_, c.M, run.panels());
    level_->multiply(c.precision, run.product(out), 0, c.M, 0, run.panels());
    for (int64_t i = 0; i < out.size(); ++i) {
      if (!run.is_output(i)) {
        ASSERT_EQ(std::bit_cast<uint32_t>(out.data()[i]), Guarded::kCanary) << c.name() << " wrote between rows";
        continue;
      }
      double size = 0;
      const double start = c.add ? before.data()[i] : 0;
      const double truth = start + run.truth(i / run.ldc(), i % run.ldc(), &size);
      const double allowed = 0x1p-23 * (2 + std::sqrt(static_cast<double>(c.K))) * (size + std::abs(start));
      ASSERT_NEAR(out.data()[i], truth, allowed) << c.name() << " at " << i;
    }
    ASSERT_TRUE(out.intact() && run.intact()) << c.name() << " wrote beyond its output";
  });
}

// Rows and panels in pieces of any size, packed and multiplied: the same bits.
TEST_P(TrainLevels, ProductsDoNotDependOnTheCut) {
  for_each_case([&](const ProductCase& c) {
    ProductRun run(c);
    Guarded whole = run.output(), pieces = run.output();
    run.pack(*level_, c.M, run.panels());
    level_->multiply(c.precision, run.product(whole), 0, c.M, 0, run.panels());
    run.pack(*level_, 3, 1);
    for (int64_t row = 0, size = 1; row < c.M; row += size, size = size % 13 + 2) {
      for (int64_t panel = 0; panel < run.panels(); ++panel)
        level_->multiply(c.precision, run.product(pieces), row, std::min(size, c.M - row), panel, 1);
    }
    for (int64_t i = 0; i < whole.size(); ++i) {
      ASSERT_EQ(std::bit_cast<uint32_t>(whole.data()[i]), std::bit_cast<uint32_t>(pieces.data()[i])) << c.name();
    }
  });
}

// A range of k of both operands is the product of that range.
TEST_P(TrainLevels, RangesOfKAreOperands) {
  for (Precision p : {Precision::kFull, Precision::kBf16}) {
    const ProductCase c = {.M = 20, .N = 50, .K = 192, .precision = p, .left_transposed = true};
    ProductRun run(c);
    run.pack(*level_, c.M, run.panels());
    Guarded out = run.output();
    Product<float> product = run.product(out);
    product.a = k_range<float>(p, product.a, 64, 96);
    product.b = k_range<float>(p, product.b, 64, 96);
    level_->multiply(p, product, 0, c.M, 0, run.panels());
    ProductRun part({.M = c.M, .N = c.N, .K = 96, .precision = p, .left_transposed = true});
    std::copy_n(run.x() + 64 * run.lda(), 96 * run.lda(), part.x());
    std::copy_n(run.w() + 64 * run.ldb(), 96 * run.ldb(), part.w());
    part.pack(*level_, c.M, part.panels());
    Guarded expected = part.output();
    level_->multiply(p, part.product(expected), 0, c.M, 0, part.panels());
    for (int64_t i = 0; i < out.size(); ++i) ASSERT_EQ(out.data()[i], expected.data()[i]) << i;
  }
}

// Both operands of a matrix in pieces of rows: the bytes that packing each alone gives.
TEST_P(TrainLevels, BothOperandsAtOnce) {
  struct Shape {
    int64_t T, D;
  };
  for (const Shape& shape : {Shape{1, 1}, {31, 5}, {32, 32}, {33, 64}, {64, 100}, {100, 33}, {96, 17}}) {
    for (Precision p : {Precision::kFull, Precision::kBf16}) {
      for (bool left : {false, true}) {
        const int64_t T = shape.T, D = shape.D, ldx = D + 3;
        Guarded x(T * ldx, 1);
        Rng rng(5);
        for (int64_t i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(rng.normal());
        const int64_t columns_bytes = left ? left_bytes<float>(p, D, T) : right_bytes<float>(p, T, D);
        OperandMemory rows(left_bytes<float>(p, T, D)), columns(columns_bytes);
        OperandMemory rows_alone(left_bytes<float>(p, T, D)), columns_alone(columns_bytes);
        for (int64_t row = 0; row < T; row += 32)
          level_->pack_both(p, x.data() + row * ldx, ldx, row, std::min<int64_t>(32, T - row), T, D, rows.data(),
                            columns.data(), left);
        level_->pack_left(p, x.data(), ldx, false, 0, T, D, rows_alone.data());
        left ? level_->pack_left(p, x.data(), ldx, true, 0, D, T, columns_alone.data())
             : level_->pack_right(p, x.data(), ldx, false, 0, (D + kPanelN - 1) / kPanelN, T, D, columns_alone.data());
        ASSERT_TRUE(rows.intact() && columns.intact());
        EXPECT_EQ(std::memcmp(rows.data(), rows_alone.data(), left_bytes<float>(p, T, D)), 0) << T << " x " << D;
        EXPECT_EQ(std::memcmp(columns.data(), columns_alone.data(), columns_bytes), 0) << T << " x " << D;
        const float* none = nullptr;
        level_->pack_both(p, none, ldx, 0, 0, 0, D, nullptr, nullptr, left);
      }
    }
  }
}

// All of several products in one region, with any number of threads: the bits of each alone.
TEST_P(TrainLevels, ManyProductsAndThreads) {
  const ProductCase cases[] = {{.M = 300, .N = 70, .K = 96}, {.M = 1, .N = 1, .K = 32}, {.M = 129, .N = 300, .K = 33}};
  std::vector<std::vector<float>> seen[2];
  for (int threads = 1; threads <= 2; ++threads) {
    ThreadPool pool(threads);
    Arena arena;
    arena.reserve(8 << 20);
    TrainContext<float> ctx{.kernels = *level_, .pool = pool, .arena = arena, .precision = Precision::kBf16};
    std::vector<Product<float>> products;
    for (const ProductCase& c : cases) {
      ProductRun run(c);
      const LeftOperand a = pack_left(ctx, run.x(), run.lda(), c.M, c.K, false);
      const RightOperand b = pack_right(ctx, run.w(), run.ldb(), c.K, c.N, false);
      seen[threads - 1].emplace_back(static_cast<size_t>(c.M * c.N), -1.0f);
      products.push_back({a, b, seen[threads - 1].back().data(), c.N, false});
    }
    multiply<float>(ctx, products);
  }
  EXPECT_EQ(seen[0], seen[1]);
  for (size_t i = 0; i < std::size(cases); ++i) {
    ProductRun run(cases[i]);
    Guarded alone = run.output();
    run.pack(*level_, cases[i].M, run.panels());
    level_->multiply(Precision::kBf16, run.product(alone), 0, cases[i].M, 0, run.panels());
    for (int64_t j = 0; j < alone.size(); ++j) ASSERT_EQ(alone.data()[j], seen[0][i][static_cast<size_t>(j)]);
  }
}

// Operands are rounded to nearest even at every level: the numbers of the operand, seen through a product with one.
TEST_P(TrainLevels, RoundingToBf16) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  std::vector<float> x = {1.0f,        0x1.01p0f,  0x1.03p0f,
                          0x1.0101p0f, -0x1.01p0f, 0x1.fffffep127f,
                          kInf,        -kInf,      std::numeric_limits<float>::quiet_NaN(),
                          0.0f,        -0.0f,      0x1p-126f,
                          3e38f,       0x1.00ffp0f};
  const float one = 1;
  std::vector<std::byte> left(x.size() * 64), right(64 * 32);
  std::vector<float> out(x.size());
  const auto M = static_cast<int64_t>(x.size());
  level_->pack_left(Precision::kBf16, x.data(), 1, false, 0, M, 1, left.data());
  level_->pack_right(Precision::kBf16, &one, 1, false, 0, 1, 1, 1, right.data());
  level_->multiply(Precision::kBf16, {{left.data(), M, 1, 64}, {right.data(), 1, 1, 64 * 32}, out.data(), 1, false}, 0,
                   M, 0, 1);
  for (size_t i = 0; i < x.size(); ++i) {
    const float expected = bf16_to_float(float_to_bf16(x[i]));
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(out[i])) << x[i];
    } else {
      EXPECT_EQ(out[i], expected) << x[i];
    }
  }
}

TEST(TrainRegistry, RefIsFirstAndTheFastestIsDefault) {
  EXPECT_EQ(available_train_kernels().front()->name, "ref");
  EXPECT_EQ(train_kernels_by_name(""), available_train_kernels().back());
  EXPECT_EQ(train_kernels_by_name("avx512_vnni"), train_kernels_by_name("avx512"));
  EXPECT_EQ(train_kernels_by_name("no such level"), nullptr);
}

}  // namespace
}  // namespace westlake
