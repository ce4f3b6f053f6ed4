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

namespace {

// How the tasks of one segment are cut.
struct Cut {
  bool by_head;   // rows of one head, else heads of one row
  int64_t parts;  // a group is cut in, when not by_head
  int64_t tasks;
};

}  // namespace

void for_attend_tasks(Context& ctx, std::span<const AttentionSegment> segments, int64_t groups, int64_t group_size,
                      bool by_head, FunctionRef<void(const AttendTask&, int)> f) {
  int64_t rows = 0, tasks = 0;
  for (const AttentionSegment& segment : segments) rows += segment.T;
  // Twice as many tasks as threads even out different lengths; cutting finer only rereads keys.
  const int64_t wanted = 2 * ctx.pool.size();
  const int64_t parts =
      ctx.pool.size() == 1 ? 1 : std::clamp<int64_t>((wanted + rows * groups - 1) / (rows * groups), 1, group_size);
  const auto cut_of = [&](const AttentionSegment& s) -> Cut {
    if (by_head && s.T >= kTaskRows / 4) return {true, 1, groups * group_size * ((s.T + kTaskRows - 1) / kTaskRows)};
    return {false, parts, s.T * groups * parts};
  };
  for (const AttentionSegment& segment : segments) tasks += cut_of(segment).tasks;
  ctx.pool.for_each_chunk(tasks, 1, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t i = begin; i < end; ++i) {
      int64_t index = tasks - 1 - i, segment = 0;
      Cut cut = cut_of(segments[0]);
      while (index >= cut.tasks) {
        index -= cut.tasks;
        cut = cut_of(segments[++segment]);
      }
      const AttentionSegment& s = segments[segment];
      AttendTask task;
      task.segment = segment;
      int64_t row;
      if (cut.by_head) {
        row = index / (groups * group_size) * kTaskRows;
        task.rows = std::min(kTaskRows, s.T - row);
        task.head = index % (groups * group_size);
        task.heads = 1;
      } else {
        row = index / (groups * cut.parts);
        const int64_t group = index / cut.parts % groups, part = index % cut.parts;
        const int64_t first = group_size * part / cut.parts;
        task.rows = 1;
        task.head = group * group_size + first;
        task.heads = group_size * (part + 1) / cut.parts - first;
      }
      task.row = s.first_row + row;
      task.n_keys = s.start + row + 1;
      f(task, thread);
    }
  });
}

int64_t attend_scratch(std::span<const AttentionSegment> segments, int64_t group_size) {
  return max_keys(segments) * std::max(group_size, kTaskRows);
}

OpWork attend_work(std::span<const AttentionSegment> segments, int64_t floats, int64_t heads, int64_t dims) {
  OpWork work;
  for (const AttentionSegment& s : segments) {
    const int64_t keys = s.T * s.start + s.T * (s.T + 1) / 2;
    const int64_t width = floats > 0 && s.kv.q8() ? s.kv.width : floats;
    work.bytes += (s.start + s.T) * width * static_cast<int64_t>(sizeof(float));
    (s.kv.q8() && floats > 0 ? work.int8_ops : work.float_ops) += 2 * keys * heads * dims;
  }
  return work;
}

int64_t max_keys(std::span<const AttentionSegment> segments) {
  int64_t most = 0;
  for (const AttentionSegment& segment : segments) most = std::max(most, segment.start + segment.T);
  return most;
}

}  // namespace westlake
