// Scratch memory, and products cut over threads: the same bits as one call of the kernel on one thread.
#include "kernels/context.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "kernels/op_cases.h"

namespace westlake {
namespace {

// ------------------------------------------------------------------------------------------------------------- scratch

TEST(Scratch, TakesAreAlignedApartAndNested) {
  Scratch scratch;
  const ScratchScope outer(scratch);
  float* a = scratch.take<float>(3);
  std::fill(a, a + 3, 1.0f);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(a) % 64, 0u);
  int8_t* inner_first = nullptr;
  {
    const ScratchScope inner(scratch);
    inner_first = scratch.take<int8_t>(100);
    std::memset(inner_first, 2, 100);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(inner_first) % 64, 0u);
  }
  EXPECT_EQ(scratch.take<int8_t>(100), inner_first) << "released memory is taken again";
  EXPECT_EQ(a[0] + a[1] + a[2], 3);
  EXPECT_NE(scratch.take<float>(0), scratch.take<float>(0)) << "pointers tell takes apart";
}

TEST(Scratch, GrowsOnceAndKeepsWhatIsHeld) {
  Scratch scratch;
  int64_t reserved = 0;
  for (int round = 0; round < 3; ++round) {
    const ScratchScope scope(scratch);
    int32_t* held = scratch.take<int32_t>(1000);
    for (int i = 0; i < 1000; ++i) held[i] = i;
    for (int64_t size : {1, 1 << 10, 1 << 19, 1 << 21, 5}) {
      float* more = scratch.take<float>(size);
      more[0] = more[size - 1] = -1;
    }
    for (int i = 0; i < 1000; ++i) ASSERT_EQ(held[i], i);
    if (round == 0) reserved = scratch.reserved_bytes();
    EXPECT_EQ(scratch.reserved_bytes(), reserved) << "warm scratch allocates nothing";
  }
}

// ------------------------------------------------------------------------------------------------------------ products

struct Product {
  std::vector<std::byte> bytes;
  std::vector<float> x;
  Mat w;
  int64_t T;

  Product(DType dtype, int64_t rows, int64_t cols, int64_t tokens, uint64_t seed) : T(tokens) {
    Rng rng(seed);
    bytes = random_weight(dtype, rows, cols, rng);
    w = {dtype, rows, cols, bytes.data(), dtype_bytes(dtype, cols)};
    x.resize(static_cast<size_t>(tokens * std::max(rows, cols)));
    for (float& v : x) v = static_cast<float>(rng.normal());
  }

  // One call of one kernel: with float32 activations, or with those of the fast path.
  std::vector<float> expected(const KernelTable& k, bool exact) const {
    std::vector<float> y(static_cast<size_t>(T * w.rows)), panel(static_cast<size_t>(kScratchRows * w.cols));
    if (!exact && w.dtype == DType::kBF16 && k.gemm_bf16 != nullptr && w.cols % 32 == 0) {
      std::vector<uint16_t> rounded(static_cast<size_t>(Bf16Rows::numbers(T, w.cols)));
      k.round_bf16(x.data(), w.cols, T, {rounded.data(), w.cols});
      k.gemm_bf16(w, {0, w.rows}, {rounded.data(), w.cols}, T, y.data(), w.rows, panel.data());
      return y;
    }
    if (exact || !is_quantised(w.dtype)) {
      k.gemm_f32(w, {0, w.rows}, x.data(), w.cols, T, y.data(), w.rows, panel.data());
      return y;
    }
    std::vector<int8_t> qs(static_cast<size_t>(T * w.cols));
    std::vector<float> d(static_cast<size_t>(T * w.cols / 32));
    std::vector<int16_t> sums(static_cast<size_t>(T * w.cols / 16));
    const Q8Rows rows = {qs.data(), d.data(), sums.data(), w.cols};
    k.quantise_q8(x.data(), w.cols, T, rows);
    k.gemm_q8(w, {0, w.rows}, rows, T, y.data(), w.rows, panel.data());
    return y;
  }
};

class Linear : public testing::TestWithParam<int> {
 protected:
  ThreadPool pool_{GetParam()};
  const KernelTable& kernels_ = *kernels_by_name("");
};
INSTANTIATE_TEST_SUITE_P(Threads, Linear, testing::Values(1, 2, 3, 7), testing::PrintToStringParamName());

TEST_P(Linear, IsTheKernelWhateverTheThreads) {
  uint64_t seed = 1;
  for (DType dtype : {DType::kQ4_0, DType::kQ6_K, DType::kBF16, DType::kF32}) {
    for (int64_t rows : {1, 15, 16, 33, 200}) {
      for (int64_t T : {0, 1, 3, 64}) {
        for (bool exact : {false, true}) {
          const Product p(dtype, rows, 512, T, ++seed);
          Context ctx = {kernels_, pool_, exact};
          std::vector<float> y(static_cast<size_t>(T * rows));
          linear(ctx, p.w, p.x.data(), 512, T, y.data(), rows);
          EXPECT_EQ(y, p.expected(kernels_, exact)) << dtype_name(dtype) << ' ' << rows;
          std::fill(y.begin(), y.end(), 0.0f);
          linear_f32(ctx, p.w, p.x.data(), 512, T, y.data(), rows);
          EXPECT_EQ(y, p.expected(kernels_, true)) << dtype_name(dtype) << ' ' << rows;
        }
      }
    }
  }
}

// Jobs of different shapes, dtypes and token counts, some with the same input.
TEST_P(Linear, JobsAreEachTheirProduct) {
  std::vector<Product> products;
  products.emplace_back(DType::kQ4_K, 100, 512, 5, 1);
  products.emplace_back(DType::kQ4_0, 33, 512, 5, 2);
  products.emplace_back(DType::kBF16, 7, 77, 2, 3);
  products.emplace_back(DType::kQ8_0, 300, 256, 0, 4);
  products.emplace_back(DType::kQ8_0, 300, 256, 40, 5);
  products.emplace_back(DType::kF32, 64, 512, 5, 6);
  products.emplace_back(DType::kBF16, 40, 512, 5, 7);
  products.emplace_back(DType::kBF16, 24, 512, 5, 8);
  products.emplace_back(DType::kBF16, 24, 256, 37, 9);
  // Neighbours with one input, of one kind and of two.
  products[1].x = products[0].x;
  products[7].x = products[6].x = products[5].x;
  std::vector<std::vector<float>> y;
  for (const Product& p : products) y.emplace_back(static_cast<size_t>(p.T * p.w.rows), -1.0f);
  std::vector<LinearJob> jobs;
  for (size_t i = 0; i < products.size(); ++i) {
    const Product& p = products[i];
    const bool shares = i == 1 || (i >= 6 && i <= 7);
    jobs.push_back({&p.w, shares ? jobs.back().x : p.x.data(), p.w.cols, p.T, y[i].data(), p.w.rows});
  }
  Context ctx = {kernels_, pool_};
  linear_jobs(ctx, jobs.data(), static_cast<int>(jobs.size()));
  for (size_t i = 0; i < products.size(); ++i) EXPECT_EQ(y[i], products[i].expected(kernels_, false)) << i;
  linear_jobs(ctx, jobs.data(), 0);
  const int64_t reserved = ctx.scratch.reserved_bytes();
  linear_jobs(ctx, jobs.data(), static_cast<int>(jobs.size()));
  EXPECT_EQ(ctx.scratch.reserved_bytes(), reserved);
}

// Inputs picked by an index, and inputs silu(x) * up that are made on the way: as if their rows had been written first.
TEST_P(Linear, JobsMakeTheirInputs) {
  constexpr int64_t kRows = 50, kCols = 512;
  std::vector<int32_t> index = {3, 0, 0, 10, 7, 3, 9};
  for (int32_t t = 49; t >= 0; t -= 3) index.push_back(t);
  const int64_t T = static_cast<int64_t>(index.size());
  const auto compare = [&](const KernelTable& kernels, DType dtype, bool exact, bool fine) {
    Product p(dtype, 40, kCols, kRows, 1), q(dtype, 100, kCols, kRows, 2), up(dtype, 1, kCols, kRows, 3);
    for (size_t i = 0; i < p.x.size(); i += 301) p.x[i] *= 200;  // rests
    std::vector<float> picked, gated(p.x.size());
    for (int32_t t : index) picked.insert(picked.end(), p.x.begin() + t * kCols, p.x.begin() + (t + 1) * kCols);
    kernels.silu_mul(p.x.data(), up.x.data(), kRows * kCols, gated.data());
    Context ctx = {.kernels = kernels, .pool = pool_, .exact = exact, .fine = fine};
    const auto results = [&](const std::vector<LinearJob>& jobs) {
      std::vector<std::vector<float>> y;
      for (const LinearJob& job : jobs) y.emplace_back(static_cast<size_t>(job.T * job.w->rows));
      std::vector<LinearJob> placed = jobs;
      for (size_t i = 0; i < jobs.size(); ++i) placed[i].y = y[i].data(), placed[i].ldy = jobs[i].w->rows;
      linear_jobs(ctx, placed.data(), static_cast<int>(placed.size()));
      return y;
    };
    const float *x = p.x.data(), *u = up.x.data();
    const auto made = results({{&p.w, x, kCols, kRows, nullptr, 0},
                               {&p.w, x, kCols, T, nullptr, 0, nullptr, index.data(), kRows},
                               {&q.w, x, kCols, T, nullptr, 0, nullptr, index.data(), kRows},
                               {&q.w, x, kCols, 2, nullptr, 0, nullptr, index.data() + 3, kRows},
                               {&q.w, x, kCols, kRows, nullptr, 0, u}});
    const auto written = results({{&p.w, x, kCols, kRows, nullptr, 0},
                                  {&p.w, picked.data(), kCols, T, nullptr, 0},
                                  {&q.w, picked.data(), kCols, T, nullptr, 0},
                                  {&q.w, picked.data() + 3 * kCols, kCols, 2, nullptr, 0},
                                  {&q.w, gated.data(), kCols, kRows, nullptr, 0}});
    EXPECT_EQ(made, written) << kernels.name << " " << dtype_name(dtype) << (exact ? " exact" : fine ? " fine" : "");
  };
  const KernelTable* tiles = kernels_by_name("avx512_amx_emulated");
  for (DType dtype : {DType::kQ4_0, DType::kQ6_K, DType::kF32, DType::kBF16}) {
    compare(kernels_, dtype, true, false);
    for (const bool fine : {false, true}) {
      compare(kernels_, dtype, false, fine);
      if (tiles != nullptr) compare(*tiles, dtype, false, fine);
    }
  }
}

// Jobs enough to be taken in pieces by whoever is free, one of them much larger than the others.
TEST_P(Linear, PiecesAreTheKernel) {
  const Product p(DType::kQ4_0, 1024, 1024, 32, 1), large(DType::kQ4_0, 4096, 1024, 200, 2);
  Context ctx = {kernels_, pool_};
  std::vector<std::vector<float>> y(8 * static_cast<size_t>(pool_.size()) + 1);
  std::vector<LinearJob> jobs;
  for (size_t i = 0; i < y.size(); ++i) {
    const Product& of = i == 5 ? large : p;
    y[i].resize(static_cast<size_t>(of.T * of.w.rows));
    jobs.push_back({&of.w, of.x.data(), of.w.cols, of.T, y[i].data(), of.w.rows});
  }
  linear_jobs(ctx, jobs.data(), static_cast<int>(jobs.size()));
  const std::vector<float> expected = p.expected(kernels_, false);
  for (size_t i = 0; i < y.size(); ++i) EXPECT_TRUE(y[i] == (i == 5 ? large.expected(kernels_, false) : expected)) << i;
}

// Rests of blocks with outliers: a small part of the error, the same bits whatever the threads, whatever else is in the
// call and whatever the level.
TEST_P(Linear, FineActivationsHoldOutliers) {
  for (const DType dtype : {DType::kQ4_0, DType::kQ4_1, DType::kQ6_K, DType::kQ8_0}) {
    for (const int64_t T : {1, 2, 7, 131}) {
      Product p(dtype, 83, 1536, T, 5);
      for (size_t i = 0; i < p.x.size(); i += 301) p.x[i] *= 200;
      std::vector<float> first;
      std::vector<const KernelTable*> levels = available_kernels();
      if (const KernelTable* tiles = kernels_by_name("avx512_amx_emulated")) levels.push_back(tiles);
      for (const KernelTable* kernels : levels) {
        ThreadPool pool(GetParam());
        const std::vector<float> exact = p.expected(*kernels, true), coarse = p.expected(*kernels, false);
        Context ctx{*kernels, pool};
        ctx.fine = true;
        std::vector<float> y(exact.size());
        linear(ctx, p.w, p.x.data(), p.w.cols, T, y.data(), p.w.rows);
        double fine_error = 0, coarse_error = 0;
        for (size_t i = 0; i < y.size(); ++i) {
          fine_error += std::pow(y[i] - exact[i], 2);
          coarse_error += std::pow(coarse[i] - exact[i], 2);
        }
        EXPECT_LT(fine_error, 0.1 * coarse_error) << dtype_name(dtype) << " " << kernels->name << " T " << T;
        if (first.empty()) first = y;
        EXPECT_EQ(std::memcmp(first.data(), y.data(), y.size() * sizeof(float)), 0)
            << dtype_name(dtype) << " " << kernels->name << " T " << T;
        std::vector<float> some(static_cast<size_t>(2 * p.w.rows));
        for (int64_t t = 0; t + 2 <= T; t += 43) {
          linear(ctx, p.w, p.x.data() + t * p.w.cols, p.w.cols, 2, some.data(), p.w.rows);
          EXPECT_EQ(std::memcmp(some.data(), y.data() + t * p.w.rows, some.size() * sizeof(float)), 0)
              << dtype_name(dtype) << " " << kernels->name << " token " << t;
        }
      }
    }
  }
}

TEST_P(Linear, TransposedIsTheKernel) {
  for (DType dtype : {DType::kQ4_0, DType::kF16}) {
    for (int64_t T : {1, 4, 19}) {
      const Product p(dtype, 70, 96, T, 9);
      std::vector<float> y(static_cast<size_t>(T * 96), -7.0f), expected(y.size(), 0.0f), panel(kPanelRows * 96);
      kernels_.gemm_nn_f32(p.w, {0, 70}, p.x.data(), 70, T, expected.data(), 96, panel.data());
      Context ctx = {kernels_, pool_};
      linear_transposed(ctx, p.w, p.x.data(), 70, T, y.data(), 96);
      EXPECT_EQ(y, expected) << dtype_name(dtype) << " T=" << T;
    }
  }
}

TEST(LinearDeath, WeightsWithoutDataAndWrongStrides) {
  ThreadPool pool(1);
  Context ctx = {*kernels_by_name("ref"), pool};
  float x[64] = {}, y[64] = {};
  const Mat empty = {DType::kF32, 4, 4};
  EXPECT_DEATH(linear(ctx, empty, x, 4, 1, y, 4), "without data");
  EXPECT_DEATH(linear_transposed(ctx, empty, x, 4, 1, y, 4), "without data");
  const Mat w = {DType::kF32, 4, 4, reinterpret_cast<const std::byte*>(x), 16};
  EXPECT_DEATH(linear(ctx, w, x, 3, 2, y, 4), "ldx 3");
}

}  // namespace
}  // namespace westlake
