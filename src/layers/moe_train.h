// DeepSeekMoE under training: y = sum_k w_k Expert_k(x) + Shared(x).
//
// Idea: pairs (token, chosen expert) are grouped by expert once. The weight of a pair is put on the expert's hidden
// row: w (h Wd) = (w h) Wd, so the experts' outputs need not be kept for dw:
//   d(wh) = dy Wd;  dw = d(wh) . h;  dh = w d(wh);  then as swiglu_train.h, each expert over its own rows
// The products of all experts go in one parallel region. As operands of dW the groups lie one behind the other, each
// padded with zeros to a multiple of kOperandK. Sums over a token's experts run in the order of their rank.
// Source: DeepSeekMoE (arXiv 2401.06066) eq. 9-11; DeepSeek-V3 (arXiv 2412.19437) 2.1.2.
#pragma once

#include <vector>

#include "layers/router_train.h"
#include "layers/swiglu_train.h"

namespace westlake {

template <typename Real>
struct MoeTrainParams {
  Param<Real>* gate = nullptr;                     // router [E, D]
  const float* e_score_correction_bias = nullptr;  // [E], or null
  std::vector<SwigluTrainParams<Real>> experts;    // E of width F
  SwigluTrainParams<Real> shared_experts;          // null where there are none
};

// Pairs by expert: those of expert e stand at rows start[e] .. start[e+1], ascending in token; as operands of dW they
// begin at operand_start[e].
struct MoeGroups {
  int64_t* start = nullptr;          // [E + 1]
  int64_t* operand_start = nullptr;  // [E + 1]
  int32_t* pair = nullptr;           // [N*K]: t * K + k of a row
  int32_t* row = nullptr;            // [N*K]: row of a pair
};

template <typename Real>
struct MoeTape {
  Real* x = nullptr;  // [N, D], for the router's product in full precision
  RouterTape<Real> router;
  MoeGroups groups;
  std::byte* x_operands = nullptr;       // x of every group, right operands
  Real* gate = nullptr;                  // [N*K, F]; backward leaves dgate and dup in their place
  Real* up = nullptr;                    // [N*K, F]
  std::byte* hidden_operands = nullptr;  // w h of every group, right operands
  SwigluTape<Real> shared;
};

template <typename Real>
MoeTape<Real> moe_tape(TrainContext<Real>& ctx, const RouterOptions& options, const MoeTrainParams<Real>& params,
                       const TrainRows& rows, bool balance);

// x: [N, D], normed; out += the layer, or null: the tape alone. balance_alpha [B]: as balance_loss, whose value is
// returned; null: none. load (may be null): pairs that each expert received.
template <typename Real>
double moe_forward(TrainContext<Real>& ctx, const RouterOptions& options, const MoeTrainParams<Real>& params,
                   const TrainRows& rows, const double* balance_alpha, const Real* x, Real* out, MoeTape<Real>& tape,
                   std::vector<int64_t>* load);

// dout: [N, D]; dx [N, D] = the gradient of x.
template <typename Real>
void moe_backward(TrainContext<Real>& ctx, const RouterOptions& options, const MoeTrainParams<Real>& params,
                  const TrainRows& rows, MoeTape<Real>& tape, const Real* dout, Real* dx);

}  // namespace westlake
