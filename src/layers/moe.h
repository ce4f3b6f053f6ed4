// DeepSeekMoE: y = sum_k w_k Expert_k(x) + Shared(x), experts are SwiGLU of a small width.
// Idea: pairs (token, chosen expert) are sorted by expert once; each expert reads its weights once for all its tokens;
// the sum over a token's experts runs in the order of their rank, so the result does not depend on the batch.
// Source: DeepSeekMoE (arXiv 2401.06066) eq. 9-11. Cost a token: 6 D F (K + shared) FLOPs.
#pragma once

#include <vector>

#include "layers/router.h"
#include "layers/swiglu.h"

namespace westlake {

struct MoeParams {
  Mat gate;                                        // router [E, D]
  const float* e_score_correction_bias = nullptr;  // [E], or null
  std::vector<SwigluParams> experts;               // E of width F
  SwigluParams shared_experts;                     // one SwiGLU of width F * n_shared_experts; empty where none
};

// Tokens each expert received, for whoever watches; may be null.
using ExpertLoad = std::vector<int64_t>;

// x: [T, D], out: [T, D].
void moe_forward(Context& ctx, const RouterOptions& options, const MoeParams& params, const float* x, int64_t T,
                 float* out, ExpertLoad* load = nullptr);

}  // namespace westlake
