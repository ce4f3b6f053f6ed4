// Muon's orthogonalisation, AdamW's formula, groups and clipping, the schedule.
#include "train/optimiser.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/rng.h"
#include "train/schedule.h"

namespace westlake {
namespace {

struct Machine {
  explicit Machine(int threads = 1) : pool(threads), ctx{ref_train_kernels_double(), pool, arena} {}
  ThreadPool pool;
  Arena arena;
  TrainContext<double> ctx;
};

std::vector<double> numbers(int64_t n, uint64_t seed) {
  Rng rng(seed);
  std::vector<double> x(n);
  for (double& v : x) v = rng.normal();
  return x;
}

// The parameters of a test: their numbers stand in two vectors each.
struct Params {
  std::vector<std::vector<double>> values, grads;
  std::vector<TrainParam<double>> all;

  void add(const char* name, ParamKind kind, int64_t rows, int64_t cols) {
    values.push_back(numbers(rows * cols, values.size() + 1));
    grads.push_back(numbers(rows * cols, values.size() + 100));
    TrainParam<double> p;
    p.name = name;
    p.kind = kind;
    p.rows = rows;
    p.cols = cols;
    p.shape = kind == ParamKind::kVector ? std::vector<int64_t>{cols} : std::vector<int64_t>{rows, cols};
    all.push_back(p);
    for (size_t i = 0; i < all.size(); ++i) {
      all[i].value = values[i].data();
      all[i].grad = grads[i].data();
    }
  }
};

void reserve(Machine* m, const Optimiser<double>& optimiser) {
  m->arena.reserve(optimiser.plan(m->ctx));
}

// newton_schulz written out, without packings or batches.
std::vector<double> orthogonal(const std::vector<double>& u, int64_t rows, int64_t cols) {
  const bool turned = rows > cols;
  const int64_t m = turned ? cols : rows, n = turned ? rows : cols;
  double norm = 0;
  for (const double v : u) norm += v * v;
  norm = std::sqrt(norm) + 1e-7;
  std::vector<double> x(m * n), a(m * m), b(m * m), next(m * n);
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j) x[i * n + j] = (turned ? u[j * cols + i] : u[i * cols + j]) / norm;
  for (int step = 0; step < 5; ++step) {
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < m; ++j) {
        a[i * m + j] = 0;
        for (int64_t k = 0; k < n; ++k) a[i * m + j] += x[i * n + k] * x[j * n + k];
      }
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < m; ++j) {
        double square = 0;
        for (int64_t k = 0; k < m; ++k) square += a[i * m + k] * a[k * m + j];
        b[i * m + j] = -4.7750 * a[i * m + j] + 2.0315 * square;
      }
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < n; ++j) {
        next[i * n + j] = 3.4445 * x[i * n + j];
        for (int64_t k = 0; k < m; ++k) next[i * n + j] += b[i * m + k] * x[k * n + j];
      }
    x = next;
  }
  std::vector<double> out(rows * cols);
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < cols; ++j) out[i * cols + j] = turned ? x[j * n + i] : x[i * n + j];
  return out;
}

TEST(Muon, MovesWideAndTallMatricesAsWrittenOut) {
  for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{20, 33}, {33, 20}, {16, 16}, {70, 9}}) {
    Params params;
    params.add("w", ParamKind::kMatrix, rows, cols);
    OptimiserOptions options;
    options.clip = 0;
    options.muon.lr = 0.05;
    options.muon.weight_decay = 0.3;
    Machine m;
    Optimiser<double> optimiser = Optimiser<double>::create(params.all, options).value();
    reserve(&m, optimiser);
    std::vector<double> value = params.values[0], momentum(rows * cols), u(rows * cols);
    for (int step = 0; step < 3; ++step) {
      for (int64_t i = 0; i < rows * cols; ++i) {
        const double g = params.grads[0][i];
        momentum[i] = 0.95 * momentum[i] + 0.05 * g;
        u[i] = 0.05 * g + 0.95 * momentum[i];
      }
      const std::vector<double> U = orthogonal(u, rows, cols);
      const double rate = 0.5 * 0.05 * std::sqrt(std::max(1.0, static_cast<double>(rows) / static_cast<double>(cols)));
      for (int64_t i = 0; i < rows * cols; ++i) value[i] = value[i] * (1 - 0.5 * 0.05 * 0.3) - rate * U[i];
      optimiser.step(m.ctx, 1, 0.5);
      params.grads[0] = numbers(rows * cols, 900 + step);
      params.all[0].grad = params.grads[0].data();
    }
    for (int64_t i = 0; i < rows * cols; ++i) ASSERT_NEAR(params.values[0][i], value[i], 1e-12) << rows << "x" << cols;
  }
}

TEST(Muon, ManyMatricesAndThreadsGiveTheSameBits) {
  std::vector<std::vector<double>> results;
  for (const int threads : {1, 3}) {
    Params params;
    for (int i = 0; i < 7; ++i) params.add("w", ParamKind::kMatrix, 8 + 5 * i, 24);
    Machine m(threads);
    Optimiser<double> optimiser = Optimiser<double>::create(params.all, {}).value();
    reserve(&m, optimiser);
    optimiser.step(m.ctx, optimiser.gradient_norm(m.ctx), 1);
    std::vector<double> all;
    for (const auto& v : params.values) all.insert(all.end(), v.begin(), v.end());
    results.push_back(all);
  }
  EXPECT_EQ(results[0], results[1]);
}

TEST(AdamW, DecaysMatricesOnlyAndClips) {
  Params params;
  params.add("w", ParamKind::kEmbedding, 5, 7);
  params.add("norm", ParamKind::kVector, 1, 9);
  OptimiserOptions options;
  options.lr = 0.01;
  options.clip = 0.5;
  options.weight_decay = 0.2;
  options.vector_lr_factor = 3;
  Machine m;
  Optimiser<double> optimiser = Optimiser<double>::create(params.all, options).value();
  reserve(&m, optimiser);
  double norm = 0;
  for (const auto& g : params.grads)
    for (const double v : g) norm += v * v;
  norm = std::sqrt(norm);
  EXPECT_NEAR(optimiser.gradient_norm(m.ctx), norm, 1e-12);
  const auto before = params.values;
  optimiser.step(m.ctx, norm, 1);
  for (int p = 0; p < 2; ++p) {
    const double lr = p == 0 ? 0.01 : 0.03, decay = p == 0 ? 0.2 : 0;
    for (size_t i = 0; i < before[p].size(); ++i) {
      const double g = params.grads[p][i] * 0.5 / (norm + 1e-6);
      const double expected = before[p][i] * (1 - lr * decay) - lr * g / (std::fabs(g) + 1e-8);
      ASSERT_NEAR(params.values[p][i], expected, 1e-12);
    }
  }
}

TEST(Schedule, WarmsUpHoldsAndDecays) {
  const Schedule wsd = {ScheduleKind::kWsd, 100, 10, 0.4, 0};
  EXPECT_NEAR(wsd.factor(0), 0.1, 1e-12);
  EXPECT_NEAR(wsd.factor(9), 1, 1e-12);
  EXPECT_NEAR(wsd.factor(60), 1, 1e-12);
  EXPECT_NEAR(wsd.factor(80), 0.5, 1e-12);
  EXPECT_NEAR(wsd.factor(99), 1.0 / 40, 1e-12);
  const Schedule cosine = {ScheduleKind::kCosine, 110, 10, 0, 0.1};
  EXPECT_NEAR(cosine.factor(10), 1, 1e-12);
  EXPECT_NEAR(cosine.factor(60), 0.55, 1e-12);
  const Schedule linear = {ScheduleKind::kLinear, 110, 10, 0, 0.1};
  EXPECT_NEAR(linear.factor(10), 1, 1e-12);
  EXPECT_NEAR(linear.factor(35), 0.775, 1e-12);
  EXPECT_EQ(parse_schedule("linear").value(), ScheduleKind::kLinear);
  EXPECT_FALSE(parse_schedule("square").ok());
}

}  // namespace
}  // namespace westlake
