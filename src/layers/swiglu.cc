#include "layers/swiglu.h"

namespace westlake {

void silu_mul_rows(Context& ctx, const float* gate, const float* up, int64_t n, float* hidden) {
  const OpTimer timer(ctx.profile, "silu");
  ctx.pool.for_range(n, 8192, [&](int64_t begin, int64_t end, int) {
    ctx.kernels.silu_mul(gate + begin, up + begin, end - begin, hidden + begin);
  });
}

void swiglu_forward(Context& ctx, const SwigluParams& params, const float* x, int64_t T, float* out) {
  const int64_t D = params.gate_proj.cols, F = params.gate_proj.rows;
  ScratchScope scope(ctx.scratch);
  float* gate = ctx.scratch.take<float>(T * F);
  float* up = ctx.scratch.take<float>(T * F);
  const LinearJob jobs[] = {{&params.gate_proj, x, D, T, gate, F}, {&params.up_proj, x, D, T, up, F}};
  {
    const OpTimer timer(ctx.profile, "gate and up");
    linear_jobs(ctx, jobs, 2);
  }
  silu_mul_rows(ctx, gate, up, T * F, gate);
  const OpTimer timer(ctx.profile, "down");
  linear(ctx, params.down_proj, gate, F, T, out, D);
}

}  // namespace westlake
