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

// hidden = silu(gate) * up over T*F numbers, cut over threads when there is enough.
void silu_mul_rows(Context& ctx, const float* gate, const float* up, int64_t n, float* hidden);

}  // namespace westlake
