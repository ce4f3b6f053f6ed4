#include "layers/attention.h"

#include <algorithm>

namespace westlake {

RopeAngles rope_angles(Context& ctx, const Rope& rope, std::span<const AttentionSegment> segments, int64_t T) {
  const int64_t half = rope.dim() / 2;
  float* cos = ctx.scratch.take<float>(T * half);
  float* sin = ctx.scratch.take<float>(T * half);
  for (const AttentionSegment& segment : segments) {
    for (int64_t i = 0; i < segment.T; ++i) {
      const int64_t row = segment.first_row + i;
      rope.angles(segment.start + i, cos + row * half, sin + row * half);
    }
  }
  return {cos, sin, half};
}

void for_attend_tasks(Context& ctx, std::span<const AttentionSegment> segments, int64_t groups, int64_t group_size,
                      FunctionRef<void(const AttendTask&, int)> f) {
  int64_t rows = 0;
  for (const AttentionSegment& segment : segments) rows += segment.T;
  // Twice as many tasks as threads even out different lengths; cutting finer only rereads keys.
  const int64_t wanted = 2 * ctx.pool.size();
  const int64_t cuts =
      ctx.pool.size() == 1 ? 1 : std::clamp<int64_t>((wanted + rows * groups - 1) / (rows * groups), 1, group_size);
  const int64_t per_row = groups * cuts;
  ctx.pool.for_each_chunk(rows * per_row, 1, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t index = begin; index < end; ++index) {
      int64_t row = index / per_row, segment = 0;
      while (row >= segments[segment].T) row -= segments[segment++].T;
      const int64_t part = index % per_row, cut = part % cuts;
      AttendTask task;
      task.segment = segment;
      task.row = segments[segment].first_row + row;
      task.n_keys = segments[segment].start + row + 1;
      task.group = part / cuts;
      task.q_begin = group_size * cut / cuts;
      task.q_end = group_size * (cut + 1) / cuts;
      f(task, thread);
    }
  });
}

OpWork attend_work(std::span<const AttentionSegment> segments, int64_t floats, int64_t heads, int64_t dims) {
  OpWork work;
  for (const AttentionSegment& s : segments) {
    const int64_t keys = s.T * s.start + s.T * (s.T + 1) / 2;
    work.bytes += (s.start + s.T) * floats * static_cast<int64_t>(sizeof(float));
    work.float_ops += 2 * keys * heads * dims;
  }
  return work;
}

int64_t max_keys(std::span<const AttentionSegment> segments) {
  int64_t most = 0;
  for (const AttentionSegment& segment : segments) most = std::max(most, segment.start + segment.T);
  return most;
}

}  // namespace westlake
