// SwiGLU feed-forward under training: y = (silu(x Wg) * (x Wu)) Wd.
//   dh = dy Wd;  dgate = dh up silu'(gate);  dup = dh silu(gate);  dx = dgate Wg + dup Wu
// Source: Shazeer 2020. Cost a token: 6 D F FLOPs forward, 12 D F backward; the tape is 2 F numbers and the operands x,
// h.
#pragma once

#include "layers/linear_train.h"

namespace westlake {

template <typename Real>
struct SwigluTrainParams {
  Param<Real>* gate_proj = nullptr;  // [F, D]
  Param<Real>* up_proj = nullptr;    // [F, D]
  Param<Real>* down_proj = nullptr;  // [D, F]
};

template <typename Real>
struct SwigluTape {
  LinearTape<Real> x;       // [T, D]
  Real* gate = nullptr;     // [T, F]; backward leaves dgate and dup in their place
  Real* up = nullptr;       // [T, F]
  LinearTape<Real> hidden;  // [T, F]
};

template <typename Real>
SwigluTape<Real> swiglu_tape(TrainContext<Real>& ctx, const SwigluTrainParams<Real>& params, int64_t T);

// x: [T, D]; out += y: [T, D], or null: the tape alone, for who runs a layer again before its backward.
template <typename Real>
void swiglu_forward(TrainContext<Real>& ctx, const SwigluTrainParams<Real>& params, const Real* x, int64_t T, Real* out,
                    SwigluTape<Real>& tape);

// dout: [T, D]; dx [T, D] = the gradient of x. Uses the tape up.
template <typename Real>
void swiglu_backward(TrainContext<Real>& ctx, const SwigluTrainParams<Real>& params, SwigluTape<Real>& tape,
                     const Real* dout, int64_t T, Real* dx);

}  // namespace westlake
