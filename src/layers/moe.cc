#include "layers/moe.h"

#include <algorithm>

namespace westlake {
namespace {

// Pairs (token, k) grouped by expert: those of expert e stand at [start[e], start[e + 1]), ascending in token.
struct Dispatch {
  int32_t* experts;  // [T, K]
  float* weights;    // [T, K]
  int64_t* start;    // [E + 1]
  int64_t* slot;     // [T, K]: where the pair stands in the grouped order
  int32_t* token;    // [T K], in the grouped order: whose pair it is
};

Dispatch route(Context& ctx, const RouterOptions& options, const MoeParams& params, const float* x, int64_t T) {
  const int64_t E = options.n_routed_experts, K = options.num_experts_per_tok, D = params.gate.cols;
  const OpTimer timer(ctx.profile, "router");
  Dispatch d;
  d.experts = ctx.scratch.take<int32_t>(T * K);
  d.weights = ctx.scratch.take<float>(T * K);
  d.start = ctx.scratch.take<int64_t>(E + 1);
  d.slot = ctx.scratch.take<int64_t>(T * K);
  d.token = ctx.scratch.take<int32_t>(T * K);
  ScratchScope scope(ctx.scratch);
  float* logits = ctx.scratch.take<float>(T * E);
  linear_f32(ctx, params.gate, x, D, T, logits, E);
  const int64_t scratch_size = E + 2 * options.n_group;
  float* scratch = ctx.scratch.take<float>(ctx.pool.size() * scratch_size);
  ctx.pool.for_range(T, 16, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t t = begin; t < end; ++t) {
      route_token(options, logits + t * E, params.e_score_correction_bias, scratch + thread * scratch_size,
                  d.experts + t * K, d.weights + t * K);
    }
  });
  // Counting sort by expert; stable, so tokens stay in order.
  std::fill(d.start, d.start + E + 1, 0);
  for (int64_t i = 0; i < T * K; ++i) ++d.start[d.experts[i] + 1];
  for (int64_t e = 0; e < E; ++e) d.start[e + 1] += d.start[e];
  int64_t* next = ctx.scratch.take<int64_t>(E);
  std::copy(d.start, d.start + E, next);
  for (int64_t i = 0; i < T * K; ++i) {
    d.slot[i] = next[d.experts[i]]++;
    d.token[d.slot[i]] = static_cast<int32_t>(i / K);
  }
  return d;
}

}  // namespace

void moe_forward(Context& ctx, const RouterOptions& options, const MoeParams& params, const float* x, int64_t T,
                 float* out, ExpertLoad* load) {
  const int64_t E = options.n_routed_experts, K = options.num_experts_per_tok, D = params.gate.cols;
  const int64_t F = params.experts[0].gate_proj.rows, pairs = T * K;
  ScratchScope scope(ctx.scratch);
  const Dispatch d = route(ctx, options, params, x, T);
  if (load != nullptr) {
    load->resize(E);
    for (int64_t e = 0; e < E; ++e) (*load)[e] = d.start[e + 1] - d.start[e];
  }

  const bool shared = static_cast<bool>(params.shared_experts.gate_proj);
  const int64_t shared_F = shared ? params.shared_experts.gate_proj.rows : 0;
  // gate and up of all pairs, then of the shared expert.
  float* gate = ctx.scratch.take<float>(pairs * F + T * shared_F);
  float* up = ctx.scratch.take<float>(pairs * F + T * shared_F);
  float* down = ctx.scratch.take<float>(pairs * D);
  LinearJob* jobs = ctx.scratch.take<LinearJob>(2 * (std::min(E, pairs) + 1));

  const OpTimer products(ctx.profile, "experts gate and up");
  int n_jobs = 0;
  if (shared) {
    jobs[n_jobs++] = {&params.shared_experts.gate_proj, x, D, T, gate + pairs * F, shared_F};
    jobs[n_jobs++] = {&params.shared_experts.up_proj, x, D, T, up + pairs * F, shared_F};
  }
  for (int64_t e = 0; e < E; ++e) {
    const int64_t first = d.start[e], n = d.start[e + 1] - first;
    if (n == 0) continue;
    const int32_t* tokens = d.token + first;
    jobs[n_jobs++] = {&params.experts[e].gate_proj, x, D, n, gate + first * F, F, nullptr, tokens, T};
    jobs[n_jobs++] = {&params.experts[e].up_proj, x, D, n, up + first * F, F, nullptr, tokens, T};
  }
  linear_jobs(ctx, jobs, n_jobs);

  const OpTimer down_products(ctx.profile, "experts down");
  n_jobs = 0;
  if (shared)
    jobs[n_jobs++] = {&params.shared_experts.down_proj, gate + pairs * F, shared_F, T, out, D, up + pairs * F};
  for (int64_t e = 0; e < E; ++e) {
    const int64_t first = d.start[e], n = d.start[e + 1] - first;
    if (n == 0) continue;
    jobs[n_jobs++] = {&params.experts[e].down_proj, gate + first * F, F, n, down + first * D, D, up + first * F};
  }
  linear_jobs(ctx, jobs, n_jobs);

  const OpTimer sum(ctx.profile, "experts sum");
  ctx.pool.for_range(T, 8, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      float* y = out + t * D;
      if (!shared) std::fill(y, y + D, 0.0f);
      for (int64_t k = 0; k < K; ++k) ctx.kernels.axpy(d.weights[t * K + k], down + d.slot[t * K + k] * D, D, y);
    }
  });
}

}  // namespace westlake
