// What GQA and MLA share: the view of a sequence's cache, the rows of a batch, and rotary angles.
//
// A batch is ragged: the tokens of several segments stand one under another in x [T, D]; all row-wise work runs over T,
// only attention looks at segments. One segment with many rows is a prefill, many segments with one row each a decode.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/context.h"
#include "layers/rope.h"

namespace westlake {

// One layer of one sequence's cache. Position s is at pages[s / page_tokens] + layer_offset + (s % page_tokens) *
// width. Does not own the pages. The pages hold float32.
struct KvView {
  float* const* pages = nullptr;
  int64_t page_tokens = 0;
  int64_t width = 0;         // floats a position (ModelConfig::kv_width)
  int64_t layer_offset = 0;  // where this layer begins in every page

  float* row(int64_t position) const {
    return pages[position / page_tokens] + layer_offset + position % page_tokens * width;
  }
};

// MLA has two forms of the same attention; both read and write the same compressed cache.
enum class MlaForm {
  kExpanded,  // keys and values of every head are rebuilt from the latents: cheaper when many queries share them
  kAbsorbed,  // the up-projections move to the query and the output: attention runs over the latents themselves
};

struct AttentionSegment {
  int64_t first_row = 0;  // in x
  int64_t T = 0;          // rows, >= 1
  int64_t start = 0;      // position of the first row; positions [0, start) are in the cache already
  MlaForm form = MlaForm::kExpanded;
  KvView kv;
};

// cos and sin of every row of a batch: [T, dim/2] each.
struct RopeAngles {
  const float* cos = nullptr;
  const float* sin = nullptr;
  int64_t half = 0;  // dim/2

  const float* cos_row(int64_t t) const { return cos + t * half; }
  const float* sin_row(int64_t t) const { return sin + t * half; }
};

// Fills angles for all rows of the segments; memory from ctx.scratch.
RopeAngles rope_angles(Context& ctx, const Rope& rope, std::span<const AttentionSegment> segments, int64_t T);

// One attention task: query rows [q_begin, q_end) of one group, of one token.
struct AttendTask {
  int64_t segment;
  int64_t row;     // in x
  int64_t n_keys;  // start + index of the token in its segment + 1
  int64_t group;
  int64_t q_begin, q_end;
};

// Calls f(task, thread) for every (row, group) of the batch, groups of `group_size` query rows cut finer when there are
// fewer tasks than threads. Each call is independent of the others: results do not depend on the cut.
void for_attend_tasks(Context& ctx, std::span<const AttentionSegment> segments, int64_t groups, int64_t group_size,
                      FunctionRef<void(const AttendTask&, int)> f);

// What attention over those segments must read and compute: each cached position once (its floats), and for every head
// and every key that a row sees `dims` multiply-adds.
OpWork attend_work(std::span<const AttentionSegment> segments, int64_t floats, int64_t heads, int64_t dims);

// Largest number of keys that any row of the batch sees.
int64_t max_keys(std::span<const AttentionSegment> segments);

}  // namespace westlake
