// Attention over keys and values in int8, for GQA and for both forms of MLA.
//
// Idea: tasks are blocks of neighbouring tokens of one group of heads that share keys. Keys are walked in pieces of
// kPieceKeys from position 0 on, and the pieces are joined in order (log-sum-exp), so that the numbers do not depend on
// who computes a piece: with few tasks the pieces go to different threads (a long context, one token), with many a task
// walks its own. Source: Dao et al., FlashAttention, 2022, and its decoding with split keys.
#pragma once

#include <cstdint>
#include <span>

#include "layers/attention.h"

namespace westlake {

// Query rows of neighbouring tokens, and where the answers go.
struct Q8Queries {
  const float* q;  // [T, q_stride]: of a token [groups, heads, k_dim]
  int64_t q_stride;
  float* out;  // [T, out_stride]: of a token [groups, heads, v_dim]
  int64_t out_stride;
};

// The rows are those of the segments, neighbours, the first of them row 0 of q and out. The new keys are in the caches
// already. scale: of a softmax.
void attend_q8(Context& ctx, std::span<const AttentionSegment> segments, std::span<const Q8Group> groups, int64_t heads,
               float scale, const Q8Queries& rows);

}  // namespace westlake
