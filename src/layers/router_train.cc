#include "layers/router_train.h"

#include <algorithm>
#include <cmath>

#include "layers/linear_train.h"

namespace westlake {
namespace {

constexpr int64_t kTokenPiece = 16;

template <typename Real>
TrainContext<Real> full_precision(const TrainContext<Real>& ctx) {
  TrainContext<Real> full = ctx;
  full.precision = Precision::kFull;
  return full;
}

template <typename Real>
void score(const RouterOptions& options, const Real* logits, Real* s) {
  const int64_t E = options.n_routed_experts;
  if (options.score == RouterScore::kSigmoid) {
    for (int64_t e = 0; e < E; ++e) s[e] = 1 / (1 + std::exp(-logits[e]));
    return;
  }
  const Real most = *std::max_element(logits, logits + E);
  Real sum = 0;
  for (int64_t e = 0; e < E; ++e) sum += s[e] = std::exp(logits[e] - most);
  for (int64_t e = 0; e < E; ++e) s[e] /= sum;
}

// What the chosen scores are divided by.
template <typename Real>
Real divisor(const RouterOptions& options, const Real* s, const int32_t* experts) {
  if (!options.norm_topk_prob) return 1;
  Real sum = 0;
  for (int64_t k = 0; k < options.num_experts_per_tok; ++k) sum += s[experts[k]];
  return sum + static_cast<Real>(options.norm_epsilon);
}

}  // namespace

template <typename Real>
RouterTape<Real> router_tape(TrainContext<Real>& ctx, const RouterOptions& o, const TrainRows& rows, bool balance) {
  const int64_t N = rows.tokens(), E = o.n_routed_experts, K = o.num_experts_per_tok;
  RouterTape<Real> tape;
  tape.scores = ctx.arena.template take<Real>(N * E);
  tape.experts = ctx.arena.template take<int32_t>(N * K);
  tape.weights = ctx.arena.template take<Real>(N * K);
  if (balance) tape.slope = ctx.arena.template take<Real>(rows.B * E);
  return tape;
}

template <typename Real>
void router_forward(TrainContext<Real>& ctx, const RouterOptions& o, const Param<Real>& gate, const float* bias,
                    const Real* x, int64_t N, RouterTape<Real>& tape) {
  const OpTimer timer(ctx.profile, "router");
  const int64_t E = o.n_routed_experts, K = o.num_experts_per_tok, D = gate.cols;
  const ArenaScope scope(ctx.arena);
  TrainContext<Real> full = full_precision(ctx);
  Real* logits = ctx.arena.template take<Real>(N * E);
  const Product<Real> product = {pack_left(full, x, D, N, D, false), gate.forward, logits, E};
  multiply<Real>(full, {&product, 1});
  const int64_t floats = (2 * E + 2 * o.n_group + K + 15) / 16 * 16;
  float* scratch = ctx.arena.template take<float>(floats * ctx.pool.size());
  ctx.for_pieces(N, kTokenPiece, [&](int64_t begin, int64_t end, int64_t, int thread) {
    float* choice = scratch + thread * floats;  // [E] logits, [K] weights, the rest is route_token's
    float* unused = choice + E;
    for (int64_t t = begin; t < end; ++t) {
      std::transform(logits + t * E, logits + (t + 1) * E, choice, [](Real l) { return static_cast<float>(l); });
      int32_t* experts = tape.experts + t * K;
      route_token(o, choice, bias, unused + K, experts, unused);
      Real* s = tape.scores + t * E;
      score(o, logits + t * E, s);
      const Real sum = divisor(o, s, experts);
      for (int64_t k = 0; k < K; ++k)
        tape.weights[t * K + k] = s[experts[k]] / sum * static_cast<Real>(o.routed_scaling_factor);
    }
  });
}

template <typename Real>
double balance_loss(TrainContext<Real>& ctx, const RouterOptions& o, const TrainRows& rows, const double* alpha,
                    RouterTape<Real>& tape) {
  const int64_t E = o.n_routed_experts, K = o.num_experts_per_tok, T = rows.T;
  const ArenaScope scope(ctx.arena);
  double* losses = ctx.arena.template take<double>(rows.B);
  ctx.for_pieces(rows.B, 1, [&](int64_t b, int64_t, int64_t, int) {
    Real* slope = tape.slope + b * E;
    std::fill(slope, slope + E, Real(0));
    for (int64_t i = b * T * K; i < (b + 1) * T * K; ++i) slope[tape.experts[i]] += 1;
    const double f_over_T = alpha[b] * E / (static_cast<double>(K) * T * T);  // alpha f_e / T, a pair
    for (int64_t e = 0; e < E; ++e) slope[e] *= static_cast<Real>(f_over_T);
    losses[b] = 0;
    for (int64_t t = b * T; t < (b + 1) * T; ++t) {
      Real along = 0, sum = 0;
      for (int64_t e = 0; e < E; ++e) {
        along += slope[e] * tape.scores[t * E + e];
        sum += tape.scores[t * E + e];
      }
      losses[b] += static_cast<double>(along / sum);
    }
  });
  double loss = 0;
  for (int64_t b = 0; !ctx.planning && b < rows.B; ++b) loss += losses[b];
  return loss;
}

namespace {

// One token: the gradient of its logits from those of its weights.
template <typename Real>
void token_backward(const RouterOptions& o, const Real* s, const int32_t* experts, const Real* dweights,
                    const Real* slope, Real* dlogits) {
  const int64_t E = o.n_routed_experts, K = o.num_experts_per_tok;
  Real* ds = dlogits;
  std::fill(ds, ds + E, Real(0));
  const Real S = divisor(o, s, experts), scale = static_cast<Real>(o.routed_scaling_factor) / S;
  Real along = 0;
  for (int64_t k = 0; o.norm_topk_prob && k < K; ++k) along += dweights[k] * s[experts[k]] / S;
  for (int64_t k = 0; k < K; ++k) ds[experts[k]] = scale * (dweights[k] - along);
  if (slope != nullptr) {
    Real sum = 0, mean = 0;
    for (int64_t e = 0; e < E; ++e) {
      sum += s[e];
      mean += slope[e] * s[e];
    }
    mean /= sum;
    for (int64_t e = 0; e < E; ++e) ds[e] += (slope[e] - mean) / sum;
  }
  if (o.score == RouterScore::kSigmoid) {
    for (int64_t e = 0; e < E; ++e) dlogits[e] = ds[e] * s[e] * (1 - s[e]);
    return;
  }
  Real mean = 0;
  for (int64_t e = 0; e < E; ++e) mean += ds[e] * s[e];
  for (int64_t e = 0; e < E; ++e) dlogits[e] = s[e] * (ds[e] - mean);
}

}  // namespace

template <typename Real>
void router_backward(TrainContext<Real>& ctx, const RouterOptions& o, Param<Real>& gate, const RouterTape<Real>& tape,
                     const Real* x, const TrainRows& rows, const Real* dweights, Real* dx) {
  const OpTimer timer(ctx.profile, "router backward");
  const int64_t E = o.n_routed_experts, K = o.num_experts_per_tok, D = gate.cols, N = rows.tokens();
  const ArenaScope scope(ctx.arena);
  TrainContext<Real> full = full_precision(ctx);
  Real* dlogits = ctx.arena.template take<Real>(N * E);
  ctx.for_pieces(N, kTokenPiece, [&](int64_t begin, int64_t end, int64_t, int) {
    for (int64_t t = begin; t < end; ++t) {
      const Real* slope = tape.slope == nullptr ? nullptr : tape.slope + t / rows.T * E;
      token_backward(o, tape.scores + t * E, tape.experts + t * K, dweights + t * K, slope, dlogits + t * E);
    }
  });
  const LinearTape<Real> operand = linear_tape(full, N, D);
  pack_right(full, x, D, N, D, false, operand.memory);
  const LinearGrad<Real> grads[] = {{&gate, dlogits, E}};
  linear_backward<Real>(full, operand, grads, dx, D, /*add=*/true);
}

#define WESTLAKE_FOR_REAL(Real)                                                                                   \
  template RouterTape<Real> router_tape(TrainContext<Real>&, const RouterOptions&, const TrainRows&, bool);       \
  template void router_forward(TrainContext<Real>&, const RouterOptions&, const Param<Real>&, const float*,       \
                               const Real*, int64_t, RouterTape<Real>&);                                          \
  template double balance_loss(TrainContext<Real>&, const RouterOptions&, const TrainRows&, const double*,        \
                               RouterTape<Real>&);                                                                \
  template void router_backward(TrainContext<Real>&, const RouterOptions&, Param<Real>&, const RouterTape<Real>&, \
                                const Real*, const TrainRows&, const Real*, Real*);
WESTLAKE_FOR_REAL(float)
WESTLAKE_FOR_REAL(double)
#undef WESTLAKE_FOR_REAL

}  // namespace westlake
