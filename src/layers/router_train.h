// The router under training. Forward as router.h says; the choice of experts is its route_token on float32 scores,
// whatever Real is, and the products are float32 whatever the precision, since rounding would change the choice.
// Backward: through the weights w_k = scale s_k / (sum_j s_j + eps) into the scores of the chosen, then through sigmoid
// or softmax into W and x; nothing through the choice, nothing into the bias.
//   ds_k = scale / S (dw_k - sum_j dw_j s_j / S);  sigmoid: dlogit = ds s (1 - s);  softmax: dlogit = s (ds - ds . s)
// The sequence-wise balance loss adds, with s' = s / sum_e s_e over all experts and f_e the share of a sequence's
// pairs that e received, times E:
//   L = alpha sum_e f_e P_e,  P_e = mean_t s'_te
// Source: DeepSeek-V3 (arXiv 2412.19437) eq. 12-20.
#pragma once

#include "layers/attention_train.h"
#include "layers/router.h"

namespace westlake {

template <typename Real>
struct RouterTape {
  Real* scores = nullptr;      // [N, E]
  int32_t* experts = nullptr;  // [N, K], best first
  Real* weights = nullptr;     // [N, K]
  // [B, E]: the gradient of the balance loss by s' of every token of a sequence; null: no such loss
  Real* slope = nullptr;
};

template <typename Real>
RouterTape<Real> router_tape(TrainContext<Real>& ctx, const RouterOptions& options, const TrainRows& rows,
                             bool balance);

// gate: [E, D], packed in full precision. bias: [E] or null. x: [N, D].
template <typename Real>
void router_forward(TrainContext<Real>& ctx, const RouterOptions& options, const Param<Real>& gate,
                    const float* e_score_correction_bias, const Real* x, int64_t N, RouterTape<Real>& tape);

// The balance loss, alpha of sequence b in alpha[b]; leaves its slope on the tape.
template <typename Real>
double balance_loss(TrainContext<Real>& ctx, const RouterOptions& options, const TrainRows& rows, const double* alpha,
                    RouterTape<Real>& tape);

// dweights: [N, K]; dx [N, D] += the gradient of x.
template <typename Real>
void router_backward(TrainContext<Real>& ctx, const RouterOptions& options, Param<Real>& gate,
                     const RouterTape<Real>& tape, const Real* x, const TrainRows& rows, const Real* dweights,
                     Real* dx);

}  // namespace westlake
