// Head and cross-entropy fused: loss = scale sum_t -log softmax(h_t W^T)[target_t], and its gradients.
//   dlogits = (softmax - onehot) scale;  dh = dlogits W;  dW += dlogits^T h
// Idea: logits [T, V] are never held whole: a chunk of tokens goes forward and backward before the next one begins.
// Tokens without a target cost nothing: those that have one are gathered first.
// Cost a target: 2 D V FLOPs forward, 4 D V backward.
#pragma once

#include "kernels/training.h"

namespace westlake {

// head: [V, D]. h: [T, D], normed. targets: [T], -1 where there is no loss.
// Returns the sum of -log p over the targets, in nats, not scaled.
// dh (null: forward only): [T, D] = the gradient of h; head.grad gets its own added.
// token_loss (may be null): [T], nats of each target, zero elsewhere.
template <typename Real>
double head_loss(TrainContext<Real>& ctx, Param<Real>& head, const Real* h, const int32_t* targets, int64_t T,
                 double scale, Real* dh, float* token_loss = nullptr);

}  // namespace westlake
