#include "layers/swiglu.h"

namespace westlake {

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
  const OpTimer timer(ctx.profile, "down");
  const LinearJob down = {&params.down_proj, gate, F, T, out, D, up};
  linear_jobs(ctx, &down, 1);
}

}  // namespace westlake
