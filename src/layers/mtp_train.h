// The input of a multi-token-prediction module under training: x = eh_proj [enorm(e) ; hnorm(h)], e the embedding of
// the next token, h the main model's state. The module's layer, embedding and head are the model's own.
// Source: DeepSeek-V3 (arXiv 2412.19437) eq. 21; the order of the two halves is that of the published checkpoints.
#pragma once

#include "layers/linear_train.h"
#include "layers/rms_norm_train.h"

namespace westlake {

template <typename Real>
struct MtpTrainParams {
  Param<Real>* enorm = nullptr;    // [D]
  Param<Real>* hnorm = nullptr;    // [D]
  Param<Real>* eh_proj = nullptr;  // [D, 2D]
};

template <typename Real>
struct MtpTape {
  RmsNormTape<Real> enorm, hnorm;
  LinearTape<Real> pair;  // [N, 2D]
};

template <typename Real>
MtpTape<Real> mtp_tape(TrainContext<Real>& ctx, const MtpTrainParams<Real>& params, int64_t N);

// embedding, hidden: [N, D], which must not change until backward. x: [N, D].
template <typename Real>
void mtp_forward(TrainContext<Real>& ctx, const MtpTrainParams<Real>& params, double eps, const Real* embedding,
                 const Real* hidden, int64_t N, Real* x, MtpTape<Real>& tape);

// dx: [N, D]; dembedding, dhidden [N, D] = the gradients.
template <typename Real>
void mtp_backward(TrainContext<Real>& ctx, const MtpTrainParams<Real>& params, const MtpTape<Real>& tape,
                  const Real* dx, int64_t N, Real* dembedding, Real* dhidden);

}  // namespace westlake
