#include "train/muon.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace westlake {
namespace {

// Rows of one task of element-wise work, and the matrices that go through the iteration together: enough products in
// one region that small experts keep all threads busy, few enough that their numbers stay in the caches.
constexpr int64_t kPieceRows = 32;
constexpr int64_t kBatchNumbers = int64_t{1} << 20;

template <typename Real>
struct Work {
  const MuonMatrix<Real>* matrix;
  int64_t m, n;  // m <= n
  Real* x;       // [m, n]
  Real* next;    // [m, n]
  Real* a;       // [m, m]
  Real* a2;      // [m, m]
};

// Momentum and Nesterov's look ahead: u into x, transposed where there are more rows than columns.
template <typename Real>
void look_ahead(TrainContext<Real>& ctx, const MuonOptions& options, double grad_scale, const Work<Real>& w) {
  const MuonMatrix<Real>& p = *w.matrix;
  const Real mu = static_cast<Real>(options.momentum), scale = static_cast<Real>(grad_scale);
  const bool turned = p.rows > p.cols;
  ctx.for_pieces(p.rows, kPieceRows, [&](int64_t begin, int64_t end, int64_t, int) {
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t c = 0; c < p.cols; ++c) {
        const Real g = p.grad[r * p.cols + c] * scale;
        Real& momentum = p.momentum[r * p.cols + c];
        momentum = mu * momentum + (1 - mu) * g;
        w.x[turned ? c * w.n + r : r * w.n + c] = (1 - mu) * g + mu * momentum;
      }
    }
  });
}

template <typename Real>
void normalise(TrainContext<Real>& ctx, const Work<Real>& w) {
  const int64_t pieces = (w.m + kPieceRows - 1) / kPieceRows;
  std::vector<double> sums(ctx.planning ? 0 : pieces);
  ctx.for_pieces(w.m, kPieceRows, [&](int64_t begin, int64_t end, int64_t piece, int) {
    sums[piece] = ctx.kernels.sum_squares(w.x + begin * w.n, (end - begin) * w.n);
  });
  double sum = 0;
  for (const double s : sums) sum += s;
  const Real inv = static_cast<Real>(1 / (std::sqrt(sum) + 1e-7));
  ctx.for_pieces(w.m, kPieceRows, [&](int64_t begin, int64_t end, int64_t, int) {
    for (int64_t i = begin * w.n; i < end * w.n; ++i) w.x[i] *= inv;
  });
}

// One iteration for all of the batch: three regions of products.
template <typename Real>
void iterate(TrainContext<Real>& ctx, std::span<Work<Real>> batch) {
  constexpr Real a = static_cast<Real>(3.4445), b = static_cast<Real>(-4.7750), c = static_cast<Real>(2.0315);
  const ArenaScope scope(ctx.arena);
  std::vector<Product<Real>> products;
  for (const Work<Real>& w : batch) {
    products.push_back(
        {pack_left(ctx, w.x, w.n, w.m, w.n, false), pack_right(ctx, w.x, w.n, w.n, w.m, true), w.a, w.m});
  }
  multiply<Real>(ctx, products);
  products.clear();
  for (const Work<Real>& w : batch) {
    products.push_back(
        {pack_left(ctx, w.a, w.m, w.m, w.m, false), pack_right(ctx, w.a, w.m, w.m, w.m, false), w.a2, w.m});
  }
  multiply<Real>(ctx, products);
  products.clear();
  for (const Work<Real>& w : batch) {
    ctx.for_pieces(w.m, kPieceRows, [&](int64_t begin, int64_t end, int64_t, int) {
      for (int64_t i = begin * w.m; i < end * w.m; ++i) w.a[i] = b * w.a[i] + c * w.a2[i];
      for (int64_t i = begin * w.n; i < end * w.n; ++i) w.next[i] = a * w.x[i];
    });
    products.push_back(
        {pack_left(ctx, w.a, w.m, w.m, w.m, false), pack_right(ctx, w.x, w.n, w.m, w.n, false), w.next, w.n, true});
  }
  multiply<Real>(ctx, products);
  for (Work<Real>& w : batch) std::swap(w.x, w.next);
}

template <typename Real>
void apply(TrainContext<Real>& ctx, const MuonOptions& options, const Work<Real>& w) {
  const MuonMatrix<Real>& p = *w.matrix;
  const Real keep = static_cast<Real>(1 - options.lr * options.weight_decay);
  const double shape = std::max(1.0, static_cast<double>(p.rows) / static_cast<double>(p.cols));
  const Real rate = static_cast<Real>(options.lr * std::sqrt(shape));
  const bool turned = p.rows > p.cols;
  ctx.for_pieces(p.rows, kPieceRows, [&](int64_t begin, int64_t end, int64_t, int) {
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t c = 0; c < p.cols; ++c) {
        Real& value = p.value[r * p.cols + c];
        value = value * keep - rate * w.x[turned ? c * w.n + r : r * w.n + c];
      }
    }
  });
}

}  // namespace

template <typename Real>
void muon_step(TrainContext<Real>& ctx, const MuonOptions& options, double grad_scale,
               std::span<const MuonMatrix<Real>> matrices) {
  for (size_t first = 0; first < matrices.size();) {
    const ArenaScope scope(ctx.arena);
    std::vector<Work<Real>> batch;
    for (int64_t numbers = 0; first < matrices.size() && (batch.empty() || numbers < kBatchNumbers); ++first) {
      const MuonMatrix<Real>& p = matrices[first];
      Work<Real> w = {&p, std::min(p.rows, p.cols), std::max(p.rows, p.cols)};
      w.x = ctx.arena.template take<Real>(w.m * w.n);
      w.next = ctx.arena.template take<Real>(w.m * w.n);
      w.a = ctx.arena.template take<Real>(w.m * w.m);
      w.a2 = ctx.arena.template take<Real>(w.m * w.m);
      numbers += w.m * w.n;
      batch.push_back(w);
    }
    for (const Work<Real>& w : batch) look_ahead(ctx, options, grad_scale, w);
    for (const Work<Real>& w : batch) normalise(ctx, w);
    for (int i = 0; i < options.newton_schulz_steps; ++i) iterate<Real>(ctx, batch);
    for (const Work<Real>& w : batch) apply(ctx, options, w);
  }
}

template void muon_step(TrainContext<float>&, const MuonOptions&, double, std::span<const MuonMatrix<float>>);
template void muon_step(TrainContext<double>&, const MuonOptions&, double, std::span<const MuonMatrix<double>>);

}  // namespace westlake
