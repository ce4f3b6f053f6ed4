// Grouped-query attention under training. The forward equations are those of gqa.h; backward runs them in reverse:
//   dheads = dout Wo;  dq, dk, dv = attention's gradient, dk and dv summed over the query heads of a group
//   dq, dk: rotated back, through their norms;  dx = dq Wq + dk Wk + dv Wv
// Source: Ainslie et al. 2023; attention's gradient as in Dao et al., "FlashAttention", 2022, appendix B.
// Tape a token: (2 H + 2 KVH) hd numbers, H for the log sums, the operands x and heads.
#pragma once

#include "layers/attention_train.h"
#include "layers/gqa.h"
#include "layers/linear_train.h"
#include "layers/rms_norm_train.h"

namespace westlake {

template <typename Real>
struct GqaTrainParams {
  Param<Real>* q_proj = nullptr;  // [H*hd, D]
  Param<Real>* k_proj = nullptr;  // [KVH*hd, D]
  Param<Real>* v_proj = nullptr;  // [KVH*hd, D]
  Param<Real>* o_proj = nullptr;  // [D, H*hd]
  // Null where the model has none.
  Param<Real>* q_bias = nullptr;  // [H*hd]
  Param<Real>* k_bias = nullptr;  // [KVH*hd]
  Param<Real>* v_bias = nullptr;  // [KVH*hd]
  Param<Real>* o_bias = nullptr;  // [D]
  Param<Real>* q_norm = nullptr;  // [hd]
  Param<Real>* k_norm = nullptr;  // [hd]
};

template <typename Real>
struct GqaTape {
  LinearTape<Real> x;  // [N, D]
  Real* q = nullptr;   // [N, H*hd], as attention reads them
  Real* k = nullptr;   // [N, KVH*hd]
  Real* v = nullptr;   // [N, KVH*hd]
  // With q and k norms: what they were given.
  Real* q_raw = nullptr;  // [N, H*hd]
  Real* k_raw = nullptr;  // [N, KVH*hd]
  RmsNormTape<Real> q_norm, k_norm;
  Real* heads = nullptr;  // [N, H*hd]
  Real* lse = nullptr;    // [B, H, T]
  LinearTape<Real> out;   // heads as an operand
};

template <typename Real>
GqaTape<Real> gqa_tape(TrainContext<Real>& ctx, const GqaOptions& options, const GqaTrainParams<Real>& params,
                       const TrainRows& rows);

// x: [N, D], normed; out += the layer: [N, D].
template <typename Real>
void gqa_forward(TrainContext<Real>& ctx, const GqaOptions& options, const GqaTrainParams<Real>& params,
                 const TrainRows& rows, const TrainAngles<Real>& angles, const Real* x, Real* out, GqaTape<Real>& tape);

// dout: [N, D]; dx [N, D] = the gradient of x.
template <typename Real>
void gqa_backward(TrainContext<Real>& ctx, const GqaOptions& options, const GqaTrainParams<Real>& params,
                  const TrainRows& rows, const TrainAngles<Real>& angles, GqaTape<Real>& tape, const Real* dout,
                  Real* dx);

}  // namespace westlake
