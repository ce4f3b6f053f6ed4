// What GQA and MLA share under training: rows of tokens with their documents, rotary angles, and attention cut into
// tasks.
//
// Idea: one task is all query heads that share keys, of one row of the batch, in order: its sums into dk and dv are
// nobody else's, so there are no locks, and the bits do not depend on the threads.
#pragma once

#include "kernels/training.h"
#include "layers/rope.h"

namespace westlake {

// B rows of T tokens one under another: token i of row b is row b * T + i of every activation.
struct TrainRows {
  int64_t B = 0, T = 0;
  const int32_t* doc_start = nullptr;  // [B, T]: index in its row of the first token of each token's document
  int64_t tokens() const { return B * T; }
};

// cos and sin by position in the document, [T, dim/2] each.
template <typename Real>
struct TrainAngles {
  const Real* cos = nullptr;
  const Real* sin = nullptr;
  int64_t half = 0;
};

// Taken from the arena.
template <typename Real>
TrainAngles<Real> train_angles(TrainContext<Real>& ctx, const Rope& rope, int64_t T);

// Rotates `heads` heads of every token in place: head h of token t is the 2 half numbers at x + t * ldx + h * stride.
// back: the gradient.
template <typename Real>
void rotate_heads(TrainContext<Real>& ctx, const TrainRows& rows, const TrainAngles<Real>& angles, Real* x, int64_t ldx,
                  int64_t heads, int64_t stride, bool halves, bool back);

}  // namespace westlake
