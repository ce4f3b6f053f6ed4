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
// width. Does not own the pages. The pages hold float32, or int8 as kernels.h lays it out (row_bytes > 0).
struct KvView {
  float* const* pages = nullptr;
  int64_t page_tokens = 0;
  int64_t width = 0;         // floats a position (ModelConfig::kv_width)
  int64_t layer_offset = 0;  // where this layer begins in every page
  int64_t row_bytes = 0;     // of int8; 0: float32

  float* row(int64_t position) const {
    return pages[position / page_tokens] + layer_offset + position % page_tokens * width;
  }
  bool q8() const { return row_bytes > 0; }
  // n numbers as int8 at `offset` of the row of a position, their scale as that of `part`.
  void write_q8(const KernelTable& kernels, int64_t position, const float* x, int64_t n, int64_t offset,
                int64_t part) const {
    float* layer = pages[position / page_tokens] + layer_offset;
    auto* rows = reinterpret_cast<int8_t*>(layer);
    const int64_t in_page = position % page_tokens;
    layer[page_tokens * (row_bytes / 4 + part) + in_page] =
        kernels.quantise_row(x, n, rows + in_page * row_bytes + offset);
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

// One attention task: heads [head, head + heads) of one token, or one head of neighbouring tokens.
struct AttendTask {
  int64_t segment;
  int64_t row, rows;    // in x
  int64_t n_keys;       // that the first row sees: start + index of the token in its segment + 1
  int64_t head, heads;  // within one group; one of rows and heads is 1

  int n_q() const { return static_cast<int>(rows * heads); }
};

// Rows that a task of one head takes: every key read serves them all.
inline constexpr int64_t kTaskRows = 16;

// Calls f(task, thread) for every (row, head) of the batch. Heads of one token that share keys, `group_size` of them,
// go together; where a segment has rows enough and `by_head` allows, rows of one head do. Each query row is independent
// of the others: results do not depend on the cut. The longest tasks come first.
void for_attend_tasks(Context& ctx, std::span<const AttentionSegment> segments, int64_t groups, int64_t group_size,
                      bool by_head, FunctionRef<void(const AttendTask&, int)> f);

// Floats of scratch that AttendArgs of any task needs.
int64_t attend_scratch(std::span<const AttentionSegment> segments, int64_t group_size);

// What attention over those segments must read and compute: each cached position once (its floats), and for every head
// and every key that a row sees `dims` multiply-adds.
OpWork attend_work(std::span<const AttentionSegment> segments, int64_t floats, int64_t heads, int64_t dims);

// Largest number of keys that any row of the batch sees.
int64_t max_keys(std::span<const AttentionSegment> segments);

}  // namespace westlake
