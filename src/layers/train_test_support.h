// A layer under test: its parameters and inputs by name, a body that runs it forward and backward, and the comparison
// of its gradients with central differences along random directions.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "base/rng.h"
#include "layers/attention_train.h"

namespace westlake {

inline const TrainKernels<double>& test_train_kernels(double) {
  return ref_train_kernels_double();
}
inline const TrainKernels<float>& test_train_kernels(float) {
  return *train_kernels_by_name("");
}

template <typename Real>
class TrainBed {
 public:
  // Computes the loss; with backward its gradients are written to the inputs' and added to the parameters'.
  using Body = std::function<double(TrainContext<Real>& ctx, bool backward)>;

  explicit TrainBed(uint64_t seed = 1, int threads = 1)
      : pool_(threads), rng_(seed), ctx_{test_train_kernels(Real()), pool_, arena_} {}

  Param<Real>* matrix(const std::string& name, int64_t rows, int64_t cols) {
    Param<Real>* p = param(name, rows, cols, 0, 1 / std::sqrt(static_cast<double>(cols)));
    matrices_.push_back({p, false});
    return p;
  }
  // A matrix whose products are in full precision whatever the context says.
  Param<Real>* router(const std::string& name, int64_t rows, int64_t cols) {
    Param<Real>* p = matrix(name, rows, cols);
    matrices_.back().full = true;
    return p;
  }
  // A matrix that the loss does not depend on.
  Param<Real>* constant_matrix(int64_t rows, int64_t cols) {
    Param<Real>* p = matrix("", rows, cols);
    constants_.push_back(leaves_.back());
    leaves_.pop_back();
    return p;
  }
  bool constants_have_no_gradient() const {
    for (const Leaf& leaf : constants_) {
      for (int64_t i = 0; i < leaf.n(); ++i) {
        if (leaf.p->grad[i] != 0) return false;
      }
    }
    return !constants_.empty();
  }
  Param<Real>* vector(const std::string& name, int64_t n, double mean) { return param(name, 1, n, mean, 0.3); }
  Param<Real>* embedding(const std::string& name, int64_t rows, int64_t cols) { return param(name, rows, cols, 0, 1); }
  // rows x cols numbers of their own with room for a gradient: `value` and `grad`.
  Param<Real>* input(const std::string& name, int64_t rows, int64_t cols) { return param(name, rows, cols, 0, 1); }

  std::vector<Real> random(int64_t n) {
    std::vector<Real> x(n);
    for (Real& v : x) v = static_cast<Real>(rng_.normal());
    return x;
  }
  const int32_t* ints(std::vector<int32_t> values) { return ints_.emplace_back(std::move(values)).data(); }

  const float* floats(std::vector<float> values) { return floats_.emplace_back(std::move(values)).data(); }
  Real* value(const std::string& name) {
    for (Leaf& leaf : leaves_) {
      if (leaf.name == name) return leaf.p->value;
    }
    return nullptr;
  }

  void set_body(Body body) {
    body_ = std::move(body);
    ctx_.planning = true;
    body_(ctx_, true);
    body_(ctx_, false);
    ctx_.planning = false;
    EXPECT_EQ(arena_.mark(), 0);
    arena_.reserve(arena_.peak_bytes());
    // NaN everywhere: who reads what nobody has written shows.
    const ArenaScope scope(arena_);
    const int64_t bytes = arena_.peak_bytes();
    std::memset(arena_.template take<std::byte>(bytes), 0xff, bytes);
  }

  double loss() {
    const ArenaScope scope(arena_);
    pack();
    return body_(ctx_, false);
  }

  // Loss and gradients, all of them one behind the other.
  std::vector<Real> gradients() {
    const ArenaScope scope(arena_);
    for (auto& leaf : leaves_) std::fill(leaf.p->grad, leaf.p->grad + leaf.n(), Real(0));
    pack();
    std::vector<Real> all = {static_cast<Real>(body_(ctx_, true))};
    for (auto& leaf : leaves_) all.insert(all.end(), leaf.p->grad, leaf.p->grad + leaf.n());
    return all;
  }

  // Every input and every parameter, along two random directions.
  void check_gradients(double tolerance = 1e-6) {
    gradients();
    for (auto& leaf : leaves_) {
      for (int direction = 0; direction < 2; ++direction) {
        const std::vector<Real> u = random(leaf.n()), start(leaf.p->value, leaf.p->value + leaf.n());
        double analytic = 0, norm = 0;
        for (int64_t i = 0; i < leaf.n(); ++i) {
          analytic += leaf.p->grad[i] * u[i];
          norm += leaf.p->grad[i] * leaf.p->grad[i];
        }
        constexpr double kStep = 1e-5;
        const auto moved = [&](double step) {
          for (int64_t i = 0; i < leaf.n(); ++i) leaf.p->value[i] = start[i] + static_cast<Real>(step * u[i]);
          return loss();
        };
        const double numeric = (moved(kStep) - moved(-kStep)) / (2 * kStep);
        std::copy(start.begin(), start.end(), leaf.p->value);
        EXPECT_GT(norm, 0) << leaf.name << " has no gradient";
        const double size = std::max({std::fabs(numeric), std::sqrt(norm) * 0.1, 1e-12});
        EXPECT_LT(std::fabs(numeric - analytic) / size, tolerance)
            << leaf.name << ": " << analytic << ", by differences " << numeric;
      }
    }
  }

  TrainContext<Real>& ctx() { return ctx_; }

 private:
  struct Leaf {
    std::string name;
    Param<Real>* p;
    int64_t n() const { return p->rows * p->cols; }
  };

  struct Matrix {
    Param<Real>* p;
    bool full;
  };

  Param<Real>* param(const std::string& name, int64_t rows, int64_t cols, double mean, double deviation) {
    std::vector<Real>& value = numbers_.emplace_back(random(rows * cols));
    for (Real& v : value) v = static_cast<Real>(mean + deviation * v);
    std::vector<Real>& grad = numbers_.emplace_back(rows * cols);
    Param<Real>& p = params_.emplace_back();
    p.rows = rows;
    p.cols = cols;
    p.value = value.data();
    p.grad = grad.data();
    leaves_.push_back({name, &p});
    return &p;
  }

  void pack() {
    operands_.clear();
    for (const Matrix& matrix : matrices_) {
      Param<Real>* p = matrix.p;
      TrainContext<Real> ctx = ctx_;
      if (matrix.full) ctx.precision = Precision::kFull;
      const auto side = [&](bool transposed) {
        const int64_t K = transposed ? p->cols : p->rows, N = transposed ? p->rows : p->cols;
        auto& memory = operands_.emplace_back(right_bytes<Real>(ctx.precision, K, N) / sizeof(Aligned) + 1);
        return pack_right(ctx, p->value, p->cols, K, N, transposed, memory.data()->bytes);
      };
      p->forward = side(true);
      p->backward = side(false);
    }
  }

  struct alignas(64) Aligned {
    std::byte bytes[64];
  };
  ThreadPool pool_;
  Arena arena_;
  Rng rng_;
  TrainContext<Real> ctx_;
  Body body_;
  std::deque<std::vector<Real>> numbers_;
  std::deque<std::vector<int32_t>> ints_;
  std::deque<std::vector<Aligned>> operands_;
  std::deque<Param<Real>> params_;
  std::deque<std::vector<float>> floats_;
  std::vector<Matrix> matrices_;
  std::vector<Leaf> leaves_, constants_;
};

// A body's loss: weights . out, whose gradient by out is `weights`.
template <typename Real>
double projected(const TrainContext<Real>& ctx, const std::vector<Real>& weights, const Real* out) {
  double sum = 0;
  for (size_t i = 0; !ctx.planning && i < weights.size(); ++i)
    sum += static_cast<double>(weights[i]) * static_cast<double>(out[i]);
  return sum;
}

// `make` builds the case in a bed. Differences in double; the same bits for 1, 2 and 3 threads in float, for operands
// of both precisions.
template <typename Make>
void check_layer(Make make) {
  {
    TrainBed<double> bed;
    make(bed);
    bed.check_gradients();
  }
  for (const Precision precision : {Precision::kFull, Precision::kBf16}) {
    std::vector<float> expected;
    for (const int threads : {1, 2, 3}) {
      TrainBed<float> bed(1, threads);
      bed.ctx().precision = precision;
      make(bed);
      const std::vector<float> seen = bed.gradients();
      if (expected.empty()) expected = seen;
      EXPECT_TRUE(seen == expected) << threads << " threads";
    }
  }
}

// Two rows of seven tokens; the first of three documents, the second of one and a last token of its own.
template <typename Real>
TrainRows documents(TrainBed<Real>& bed) {
  return {2, 7, bed.ints({0, 0, 0, 3, 3, 5, 5, 0, 0, 0, 0, 0, 0, 6})};
}

}  // namespace westlake
