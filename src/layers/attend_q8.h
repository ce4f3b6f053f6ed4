// Attention over a cache in int8, for GQA and for MLA's absorbed form.
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

// q: [T, groups * heads, k_dim], out: [T, groups * heads, v_dim]; the rows are those of the segments, neighbours, the
// first of them row 0 of q and out. The new keys are in the caches already.
void attend_q8(Context& ctx, std::span<const AttentionSegment> segments, std::span<const Q8Group> groups, int64_t heads,
               float scale, const float* q, float* out);

}  // namespace westlake
