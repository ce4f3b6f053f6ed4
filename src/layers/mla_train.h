// Multi-head latent attention under training, in the expanded form. The forward equations are those of mla.h;
// backward runs them in reverse. What is special: the rope key is shared by all heads, so its gradient is the sum over
// heads, and the two latent norms stand between two products each.
//   dheads = dout Wo;  dq_h, dk_h, dv_h = attention's gradient
//   dc = norm'(sum_h [dk_nope_h | dv_h] Wkv_b);  dk_rope = rope^T sum_h dk_rope_h
//   dx = dq_a Wq_a + [dc | dk_rope] Wkv_a
// Keys of one head are put together from their two parts only for the task that needs them.
// Source: DeepSeek-V2 (arXiv 2405.04434) 2.1; DeepSeek-V3's published inference/model.py.
// Tape a token: q_lora + lora + rope + H (2 qk + 2 v + 1) - H rope numbers, the operands x, latents, heads.
#pragma once

#include "layers/attention_train.h"
#include "layers/linear_train.h"
#include "layers/mla.h"
#include "layers/rms_norm_train.h"

namespace westlake {

template <typename Real>
struct MlaTrainParams {
  // Query: either q_proj, or q_a_proj, q_a_layernorm, q_b_proj; the others are null.
  Param<Real>* q_proj = nullptr;              // [H*(nope+rope), D]
  Param<Real>* q_a_proj = nullptr;            // [q_lora, D]
  Param<Real>* q_a_layernorm = nullptr;       // [q_lora]
  Param<Real>* q_b_proj = nullptr;            // [H*(nope+rope), q_lora]
  Param<Real>* kv_a_proj_with_mqa = nullptr;  // [lora+rope, D]
  Param<Real>* kv_a_layernorm = nullptr;      // [lora]
  Param<Real>* kv_b_proj = nullptr;           // [H*(nope+v), lora]
  Param<Real>* o_proj = nullptr;              // [D, H*v]
};

template <typename Real>
struct MlaTape {
  LinearTape<Real> x;          // [N, D]
  Real* q_a = nullptr;         // [N, q_lora], before its norm
  RmsNormTape<Real> q_norm;    //
  LinearTape<Real> q_latent;   // [N, q_lora], normed
  Real* q = nullptr;           // [N, H*(nope+rope)], rope part rotated
  Real* kv_a = nullptr;        // [N, lora+rope]: the latent before its norm, the rope key rotated
  RmsNormTape<Real> kv_norm;   //
  LinearTape<Real> kv_latent;  // [N, lora], normed
  Real* kv = nullptr;          // [N, H*(nope+v)]
  Real* heads = nullptr;       // [N, H*v]
  Real* lse = nullptr;         // [B, H, T]
  LinearTape<Real> out;        // heads as an operand
};

template <typename Real>
MlaTape<Real> mla_tape(TrainContext<Real>& ctx, const MlaOptions& options, const MlaTrainParams<Real>& params,
                       const TrainRows& rows);

// x: [N, D], normed; out += the layer: [N, D].
template <typename Real>
void mla_forward(TrainContext<Real>& ctx, const MlaOptions& options, const MlaTrainParams<Real>& params,
                 const TrainRows& rows, const TrainAngles<Real>& angles, const Real* x, Real* out, MlaTape<Real>& tape);

// dout: [N, D]; dx [N, D] = the gradient of x.
template <typename Real>
void mla_backward(TrainContext<Real>& ctx, const MlaOptions& options, const MlaTrainParams<Real>& params,
                  const TrainRows& rows, const TrainAngles<Real>& angles, MlaTape<Real>& tape, const Real* dout,
                  Real* dx);

}  // namespace westlake
