// Training's attention and row kernels at every level of this machine against ref: sizes 0..2N+1, misaligned, canaries.
#include <gtest/gtest.h>

#include <functional>

#include "kernels/train_cases.h"

namespace westlake {
namespace {

class TrainRows : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    level_ = train_kernels_by_name(GetParam());
    if (level_ == nullptr) GTEST_SKIP() << "SKIPPED: this machine or build has no level " << GetParam();
  }
  const TrainKernels<float>* level_ = nullptr;
  const TrainKernels<float>* ref_ = train_kernels_by_name("ref");
};
std::string level_name(const testing::TestParamInfo<const char*>& info) {
  return info.param;
}
INSTANTIATE_TEST_SUITE_P(All, TrainRows,
                         testing::Values("ref", "avx2", "avx512", "avx512_bf16", "avx512_amx", "avx512_amx_emulated"),
                         level_name);

// Random floats, the same for the same seed, with canaries.
Guarded random(int64_t n, int64_t misalign, uint64_t seed, float least = -1e30f) {
  Rng rng(seed);
  Guarded g(n, misalign);
  for (int64_t i = 0; i < n; ++i) g.data()[i] = std::max(least, static_cast<float>(rng.normal()));
  return g;
}

// The arrays of a kernel; run on copies by ref and by the level, and compared: all of them, inputs as well.
using Arrays = std::vector<Guarded>;
using Kernel = std::function<double(const TrainKernels<float>&, Arrays&)>;

void expect_agree(const TrainKernels<float>& ref, const TrainKernels<float>& level, Arrays arrays, const Kernel& kernel,
                  double eps, const std::string& what) {
  Arrays seen = arrays;
  const double a = kernel(ref, arrays), b = kernel(level, seen);
  ASSERT_NEAR(b, a, eps * std::max(1.0, std::abs(a))) << what << " returned";
  for (size_t k = 0; k < arrays.size(); ++k) {
    ASSERT_TRUE(seen[k].intact()) << what << ": array " << k << " was written beyond its end";
    double size = 0;
    for (int64_t i = 0; i < seen[k].size(); ++i) {
      if (!std::isnan(arrays[k].data()[i])) size = std::max(size, static_cast<double>(std::abs(arrays[k].data()[i])));
    }
    for (int64_t i = 0; i < seen[k].size(); ++i) {
      const float x = arrays[k].data()[i], y = seen[k].data()[i];
      if (std::bit_cast<uint32_t>(x) == std::bit_cast<uint32_t>(y)) continue;
      ASSERT_NEAR(x, y, eps * size) << what << ": array " << k << " at " << i << " of " << seen[k].size();
    }
  }
}

TEST_P(TrainRows, RowKernelsAgreeWithRef) {
  constexpr double kEps = 0x1p-23;
  std::vector<int64_t> sizes = {64, 65, 127, 130, 576, 1001, 8192};
  for (int64_t n = 0; n <= 35; ++n) sizes.push_back(n);
  for (int64_t n : sizes) {
    for (int64_t off : {0, 1, 3}) {
      const auto arrays = [&](int count) {
        Arrays all;
        for (int i = 0; i < count; ++i) all.push_back(random(n, off, static_cast<uint64_t>(n * 16 + i)));
        return all;
      };
      const double root = std::sqrt(static_cast<double>(n) + 1);
      const auto check = [&](const char* name, Arrays a, double eps, const Kernel& kernel) {
        expect_agree(*ref_, *level_, std::move(a), kernel, eps, fmt::format("{} n={} off={}", name, n, off));
      };
      using K = const TrainKernels<float>&;
      check("axpy", arrays(2), 2 * kEps, [&](K k, Arrays& a) {
        k.axpy(0.7f, a[0].data(), n, a[1].data());
        return 0.0;
      });
      check("dot", arrays(2), 2 * kEps * root,
            [&](K k, Arrays& a) { return static_cast<double>(k.dot(a[0].data(), a[1].data(), n)) / root; });
      check("sum_squares", arrays(1), 4 * kEps, [&](K k, Arrays& a) { return k.sum_squares(a[0].data(), n); });
      check("silu_mul", arrays(3), 8 * kEps, [&](K k, Arrays& a) {
        k.silu_mul(a[0].data(), a[1].data(), n, a[2].data());
        return 0.0;
      });
      check("silu_mul_backward", arrays(5), 8 * kEps, [&](K k, Arrays& a) {
        k.silu_mul_backward(a[0].data(), a[1].data(), a[2].data(), n, a[3].data(), a[4].data());
        return 0.0;
      });
      check("silu_mul_backward in place", arrays(3), 8 * kEps, [&](K k, Arrays& a) {
        k.silu_mul_backward(a[0].data(), a[1].data(), a[2].data(), n, a[0].data(), a[1].data());
        return 0.0;
      });
      Arrays moments = arrays(3);
      moments.push_back(random(n, off, 99, 0.0f));
      for (double step : {1.0, 10.0, 1000.0}) {
        check("adamw", moments, 8 * kEps, [&](K k, Arrays& a) {
          const AdamWArgs args = {
              .lr = 0.1, .weight_decay = 0.1, .step = static_cast<int64_t>(step), .grad_scale = 0.5};
          k.adamw(args, a[0].data(), n, a[1].data(), a[2].data(), a[3].data());
          return 0.0;
        });
      }
      if (n == 0) continue;
      check("rms_norm", arrays(3), 4 * kEps * root, [&](K k, Arrays& a) {
        return static_cast<double>(k.rms_norm(a[0].data(), a[1].data(), 1e-5f, n, a[2].data()));
      });
      check("rms_norm_backward", arrays(5), 4 * kEps * root, [&](K k, Arrays& a) {
        k.rms_norm_backward(a[0].data(), a[1].data(), 0.9f, a[2].data(), n, a[3].data(), a[4].data());
        return 0.0;
      });
      for (int64_t target : {int64_t{0}, n / 2, n - 1}) {
        check("cross_entropy", arrays(1), 4 * kEps * root,
              [&](K k, Arrays& a) { return k.cross_entropy(a[0].data(), n, target, 0.25f); });
      }
      if (n % 2 != 0) continue;
      for (bool halves : {false, true}) {
        for (bool back : {false, true}) {
          check("rope", arrays(3), 4 * kEps, [&](K k, Arrays& a) {
            k.rope(a[0].data(), a[1].data(), a[2].data(), n, halves, back);
            return 0.0;
          });
        }
      }
    }
  }
}

TEST_P(TrainRows, LargeLogitsAndNan) {
  std::vector<float> logits(50, -1e30f);
  logits[7] = 300;
  logits[9] = 300;
  EXPECT_NEAR(level_->cross_entropy(logits.data(), 50, 7, 1.0f), std::log(2.0), 1e-6);
  EXPECT_NEAR(logits[7], -0.5f, 1e-6);
  EXPECT_NEAR(logits[9], 0.5f, 1e-6);
  EXPECT_EQ(logits[0], 0);
  logits[3] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(std::isnan(level_->cross_entropy(logits.data(), 50, 7, 1.0f)));
}

// --------------------------------------------------------------------------------------------------------- attention

struct AttendCase {
  int64_t T, k_dim, v_dim;
  std::vector<int32_t> borders;  // first tokens of the documents after the first
};

// Output, lse, and what the backward pass adds to or writes.
struct AttendRun {
  AttendCase c;
  int64_t gap;
  Guarded q, k, v, dout, out, lse, dq, dk, dv;
  std::vector<int32_t> doc_start;

  AttendRun(const AttendCase& shape, int64_t gap)
      : c(shape),
        gap(gap),
        q(random(c.T * (c.k_dim + gap), gap, 1)),
        k(random(c.T * (c.k_dim + gap), gap, 2)),
        v(random(c.T * (c.v_dim + gap), gap, 3)),
        dout(random(c.T * (c.v_dim + gap), gap, 4)),
        out(c.T * (c.v_dim + gap), gap),
        lse(c.T, gap),
        dq(c.T * (c.k_dim + gap), gap),
        dk(random(c.T * (c.k_dim + gap), gap, 5)),
        dv(random(c.T * (c.v_dim + gap), gap, 6)) {
    int32_t start = 0;
    for (int32_t i = 0; i < c.T; ++i) {
      for (int32_t border : c.borders) start = border == i ? i : start;
      doc_start.push_back(start);
    }
  }
  void run(const TrainKernels<float>& level, Precision precision) {
    const int64_t bytes = level.attend_scratch_bytes(c.T, c.k_dim, c.v_dim);
    OperandMemory scratch(bytes);
    const TrainAttendArgs<float> args = {.T = c.T,
                                         .q = q.data(),
                                         .k = k.data(),
                                         .v = v.data(),
                                         .q_stride = c.k_dim + gap,
                                         .k_stride = c.k_dim + gap,
                                         .v_stride = c.v_dim + gap,
                                         .k_dim = c.k_dim,
                                         .v_dim = c.v_dim,
                                         .doc_start = doc_start.data(),
                                         .scale = 1 / std::sqrt(static_cast<float>(c.k_dim)),
                                         .precision = precision,
                                         .out = out.data(),
                                         .out_stride = c.v_dim + gap,
                                         .lse = lse.data(),
                                         .scratch = scratch.data()};
    level.attend(args);
    level.attend_backward(args, {.dout = dout.data(),
                                 .dout_stride = c.v_dim + gap,
                                 .dq = dq.data(),
                                 .dk = dk.data(),
                                 .dv = dv.data(),
                                 .dq_stride = c.k_dim + gap,
                                 .dk_stride = c.k_dim + gap,
                                 .dv_stride = c.v_dim + gap});
    ASSERT_TRUE(scratch.intact()) << "wrote beyond its scratch";
  }
};

void expect_same_rows(Guarded& a, Guarded& b, int64_t dim, int64_t gap, double eps, const std::string& what) {
  ASSERT_TRUE(b.intact()) << what;
  double size = 1;
  for (int64_t i = 0; i < a.size(); ++i) {
    if (i % (dim + gap) < dim) size = std::max(size, static_cast<double>(std::abs(a.data()[i])));
  }
  for (int64_t i = 0; i < a.size(); ++i) {
    if (i % (dim + gap) >= dim) {
      ASSERT_EQ(std::bit_cast<uint32_t>(a.data()[i]), std::bit_cast<uint32_t>(b.data()[i])) << what << " between rows";
    } else {
      ASSERT_NEAR(a.data()[i], b.data()[i], eps * size) << what << " at " << i;
    }
  }
}

const std::vector<AttendCase>& attend_cases() {
  static const std::vector<AttendCase> cases = {{1, 16, 16, {}},           {2, 16, 32, {1}},
                                                {63, 64, 64, {}},          {64, 48, 32, {5}},
                                                {65, 17, 9, {64}},         {130, 64, 64, {1, 2, 3, 70}},
                                                {200, 192, 128, {}},       {257, 32, 16, {128}},
                                                {300, 40, 24, {250, 299}}, {513, 16, 16, {200, 300, 301}}};
  return cases;
}

TEST_P(TrainRows, AttentionAgreesWithRef) {
  for (const AttendCase& c : attend_cases()) {
    for (int64_t gap : {0, 3}) {
      for (Precision p : {Precision::kFull, Precision::kBf16}) {
        AttendRun truth(c, gap), seen(c, gap);
        truth.run(*ref_, p);
        seen.run(*level_, p);
        // float32: sums of up to T terms; bf16: operands within 2^-9 of theirs, and probabilities rounded as well.
        const double eps = p == Precision::kFull ? 0x1p-21 * std::sqrt(static_cast<double>(c.T + c.k_dim)) : 0x1p-6;
        const std::string what =
            fmt::format("T={} k={} v={} gap={} {}", c.T, c.k_dim, c.v_dim, gap, p == Precision::kFull ? "f32" : "bf16");
        expect_same_rows(truth.out, seen.out, c.v_dim, gap, eps, what + " out");
        expect_same_rows(truth.lse, seen.lse, c.T, 0, eps, what + " lse");
        expect_same_rows(truth.dq, seen.dq, c.k_dim, gap, eps, what + " dq");
        expect_same_rows(truth.dk, seen.dk, c.k_dim, gap, eps, what + " dk");
        expect_same_rows(truth.dv, seen.dv, c.v_dim, gap, eps, what + " dv");
      }
    }
  }
}

// Tokens of other documents, before or after, change nothing: a document alone gives the same numbers.
TEST_P(TrainRows, DocumentsDoNotSeeEachOther) {
  for (Precision p : {Precision::kFull, Precision::kBf16}) {
    const AttendCase both = {200, 32, 32, {100}};
    AttendRun whole(both, 0), changed(both, 0);
    for (int64_t i = 0; i < 100 * 32; ++i) changed.k.data()[i] = changed.v.data()[i] = 7;
    whole.run(*level_, p);
    changed.run(*level_, p);
    for (int64_t i = 100 * 32; i < 200 * 32; ++i) {
      ASSERT_EQ(whole.out.data()[i], changed.out.data()[i]);
      ASSERT_EQ(whole.dk.data()[i], changed.dk.data()[i]);
    }
    AttendRun later({200, 32, 32, {}}, 0);  // keys after a query
    AttendRun other = later;
    for (int64_t i = 150 * 32; i < 200 * 32; ++i) other.k.data()[i] = other.v.data()[i] = -3;
    later.run(*level_, p);
    other.run(*level_, p);
    for (int64_t i = 0; i < 150 * 32; ++i) ASSERT_EQ(later.out.data()[i], other.out.data()[i]);
  }
}

}  // namespace
}  // namespace westlake
