// Token embedding under training: x[t] = E[token_t];  dE[token_t] += dx[t].
// Tokens repeat, so the sum is cut by columns, not by tokens: every entry of dE is summed by one thread in the order of
// t. Cost: one row of E a token.
#pragma once

#include "kernels/training.h"

namespace westlake {

// tokens: [T]; x: [T, D]. Requires: every token in [0, V).
template <typename Real>
void embedding_forward(TrainContext<Real>& ctx, const Param<Real>& embed_tokens, const int32_t* tokens, int64_t T,
                       Real* x);
template <typename Real>
void embedding_backward(TrainContext<Real>& ctx, Param<Real>& embed_tokens, const int32_t* tokens, int64_t T,
                        const Real* dx);

}  // namespace westlake
