// Token embedding: row gather. x[t] = E[token_t], E [V, D]. Cost: one row of E a token.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/context.h"

namespace westlake {

// x: [T, D]. Requires: every token in [0, V).
void embedding_forward(Context& ctx, const Mat& embed_tokens, std::span<const int32_t> tokens, float* x);

}  // namespace westlake
