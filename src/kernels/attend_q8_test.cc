// Attention over int8 keys and values: every level against ref, ref against softmax in double, and the pieces of it.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "base/rng.h"
#include "kernels/kernels.h"

namespace westlake {
namespace {

constexpr double kLog2e = 1.4426950408889634;

struct Shape {
  int64_t heads, tokens, start;  // rows: tokens x heads, the first token sees start + 1 keys
  std::vector<int64_t> k_dims;
  int64_t v_dim;
  bool latent;  // values are the first part of the key, as MLA's
};

// A cache of one layer behind some other floats, and a query.
class Case {
 public:
  explicit Case(const Shape& shape) : shape_(shape) {
    Rng rng(7);
    for (int64_t d : shape.k_dims) k_dim_ += d;
    row_bytes_ = k_dim_ + (shape.latent ? 0 : shape.v_dim);
    parts_ = static_cast<int64_t>(shape.k_dims.size()) + (shape.latent ? 0 : 1);
    const int64_t keys = shape.start + shape.tokens;
    for (int64_t s = 0; s < keys; s += kKvBlock) {
      std::vector<float>& page = pages_.emplace_back(kLayerOffset + kKvBlock * (row_bytes_ / 4 + parts_), NAN);
      auto* rows = reinterpret_cast<int8_t*>(page.data() + kLayerOffset);
      auto* scales = reinterpret_cast<float*>(rows + kKvBlock * row_bytes_);
      for (int64_t i = 0; i < std::min(kKvBlock, keys - s); ++i) {
        for (int64_t k = 0; k < row_bytes_; ++k) rows[i * row_bytes_ + k] = static_cast<int8_t>(rng.below(255) - 127);
        for (int64_t p = 0; p < parts_; ++p)
          scales[p * kKvBlock + i] = static_cast<float>(0.002 + 0.02 * rng.uniform());
      }
    }
    for (auto& page : pages_) pointers_.push_back(page.data());
    q_.resize(static_cast<size_t>(rows() * (k_dim_ + 3)));
    for (float& x : q_) x = static_cast<float>(rng.normal());
  }

  int64_t rows() const { return shape_.heads * shape_.tokens; }
  int64_t v_dim() const { return shape_.v_dim; }
  int64_t keys() const { return shape_.start + shape_.tokens; }
  float* q() { return q_.data(); }

  struct Parts {
    std::vector<float> max, sum, out;
  };
  Parts run(const KernelTable& k, int64_t first_row, int64_t n, int64_t begin, int64_t end) {
    Parts parts;
    parts.max.resize(static_cast<size_t>(n));
    parts.sum.resize(static_cast<size_t>(n));
    parts.out.assign(static_cast<size_t>(n * v_dim()), NAN);
    AttendQ8Args a;
    a.q = q_.data() + first_row * (k_dim_ + 3);
    a.q_stride = k_dim_ + 3;
    a.n_q = n;
    a.heads = shape_.heads;
    a.pages = pointers_.data();
    a.page_tokens = kKvBlock;
    a.layer_offset = kLayerOffset;
    a.row_bytes = row_bytes_;
    a.k_parts = static_cast<int>(shape_.k_dims.size());
    for (int p = 0; p < a.k_parts; ++p) a.k_dims[p] = shape_.k_dims[static_cast<size_t>(p)], a.k_scale[p] = p;
    a.v_dim = v_dim();
    a.v_offset = shape_.latent ? 0 : k_dim_;
    a.v_scale = shape_.latent ? 0 : parts_ - 1;
    a.n_keys = shape_.start + 1 + first_row / shape_.heads;
    a.begin = begin;
    a.end = end;
    a.scale = static_cast<float>(kLog2e / std::sqrt(k_dim_));
    a.max = parts.max.data();
    a.sum = parts.sum.data();
    a.out = parts.out.data();
    std::vector<std::byte> scratch(static_cast<size_t>(a.scratch_bytes()) + 64, std::byte{0x5a});
    a.scratch = scratch.data();
    k.attend_q8(a);
    for (size_t i = scratch.size() - 64; i < scratch.size(); ++i) EXPECT_EQ(scratch[i], std::byte{0x5a}) << "overrun";
    return parts;
  }

  // softmax(scale q k) v of one row, from the dequantised numbers.
  std::vector<double> exact(int64_t row) const {
    std::vector<double> scores, out(static_cast<size_t>(v_dim()));
    const int64_t seen = shape_.start + 1 + row / shape_.heads;
    double top = -1e30, total = 0;
    for (int64_t s = 0; s < seen; ++s) {
      double score = 0;
      int64_t at = 0;
      for (size_t p = 0; p < shape_.k_dims.size(); at += shape_.k_dims[p++]) {
        for (int64_t k = 0; k < shape_.k_dims[p]; ++k)
          score += q_[static_cast<size_t>(row * (k_dim_ + 3) + at + k)] * number(s, at + k, static_cast<int64_t>(p));
      }
      scores.push_back(score / std::sqrt(static_cast<double>(k_dim_)));
      top = std::max(top, scores.back());
    }
    for (double& s : scores) total += s = std::exp(s - top);
    for (int64_t s = 0; s < seen; ++s) {
      for (int64_t d = 0; d < v_dim(); ++d)
        out[static_cast<size_t>(d)] += scores[static_cast<size_t>(s)] / total *
                                       number(s, shape_.latent ? d : k_dim_ + d, shape_.latent ? 0 : parts_ - 1);
    }
    return out;
  }

 private:
  static constexpr int64_t kLayerOffset = 16;
  double number(int64_t s, int64_t at, int64_t part) const {
    const float* page = pointers_[static_cast<size_t>(s / kKvBlock)] + kLayerOffset;
    const auto* rows = reinterpret_cast<const int8_t*>(page);
    const auto* scales = reinterpret_cast<const float*>(rows + kKvBlock * row_bytes_);
    return scales[part * kKvBlock + s % kKvBlock] * rows[s % kKvBlock * row_bytes_ + at];
  }

  Shape shape_;
  int64_t k_dim_ = 0, row_bytes_ = 0, parts_ = 0;
  std::vector<std::vector<float>> pages_;
  std::vector<float*> pointers_;
  std::vector<float> q_;
};

const Shape kShapes[] = {{16, 1, 0, {512, 64}, 512, true},   {16, 1, 200, {512, 64}, 512, true},
                         {5, 3, 126, {128, 64}, 128, true},  {1, 1, 63, {64}, 64, false},
                         {3, 7, 60, {64}, 64, false},        {7, 2, 700, {128}, 128, false},
                         {1, 70, 190, {128, 64}, 128, false}};

class AttendQ8 : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    level_ = kernels_by_name(GetParam());
    if (level_ == nullptr) GTEST_SKIP() << "SKIPPED: this machine or build has no level " << GetParam();
  }
  const KernelTable* level_ = nullptr;
};

INSTANTIATE_TEST_SUITE_P(All, AttendQ8, testing::Values("ref", "avx2", "avx512", "avx512_vnni"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(AttendQ8, IsSoftmaxOverTheNumbers) {
  for (const Shape& shape : kShapes) {
    Case c(shape);
    const Case::Parts parts = c.run(*level_, 0, c.rows(), 0, c.keys());
    for (int64_t i = 0; i < c.rows(); ++i) {
      const std::vector<double> truth = c.exact(i);
      double size = 0, error = 0;
      for (int64_t d = 0; d < c.v_dim(); ++d) {
        const double seen = parts.out[static_cast<size_t>(i * c.v_dim() + d)] / parts.sum[static_cast<size_t>(i)];
        size += truth[static_cast<size_t>(d)] * truth[static_cast<size_t>(d)];
        error += (seen - truth[static_cast<size_t>(d)]) * (seen - truth[static_cast<size_t>(d)]);
      }
      EXPECT_LT(std::sqrt(error / size), 0.02) << "row " << i << " of " << c.rows();  // q is int8
    }
  }
}

TEST_P(AttendQ8, AgreesWithRef) {
  for (const Shape& shape : kShapes) {
    Case c(shape);
    const Case::Parts seen = c.run(*level_, 0, c.rows(), 0, c.keys());
    const Case::Parts truth = c.run(*kernels_by_name("ref"), 0, c.rows(), 0, c.keys());
    for (int64_t i = 0; i < c.rows(); ++i) {
      const auto row = static_cast<size_t>(i);
      EXPECT_FLOAT_EQ(seen.max[row], truth.max[row]);
      EXPECT_NEAR(seen.sum[row], truth.sum[row], 1e-5 * truth.sum[row]);
      for (int64_t d = 0; d < c.v_dim(); ++d) {
        const auto at = static_cast<size_t>(i * c.v_dim() + d);
        // A weight may round to the other side: one step of 16383 of a value.
        ASSERT_NEAR(seen.out[at], truth.out[at], 1e-3 * truth.sum[row]) << "row " << i << " number " << d;
      }
    }
  }
}

TEST_P(AttendQ8, RowsDoNotDependOnEachOther) {
  for (const Shape& shape : kShapes) {
    Case c(shape);
    const Case::Parts all = c.run(*level_, 0, c.rows(), 0, c.keys());
    for (int64_t first = 0, n = shape.heads; first < c.rows(); first += n) {
      const Case::Parts some = c.run(*level_, first, n, 0, c.keys());
      EXPECT_EQ(std::memcmp(some.out.data(), all.out.data() + first * c.v_dim(), some.out.size() * sizeof(float)), 0);
      EXPECT_EQ(std::memcmp(some.sum.data(), all.sum.data() + first, some.sum.size() * sizeof(float)), 0);
    }
  }
}

TEST_P(AttendQ8, PiecesJoin) {
  Case c({16, 1, 400, {512, 64}, 512, true});
  const Case::Parts whole = c.run(*level_, 0, c.rows(), 0, c.keys());
  Case::Parts joined = c.run(*level_, 0, c.rows(), 0, 128);
  for (int64_t begin : {128, 320}) {
    Case::Parts later = c.run(*level_, 0, c.rows(), begin, begin == 128 ? 320 : c.keys());
    for (int64_t i = 0; i < c.rows(); ++i)
      level_->attend_q8_merge({&later.max[i], &later.sum[i], &later.out[i * c.v_dim()]},
                              {&joined.max[i], &joined.sum[i], &joined.out[i * c.v_dim()]}, c.v_dim());
  }
  for (int64_t i = 0; i < c.rows(); ++i) {
    EXPECT_EQ(whole.max[i], joined.max[i]);
    EXPECT_NEAR(whole.sum[i], joined.sum[i], 1e-5 * whole.sum[i]);
    for (int64_t d = 0; d < c.v_dim(); ++d)
      ASSERT_NEAR(whole.out[i * c.v_dim() + d], joined.out[i * c.v_dim() + d], 1e-4 * whole.sum[i]);
  }
  // A piece of which a row sees nothing changes nothing.
  const std::vector<float> before = joined.out;
  Case::Parts none = c.run(*level_, 0, c.rows(), 448, 512);
  for (int64_t i = 0; i < c.rows(); ++i) {
    EXPECT_EQ(none.sum[i], 0);
    level_->attend_q8_merge({&none.max[i], &none.sum[i], &none.out[i * c.v_dim()]},
                            {&joined.max[i], &joined.sum[i], &joined.out[i * c.v_dim()]}, c.v_dim());
  }
  EXPECT_EQ(before, joined.out);
}

TEST_P(AttendQ8, QuantiseRowIsRefs) {
  Rng rng(3);
  for (int64_t n : {64, 512}) {
    std::vector<float> x(static_cast<size_t>(n));
    for (float& v : x) v = static_cast<float>(rng.normal());
    for (int special = 0; special < 3; ++special) {
      if (special == 1) std::fill(x.begin(), x.end(), 1e-38f);
      if (special == 2) x[5] = NAN;
      std::vector<int8_t> a(x.size()), b(x.size());
      const float da = level_->quantise_row(x.data(), n, a.data());
      const float db = kernels_by_name("ref")->quantise_row(x.data(), n, b.data());
      EXPECT_EQ(std::isnan(da), std::isnan(db));
      if (!std::isnan(da)) {
        EXPECT_EQ(da, db);
      }
      EXPECT_EQ(a, b);
    }
  }
}

// Sums are exact and the rest is said to the bit: every level gives what ref gives.
TEST_P(AttendQ8, ExpandIsRefs) {
  struct {
    int64_t T, K, N[2];
  } const kCases[] = {{64, 512, {128, 128}}, {1, 64, {64, 128}}, {37, 128, {128, 64}}};
  for (const auto& c : kCases) {
    Rng rng(9);
    const int64_t N = c.N[0] + c.N[1], stride = c.K + 64;
    std::vector<float> w(static_cast<size_t>(N * (c.K + 1)));
    for (float& x : w) x = static_cast<float>(rng.normal());
    std::vector<int8_t> x(static_cast<size_t>(kKvBlock * stride));
    for (int8_t& each : x) each = static_cast<int8_t>(rng.below(255) - 127);
    std::vector<float> x_scale(static_cast<size_t>(c.T));
    for (float& each : x_scale) each = static_cast<float>(rng.uniform());
    const auto run = [&](const KernelTable& k, std::vector<float>* y_scale) {
      std::vector<std::byte> packed(static_cast<size_t>(N * c.K));
      std::vector<float> scale(static_cast<size_t>(N)), scratch(static_cast<size_t>(kKvBlock * 129 + 1), -7.0f);
      std::vector<int8_t> memory(static_cast<size_t>(16 * c.K)), y(static_cast<size_t>(kKvBlock * (N + 64)), 77);
      for (int64_t n = 0; n < N; n += 16)
        k.pack_q8(w.data() + n * (c.K + 1), c.K + 1, c.K, packed.data() + n * c.K, scale.data() + n, memory.data());
      y_scale->assign(static_cast<size_t>(2 * kKvBlock), -7.0f);
      ExpandQ8Args a;
      a.x = x.data();
      a.x_stride = stride;
      a.x_scale = x_scale.data();
      a.T = c.T;
      a.K = c.K;
      a.w = packed.data();
      a.w_scale = scale.data();
      a.parts[0] = {c.N[0], y.data(), y_scale->data()};
      a.parts[1] = {c.N[1], y.data() + c.N[0] + 64, y_scale->data() + kKvBlock};
      a.y_stride = N + 64;
      a.scratch = scratch.data();
      k.expand_q8(a);
      EXPECT_EQ(scratch.back(), -7.0f) << "overrun";
      return y;
    };
    std::vector<float> seen_scale, true_scale;
    const std::vector<int8_t> seen = run(*level_, &seen_scale), truth = run(*kernels_by_name("ref"), &true_scale);
    EXPECT_EQ(seen, truth);
    EXPECT_EQ(seen_scale, true_scale);
    // And ref is the product: row 0, first and last number.
    for (int64_t n : {int64_t{0}, N - 1}) {
      double product = 0, size = 0;
      for (int64_t k = 0; k < c.K; ++k) {
        const double xk = x_scale[0] * static_cast<double>(x[static_cast<size_t>(k)]);
        product += xk * w[static_cast<size_t>(n * (c.K + 1) + k)];
        size += xk * xk;
      }
      const bool second = n >= c.N[0];
      const double y = true_scale[second ? kKvBlock : 0] * truth[static_cast<size_t>(second ? n + 64 : n)];
      EXPECT_NEAR(y, product, 0.03 * std::sqrt(size)) << n;
    }
  }
}

TEST_P(AttendQ8, NanInTheQueryIsSeen) {
  Case c({2, 1, 70, {64}, 64, false});
  c.q()[3] = NAN;  // of row 0
  const Case::Parts parts = c.run(*level_, 0, 2, 0, c.keys());
  EXPECT_TRUE(std::isnan(parts.out[0] / parts.sum[0]));
  EXPECT_FALSE(std::isnan(parts.out[64] / parts.sum[1]));
}

}  // namespace
}  // namespace westlake
