#include "train/optimiser.h"

#include <cmath>

namespace westlake {
namespace {

// Numbers of one task: 64 KB of each stream.
constexpr int64_t kPiece = 16384;

double rate_factor(const OptimiserOptions& options, ParamKind kind) {
  switch (kind) {
    case ParamKind::kEmbedding:
      return options.embedding_lr_factor;
    case ParamKind::kHead:
      return options.head_lr_factor;
    case ParamKind::kRouter:
      return options.router_lr_factor;
    case ParamKind::kVector:
      return options.vector_lr_factor;
    case ParamKind::kMatrix:
      break;
  }
  return 1;
}

}  // namespace

template <typename Real>
Result<Optimiser<Real>> Optimiser<Real>::create(std::span<TrainParam<Real>> params, const OptimiserOptions& options) {
  Optimiser made(options);
  for (TrainParam<Real>& p : params) {
    const bool muon = options.kind == OptimiserKind::kMuon && p.kind == ParamKind::kMatrix;
    const bool decay = p.kind != ParamKind::kVector;
    made.entries_.push_back({&p, muon, rate_factor(options, p.kind), decay, nullptr, nullptr});
    made.numbers_ += p.rows * p.cols * (muon ? 1 : 2);
  }
  TRY_ASSIGN(made.storage_, PageMemory::allocate(made.state_bytes()));  // zero
  Real* next = reinterpret_cast<Real*>(made.storage_.data());
  for (Entry& e : made.entries_) {
    const int64_t n = e.param->rows * e.param->cols;
    e.first = next;
    next += n;
    if (e.muon) continue;
    e.second = next;
    next += n;
  }
  return made;
}

template <typename Real>
double Optimiser<Real>::gradient_norm(TrainContext<Real>& ctx) const {
  const OpTimer timer(ctx.profile, "gradient norm");
  double sum = 0;
  std::vector<double> sums;
  for (const Entry& e : entries_) {
    const int64_t n = e.param->rows * e.param->cols;
    sums.assign((n + kPiece - 1) / kPiece, 0);
    ctx.for_pieces(n, kPiece, [&](int64_t begin, int64_t end, int64_t piece, int) {
      sums[piece] = ctx.kernels.sum_squares(e.param->grad + begin, end - begin);
    });
    for (const double s : sums) sum += s;
  }
  return std::sqrt(sum);
}

template <typename Real>
void Optimiser<Real>::muon(TrainContext<Real>& ctx, double scale, double lr_factor) const {
  const OpTimer timer(ctx.profile, "muon");
  std::vector<MuonMatrix<Real>> matrices;
  for (const Entry& e : entries_) {
    if (e.muon) matrices.push_back({e.param->rows, e.param->cols, e.param->value, e.param->grad, e.first});
  }
  MuonOptions options = options_.muon;
  options.lr *= lr_factor;
  muon_step<Real>(ctx, options, scale, matrices);
}

template <typename Real>
void Optimiser<Real>::step(TrainContext<Real>& ctx, double norm, double lr_factor) {
  const double scale = options_.clip > 0 && norm > options_.clip ? options_.clip / (norm + 1e-6) : 1;
  ++steps_;
  const OpTimer timer(ctx.profile, "adamw");
  AdamWArgs args;
  args.beta1 = options_.beta1;
  args.beta2 = options_.beta2;
  args.eps = options_.eps;
  args.step = steps_;
  args.grad_scale = scale;
  for (const Entry& e : entries_) {
    if (e.muon) continue;
    args.lr = options_.lr * lr_factor * e.lr_factor;
    args.weight_decay = e.decay ? options_.weight_decay : 0;
    ctx.for_pieces(e.param->rows * e.param->cols, kPiece, [&](int64_t begin, int64_t end, int64_t, int) {
      ctx.kernels.adamw(args, e.param->grad + begin, end - begin, e.param->value + begin, e.first + begin,
                        e.second + begin);
    });
  }
  muon(ctx, scale, lr_factor);
}

template <typename Real>
int64_t Optimiser<Real>::plan(const TrainContext<Real>& ctx) const {
  Arena arena;
  TrainContext<Real> dry = {ctx.kernels, ctx.pool, arena, ctx.precision, true};
  muon(dry, 1, 1);
  return arena.peak_bytes();
}

template <typename Real>
int64_t Optimiser<Real>::state_bytes() const {
  return numbers_ * static_cast<int64_t>(sizeof(Real));
}

template <typename Real>
std::vector<StateTensor<Real>> Optimiser<Real>::state() {
  std::vector<StateTensor<Real>> tensors;
  for (const Entry& e : entries_) {
    const int64_t n = e.param->rows * e.param->cols;
    tensors.push_back({e.param->name + (e.muon ? ".momentum" : ".m"), e.param->shape, e.first, n});
    if (!e.muon) tensors.push_back({e.param->name + ".v", e.param->shape, e.second, n});
  }
  return tensors;
}

template class Optimiser<float>;
template class Optimiser<double>;

}  // namespace westlake
