// SwiGLU feed-forward: y = (silu(x Wg) * (x Wu)) Wd.
// Source: Shazeer, "GLU Variants Improve Transformer", 2020. Cost a token: 6 D F FLOPs over 3 D F weights.
#pragma once

#include "kernels/context.h"

namespace westlake {

struct SwigluParams {
  Mat gate_proj;  // [F, D]
  Mat up_proj;    // [F, D]
  Mat down_proj;  // [D, F]
};

// x: [T, D], out: [T, D].
void swiglu_forward(Context& ctx, const SwigluParams& params, const float* x, int64_t T, float* out);

}  // namespace westlake
