#include "layers/attend_q8.h"

#include <algorithm>
#include <cstring>

namespace westlake {
namespace {

constexpr float kLog2e = 0x1.715476p+0f;
constexpr int64_t kPieceKeys = 256;
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
    const int64_t pieces = (max_keys(segments_) + kPieceKeys - 1) / kPieceKeys;
    if (pieces > 1 && ctx_.pool.size() > 1 && tasks_ < 2 * ctx_.pool.size()) {
      split(pieces);
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

  void merge(const Task& t, const Part& later, const Part& to) const {
    for (int64_t i = 0; i < t.tokens * heads_; ++i)
      ctx_.kernels.attend_q8_merge({later.max + i, later.sum + i, later.out + i * v_dim()},
                                   {to.max + i, to.sum + i, to.out + i * v_dim()}, v_dim());
  }

  void finish(const Task& t, const Part& p) const {
    for (int64_t i = 0; i < t.tokens; ++i) {
      float* out = out_of(t, i);
      for (int64_t h = 0; h < heads_; ++h) {
        const float scale = 1.0f / p.sum[i * heads_ + h];
        const float* from = p.out + (i * heads_ + h) * v_dim();
        for (int64_t d = 0; d < v_dim(); ++d) out[h * v_dim() + d] = from[d] * scale;
      }
    }
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
          if (begin > 0) merge(t, piece, sum);
        }
        finish(t, sum);
      }
    });
  }

  // Every piece is a task of its own.
  void split(int64_t pieces) {
    const ScratchScope scope(ctx_.scratch);
    float* parts = ctx_.scratch.take<float>(tasks_ * pieces * part_floats());
    std::byte* scratch = ctx_.scratch.take<std::byte>(ctx_.pool.size() * scratch_bytes());
    ctx_.pool.for_each_chunk(tasks_ * pieces, 1, [&](int64_t first, int64_t last, int thread) {
      for (int64_t i = first; i < last; ++i) {
        const Task t = task(i / pieces);
        const int64_t begin = i % pieces * kPieceKeys;
        if (begin < keys_of(t))
          attend(t, begin, begin + kPieceKeys, part(parts + i * part_floats()), scratch + thread * scratch_bytes());
      }
    });
    ctx_.pool.for_range(tasks_, 1, [&](int64_t first, int64_t last, int) {
      for (int64_t i = first; i < last; ++i) {
        const Task t = task(i);
        const Part sum = part(parts + i * pieces * part_floats());
        for (int64_t p = 1; p * kPieceKeys < keys_of(t); ++p)
          merge(t, part(parts + (i * pieces + p) * part_floats()), sum);
        finish(t, sum);
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
