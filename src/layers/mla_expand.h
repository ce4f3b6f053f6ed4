// MLA's expanded form over an int8 cache: for many new tokens of one sequence.
//
// Idea: keys and values of a few heads at a time are made again from the int8 latents, as int8 in the blocks of
// kKvBlock positions that attend_q8 reads; up-projections are brought to int8 with one scale a row, so that latents are
// taken as they lie in the cache and a dot over all of kv_lora_rank is exact. The rope key is the cache's own.
// Cost: the rebuilding 2 H (nope + v) lora operations a position, attention 2 H (nope + rope + 2 v) a key that a token
// sees, instead of 2 H (3 lora + rope) of the absorbed form.
// Source: DeepSeek-V2 (arXiv 2405.04434) 2.1.
#pragma once

#include <span>

#include "layers/mla.h"

namespace westlake {

// q: [T, H, nope + rope] of all rows of the batch, heads: [T, H, v]. Requires: options.expands_q8(), int8 caches.
void attend_expanded_q8(Context& ctx, const MlaOptions& options, const MlaParams& params,
                        std::span<const AttentionSegment> segments, const float* q, float* heads);

}  // namespace westlake
