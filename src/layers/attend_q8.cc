#include "layers/attend_q8.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace westlake {
namespace {

constexpr float kLog2e = 0x1.715476p+0f;
constexpr int64_t kPieceKeys = 256;
constexpr int64_t kMinParallelMerge = 1 << 14;
constexpr int64_t kTaskQueries = 64;  // query rows of a task, unless one token has more

// Tokens [token, token + tokens) of a segment, one group.
struct Task {
  int64_t segment, token, tokens, group;
};

class Attention {
 public:
  Attention(Context& ctx, std::span<const AttentionSegment> segments, std::span<const Q8Group> groups, int64_t heads,
            float scale, const Q8Queries& rows)
      : ctx_(ctx), segments_(segments), groups_(groups), heads_(heads), scale_(scale * kLog2e), rows_(rows) {
    task_tokens_ = std::max<int64_t>(1, kTaskQueries / heads);
    queries_ = heads * std::min(task_tokens_, longest());
    for (const AttentionSegment& s : segments)
      tasks_ += (s.T + task_tokens_ - 1) / task_tokens_ * static_cast<int64_t>(groups.size());
  }

  void run() {
    if (max_keys(segments_) > kPieceKeys && ctx_.pool.size() > 1 && tasks_ < 2 * ctx_.pool.size()) {
      split();
    } else {
      whole();
    }
  }

 private:
  // max, sum and out of the queries of one task.
  struct Part {
    float* max;
    float* sum;
    float* out;
  };

  int64_t longest() const {
    int64_t most = 0;
    for (const AttentionSegment& s : segments_) most = std::max(most, s.T);
    return most;
  }

  Task task(int64_t index) const {
    const auto groups = static_cast<int64_t>(groups_.size());
    Task task = {0, 0, 0, index % groups};
    int64_t block = index / groups;
    for (;; ++task.segment) {
      const int64_t blocks = (segments_[task.segment].T + task_tokens_ - 1) / task_tokens_;
      if (block < blocks) break;
      block -= blocks;
    }
    task.token = block * task_tokens_;
    task.tokens = std::min(task_tokens_, segments_[task.segment].T - task.token);
    return task;
  }

  int64_t keys_of(const Task& t) const { return segments_[t.segment].start + t.token + t.tokens; }
  int64_t v_dim() const { return groups_[0].v_dim; }
  int64_t part_floats() const { return queries_ * (v_dim() + 2); }

  Part part(float* memory) const { return {memory, memory + queries_, memory + 2 * queries_}; }

  // Head 0 of the group of a token of a task.
  int64_t row(const Task& t, int64_t token) const {
    return segments_[t.segment].first_row - segments_[0].first_row + t.token + token;
  }
  const float* q_of(const Task& t, int64_t token) const {
    return rows_.q + row(t, token) * rows_.q_stride + t.group * heads_ * groups_[t.group].k_dim();
  }
  float* out_of(const Task& t, int64_t token) const {
    return rows_.out + row(t, token) * rows_.out_stride + t.group * heads_ * v_dim();
  }

  int64_t scratch_bytes() const {
    AttendQ8Args a{groups_[0]};
    a.n_q = queries_;
    const int64_t bytes = a.scratch_bytes() + queries_ * a.k_dim() * static_cast<int64_t>(sizeof(float));
    return (bytes + 127) / 64 * 64;  // every thread's begins a cache line
  }

  // Keys [begin, end) for the queries of a task.
  void attend(const Task& t, int64_t begin, int64_t end, const Part& to, std::byte* scratch) const {
    const KvView& kv = segments_[t.segment].kv;
    AttendQ8Args a{groups_[t.group]};
    a.n_q = t.tokens * heads_;
    a.heads = heads_;
    a.q = q_of(t, 0);
    a.q_stride = heads_ == 1 ? rows_.q_stride : a.k_dim();
    a.scratch = scratch;
    if (heads_ > 1 && t.tokens > 1 && rows_.q_stride != heads_ * a.k_dim()) {  // rows are not at one distance
      auto* packed = reinterpret_cast<float*>(scratch + (a.scratch_bytes() + 63) / 64 * 64);
      for (int64_t i = 0; i < t.tokens; ++i)
        std::copy_n(q_of(t, i), heads_ * a.k_dim(), packed + i * heads_ * a.k_dim());
      a.q = packed;
    }
    a.pages = kv.pages;
    a.page_tokens = kv.page_tokens;
    a.layer_offset = kv.layer_offset;
    a.row_bytes = kv.row_bytes;
    a.n_keys = segments_[t.segment].start + t.token + 1;
    a.begin = begin;
    a.end = end;
    a.scale = scale_;
    a.max = to.max;
    a.sum = to.sum;
    a.out = to.out;
    ctx_.kernels.attend_q8(a);
  }

  void merge(const Part& later, const Part& to, int64_t row) const {
    ctx_.kernels.attend_q8_merge({later.max + row, later.sum + row, later.out + row * v_dim()},
                                 {to.max + row, to.sum + row, to.out + row * v_dim()}, v_dim());
  }

  void finish(const Task& t, const Part& p, int64_t row) const {
    float* out = out_of(t, row / heads_) + row % heads_ * v_dim();
    const float scale = 1.0f / p.sum[row];
    const float* from = p.out + row * v_dim();
    for (int64_t d = 0; d < v_dim(); ++d) out[d] = from[d] * scale;
  }

  // A task walks all its keys.
  void whole() {
    const ScratchScope scope(ctx_.scratch);
    float* parts = ctx_.scratch.take<float>(2 * ctx_.pool.size() * part_floats());
    std::byte* scratch = ctx_.scratch.take<std::byte>(ctx_.pool.size() * scratch_bytes());
    ctx_.pool.for_each_chunk(tasks_, 1, [&](int64_t first, int64_t last, int thread) {
      const Part sum = part(parts + 2 * thread * part_floats()), piece = part(parts + (2 * thread + 1) * part_floats());
      for (int64_t i = first; i < last; ++i) {
        const Task t = task(tasks_ - 1 - i);  // the longest first
        for (int64_t begin = 0; begin < keys_of(t); begin += kPieceKeys) {
          attend(t, begin, begin + kPieceKeys, begin == 0 ? sum : piece, scratch + thread * scratch_bytes());
          for (int64_t row = 0; begin > 0 && row < t.tokens * heads_; ++row) merge(piece, sum, row);
        }
        for (int64_t row = 0; row < t.tokens * heads_; ++row) finish(t, sum, row);
      }
    });
  }

  // The pieces go to the threads in runs of neighbours, so that a thread knows which keys come next.
  void split() {
    const ScratchScope scope(ctx_.scratch);
    int64_t pieces = 0;
    std::vector<int64_t> first(static_cast<size_t>(tasks_) + 1);  // piece of a task
    for (int64_t i = 0; i < tasks_; ++i) {
      pieces += (keys_of(task(i)) + kPieceKeys - 1) / kPieceKeys;
      first[static_cast<size_t>(i) + 1] = pieces;
    }
    float* parts = ctx_.scratch.take<float>(pieces * part_floats());
    std::byte* scratch = ctx_.scratch.take<std::byte>(ctx_.pool.size() * scratch_bytes());
    const auto task_of = [&](int64_t piece) {
      return std::upper_bound(first.begin(), first.end(), piece) - first.begin() - 1;
    };
    ctx_.pool.for_range(pieces, 1, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t p = begin; p < end; ++p) {
        const int64_t i = task_of(p), key = (p - first[static_cast<size_t>(i)]) * kPieceKeys;
        attend(task(i), key, key + kPieceKeys, part(parts + p * part_floats()), scratch + thread * scratch_bytes());
      }
    });
    // Few numbers are joined sooner than a region has begun.
    const int64_t rows = tasks_ * queries_, grain = pieces * part_floats() < kMinParallelMerge ? rows : 1;
    ctx_.pool.for_range(rows, grain, [&](int64_t begin, int64_t end, int) {
      for (int64_t at = begin; at < end; ++at) {
        const int64_t i = at / queries_, row = at % queries_;
        const Task t = task(i);
        if (row >= t.tokens * heads_) continue;
        const Part sum = part(parts + first[static_cast<size_t>(i)] * part_floats());
        for (int64_t p = first[static_cast<size_t>(i)] + 1; p < first[static_cast<size_t>(i) + 1]; ++p)
          merge(part(parts + p * part_floats()), sum, row);
        finish(t, sum, row);
      }
    });
  }

  Context& ctx_;
  std::span<const AttentionSegment> segments_;
  std::span<const Q8Group> groups_;
  const int64_t heads_;
  const float scale_;
  const Q8Queries rows_;
  int64_t task_tokens_ = 1, queries_ = 0, tasks_ = 0;
};

}  // namespace

void attend_q8(Context& ctx, std::span<const AttentionSegment> segments, std::span<const Q8Group> groups, int64_t heads,
               float scale, const Q8Queries& rows) {
  Attention(ctx, segments, groups, heads, scale, rows).run();
}

}  // namespace westlake
