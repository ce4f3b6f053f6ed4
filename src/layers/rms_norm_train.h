// RMSNorm under training: y = x inv weight, inv = 1 / sqrt(mean(x^2) + eps), a row of D numbers.
//   dx += inv (weight dy) - x inv^3 / D (x . weight dy);  dweight += sum_t x inv dy
// dweight is summed over fixed pieces of rows, then over the pieces in order: the same bits for any number of threads.
// Source: Zhang & Sennrich 2019. Cost: 4 D FLOPs a row forward, 10 D backward, bound by memory.
#pragma once

#include "kernels/training.h"

namespace westlake {

template <typename Real>
struct RmsNormTape {
  const Real* x = nullptr;  // [T, D], the caller's; it must not change until backward
  int64_t ldx = 0;
  Real* inv = nullptr;  // [T]
};

template <typename Real>
RmsNormTape<Real> rms_norm_tape(TrainContext<Real>& ctx, int64_t T);

// y: [T, D]; weight: [D].
template <typename Real>
void rms_norm_forward(TrainContext<Real>& ctx, const Real* x, int64_t ldx, const Param<Real>& weight, double eps,
                      int64_t T, Real* y, int64_t ldy, RmsNormTape<Real>& tape);

// dx += the gradient of x.
template <typename Real>
void rms_norm_backward(TrainContext<Real>& ctx, const RmsNormTape<Real>& tape, Param<Real>& weight, const Real* dy,
                       int64_t lddy, int64_t T, Real* dx, int64_t lddx);

}  // namespace westlake
