// RMSNorm over rows: y = x / sqrt(mean(x^2) + eps) * weight.
// Source: Zhang & Sennrich, "Root Mean Square Layer Normalization", 2019. Cost: 8 D bytes, 4 D FLOPs a row.
#pragma once

#include "kernels/context.h"

namespace westlake {

// x, y: [T, D] with row strides; weight: [D]. y may be x.
inline void rms_norm(Context& ctx, const float* x, int64_t ldx, const float* weight, double eps, int64_t T, int64_t D,
                     float* y, int64_t ldy) {
  // Below some 16 thousand numbers waking a thread costs more than the work.
  const OpTimer timer(ctx.profile, "norm");
  constexpr int64_t kGrainNumbers = 16384;
  const int64_t grain = D > 0 ? kGrainNumbers / D + 1 : 1;
  ctx.pool.for_range(T, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t)
      ctx.kernels.rms_norm(x + t * ldx, weight, static_cast<float>(eps), D, y + t * ldy);
  });
}

}  // namespace westlake
