#include "kernels/job_inputs.h"

#include <algorithm>

namespace westlake {
namespace {

// Numbers fewer than this are rounded by the caller alone.
constexpr int64_t kMinParallelNumbers = 1 << 15;

// A block keeps what its int8 leave when the square of its scale is over this many times the mean of its row. The error
// of rounding goes with that square, and outliers stand in few blocks: a tenth of them holds most of it (docs/log.md).
constexpr float kRestRatio = 2.0f;

bool takes_bf16(const Context& ctx, const Mat& w) {
  return w.dtype == DType::kBF16 && !ctx.exact && ctx.kernels.gemm_bf16 != nullptr && w.cols % 32 == 0;
}

// Whether the input of a job is all rows of x, to be read by index; else it is the rows of the job's tokens.
bool keeps_all_rows(const Context& ctx, const LinearJob& job) {
  return takes_q8(ctx, *job.w) && !ctx.fine;
}

bool same_input(const Context& ctx, const LinearJob& a, const LinearJob& b) {
  if (a.x != b.x || a.up != b.up || a.ldx != b.ldx || a.w->cols != b.w->cols) return false;
  if (takes_q8(ctx, *a.w) != takes_q8(ctx, *b.w) || takes_bf16(ctx, *a.w) != takes_bf16(ctx, *b.w)) return false;
  return keeps_all_rows(ctx, a) ? a.input_rows() == b.input_rows() : a.T == b.T && a.index == b.index;
}

// Memory for the input of a job.
JobInput plan_input(Context& ctx, const LinearJob& job) {
  const int64_t cols = job.w->cols, size = (keeps_all_rows(ctx, job) ? job.input_rows() : job.T) * cols;
  const auto rows = [&](int64_t row_cols) {
    return Q8Rows{ctx.scratch.take<int8_t>(size), ctx.scratch.take<float>(size / 32),
                  ctx.scratch.take<int16_t>(size / 16), row_cols};
  };
  JobInput input{.first = true};
  if (takes_bf16(ctx, *job.w)) {
    input.bf16 = {ctx.scratch.take<uint16_t>(Bf16Rows::numbers(job.T, cols)), cols};
  } else if (!takes_q8(ctx, *job.w)) {
    input.first = job.up != nullptr || job.index != nullptr;
    input.made = input.first ? ctx.scratch.take<float>(size) : nullptr;
    input.x = input.first ? input.made : job.x;
    input.ldx = input.first ? cols : job.ldx;
  } else {
    input.q8 = rows(cols);
    if (!ctx.fine) return input;
    const int64_t groups = (job.T + kRestTokens - 1) / kRestTokens;
    input.rest = ctx.scratch.take<Q8Rest>(1);
    *input.rest = {rows(32), ctx.scratch.take<int32_t>(size / 32), ctx.scratch.take<int32_t>(groups * (cols / 32 + 1))};
    input.q8.rest = input.rest;
  }
  return input;
}

// Rows that are made together.
int64_t rows_at_once(const JobInput& input) {
  return input.bf16.data != nullptr ? kBf16Group : input.rest != nullptr ? kRestTokens : 1;
}

struct FloatRows {
  const float* x;
  int64_t ldx;
};

// Rows [begin, end) of the input of a job in float32: where x has them, or in `memory`.
FloatRows float_rows(const Context& ctx, const LinearJob& job, int64_t begin, int64_t end, float* memory) {
  const int32_t* index = keeps_all_rows(ctx, job) ? nullptr : job.index;
  if (job.up == nullptr && index == nullptr) return {job.x + begin * job.ldx, job.ldx};
  const int64_t cols = job.w->cols;
  for (int64_t t = begin; t < end; ++t) {
    const int64_t at = (index != nullptr ? index[t] : t) * job.ldx;
    float* to = memory + (t - begin) * cols;
    if (job.up != nullptr) {
      ctx.kernels.silu_mul(job.x + at, job.up + at, cols, to);
    } else {
      std::copy(job.x + at, job.x + at + cols, to);
    }
  }
  return {memory, cols};
}

// The rests of tokens [begin, end), one group, whose int8 are there already.
void keep_rests(const Context& ctx, const FloatRows& x, const JobInput& input, int64_t begin, int64_t end) {
  const int64_t blocks = input.q8.cols / 32;
  const Q8Rest& rest = *input.rest;
  float least[kRestTokens];  // squares of scales above it are kept
  for (int64_t t = begin; t < end; ++t) {
    const float* d = input.q8.d_row(t);
    float squares = 0;
    for (int64_t b = 0; b < blocks; ++b) squares += d[b] * d[b];
    least[t - begin] = kRestRatio * squares / static_cast<float>(blocks);
  }
  int64_t pair = begin * blocks;
  int32_t* starts = rest.starts + begin / kRestTokens * (blocks + 1);
  for (int64_t b = 0; b < blocks; ++b) {
    starts[b] = static_cast<int32_t>(pair);
    for (int64_t t = begin; t < end; ++t) {
      const float d = input.q8.d_row(t)[b];
      if (!(d * d > least[t - begin])) continue;
      const float* from = x.x + (t - begin) * x.ldx + 32 * b;
      const int8_t* qs = input.q8.qs_row(t) + 32 * b;
      float left[32];
      for (int k = 0; k < 32; ++k) left[k] = from[k] - d * static_cast<float>(qs[k]);
      const Q8Rows& to = rest.blocks;
      ctx.kernels.quantise_q8(left, 32, 1, {to.qs_row(pair), to.d_row(pair), to.sums_row(pair), 32});
      rest.token[pair++] = static_cast<int32_t>(t - begin);
    }
  }
  starts[blocks] = static_cast<int32_t>(pair);
}

// Part `part` of `parts` of an input. `memory` holds rows_at_once() rows, if they are no rows of x.
void make_input(const Context& ctx, const LinearJob& job, const JobInput& input, int64_t part, int64_t parts,
                float* memory) {
  const int64_t rows = keeps_all_rows(ctx, job) ? job.input_rows() : job.T, cols = job.w->cols;
  const int64_t unit = rows_at_once(input), units = (rows + unit - 1) / unit;
  const Q8Rows& q8 = input.q8;  // whatever the job's index
  for (int64_t u = units * part / parts; u < units * (part + 1) / parts; ++u) {
    const int64_t begin = u * unit, end = std::min(rows, begin + unit);
    const FloatRows x = float_rows(ctx, job, begin, end, input.made != nullptr ? input.made + begin * cols : memory);
    if (input.bf16.data != nullptr) {
      ctx.kernels.round_bf16(x.x, x.ldx, end - begin, {input.bf16.group(begin), cols});
    } else if (q8.qs != nullptr) {
      ctx.kernels.quantise_q8(x.x, x.ldx, end - begin,
                              {q8.qs + begin * cols, q8.d + begin * cols / 32, q8.sums + begin * cols / 16, cols});
      if (input.rest != nullptr) keep_rests(ctx, x, input, begin, end);
    }
  }
}

}  // namespace

bool takes_q8(const Context& ctx, const Mat& w) {
  return is_quantised(w.dtype) && !ctx.exact;
}

const JobInput* make_inputs(Context& ctx, const LinearJob* jobs, int n_jobs) {
  JobInput* inputs = ctx.scratch.take<JobInput>(n_jobs);
  int64_t numbers = 0, memory_floats = 0;
  bool silu = false;
  for (int j = 0; j < n_jobs; ++j) {
    const LinearJob& job = jobs[j];
    const bool shared = j > 0 && same_input(ctx, jobs[j - 1], job);
    inputs[j] = shared ? inputs[j - 1] : plan_input(ctx, job);
    if (shared) inputs[j].first = false;
    if (keeps_all_rows(ctx, job)) inputs[j].q8.index = job.index;
    if (!inputs[j].first) continue;
    numbers += (keeps_all_rows(ctx, job) ? job.input_rows() : job.T) * job.w->cols;
    memory_floats = std::max(memory_floats, rows_at_once(inputs[j]) * job.w->cols);
    silu |= job.up != nullptr;
  }
  if (numbers == 0) return inputs;
  const OpTimer timer(ctx.profile, silu ? "silu, quantise" : "quantise");
  float* memory = ctx.scratch.take<float>(ctx.pool.size() * memory_floats);
  const auto make = [&](int64_t part, int64_t parts) {
    for (int j = 0; j < n_jobs; ++j) {
      if (inputs[j].first) make_input(ctx, jobs[j], inputs[j], part, parts, memory + part * memory_floats);
    }
  };
  if (numbers < kMinParallelNumbers) {
    make(0, 1);
  } else {
    ctx.pool.run([&](int thread) { make(thread, ctx.pool.size()); });
  }
  return inputs;
}

}  // namespace westlake
