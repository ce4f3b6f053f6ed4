// Scratch memory, and the cutting of products over threads.
//
// Idea: the rows of the weights are cut in panels of kPanelRows; all panels of all jobs form one line of work, which is
// cut once over the threads. A step of decode is bound by the cost of starting regions, so there is one region a call
// (a second one only when there are many activations to quantise), and nothing is allocated once the scratch is warm.
#include "kernels/context.h"

#include <algorithm>
#include <new>

#include "base/check.h"

namespace westlake {
namespace {

constexpr int64_t kAlignment = 64;  // bytes: a cache line, and the widest vector
constexpr int64_t kFirstBlockBytes = 1 << 20;

int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

}  // namespace

// ------------------------------------------------------------------------------------------------------------- scratch

void Scratch::Free::operator()(std::byte* p) const {
  ::operator delete[](p, std::align_val_t(kAlignment));
}

void* Scratch::take_bytes(int64_t bytes) {
  CHECK(bytes >= 0, "{} bytes", bytes);
  bytes = round_up(std::max<int64_t>(bytes, 1), kAlignment);  // even an empty take has an address of its own
  for (; current_ < blocks_.size(); ++current_, used_ = 0) {
    if (blocks_[current_].size_bytes - used_ < bytes) continue;
    void* taken = blocks_[current_].data.get() + used_;
    used_ += bytes;
    return taken;
  }
  const int64_t size = std::max({bytes, kFirstBlockBytes, 2 * (blocks_.empty() ? 0 : blocks_.back().size_bytes)});
  auto* data = static_cast<std::byte*>(::operator new[](static_cast<size_t>(size), std::align_val_t(kAlignment)));
  blocks_.push_back({std::unique_ptr<std::byte[], Free>(data), size});
  used_ = bytes;
  return data;
}

int64_t Scratch::reserved_bytes() const {
  int64_t sum = 0;
  for (const Block& block : blocks_) sum += block.size_bytes;
  return sum;
}

// ------------------------------------------------------------------------------------------------------------ products

namespace {

// Below this many multiply-adds one thread is done sooner than two are started (a region costs about a microsecond).
constexpr int64_t kMinParallelWork = 1 << 15;

// Activations fewer than this are quantised by the caller alone.
constexpr int64_t kMinParallelQuantise = 1 << 15;

bool takes_q8(const Context& ctx, const Mat& w) {
  return is_quantised(w.dtype) && !ctx.exact;
}

bool takes_bf16(const Context& ctx, const Mat& w) {
  return w.dtype == DType::kBF16 && !ctx.exact && ctx.kernels.gemm_bf16 != nullptr && w.cols % 32 == 0;
}

int64_t panels_of(const Mat& w) {
  return (w.rows + kPanelRows - 1) / kPanelRows;
}

// What a panel of a job costs, in any unit: its weights must be read (a few tokens' worth) and multiplied.
int64_t panel_cost(const LinearJob& job) {
  return job.w->cols * (job.T + 2);
}

void check_job(const Context& ctx, const LinearJob& job) {
  const Mat& w = *job.w;
  CHECK(w, "[{}, {}] without data", w.rows, w.cols);
  CHECK((job.ldx >= w.cols && job.ldy >= w.rows) || job.T <= 1, "[{}, {}]: ldx {}, ldy {}", w.rows, w.cols, job.ldx,
        job.ldy);
  CHECK(!takes_q8(ctx, w) || w.cols % 32 == 0, "{} inputs in blocks of 32", w.cols);
}

// What a product reads and computes: the weights once.
OpWork product_work(const LinearJob& job, bool q8) {
  const int64_t ops = 2 * job.w->rows * job.w->cols * job.T;
  return {job.T > 0 ? job.w->bytes() : 0, q8 ? ops : 0, q8 ? 0 : ops};
}

// What a product takes for x: one of the two, or float32 as it is given.
struct Input {
  Q8Rows q8;
  Bf16Rows bf16;
  Q8Rest* rest = nullptr;  // of q8, for fine activations
  bool first = false;      // of the jobs that share it: to be made for this one
};

// A block keeps what its int8 leave when the square of its scale is over this many times the mean of its row. The error
// of rounding goes with that square, and outliers stand in few blocks: a tenth of them holds most of it (docs/log.md).
constexpr float kRestRatio = 2.0f;

// The rests of the tokens of one group, whose int8 are there already.
void keep_rests(const Context& ctx, const LinearJob& job, const Input& input, int64_t group) {
  const int64_t begin = group * kRestTokens, end = std::min(job.T, begin + kRestTokens), blocks = job.w->cols / 32;
  const Q8Rest& rest = *input.rest;
  float least[kRestTokens];  // squares of scales above it are kept
  for (int64_t t = begin; t < end; ++t) {
    const float* d = input.q8.d_row(t);
    float squares = 0;
    for (int64_t b = 0; b < blocks; ++b) squares += d[b] * d[b];
    least[t - begin] = kRestRatio * squares / static_cast<float>(blocks);
  }
  int64_t pair = begin * blocks;
  int32_t* starts = rest.starts + group * (blocks + 1);
  for (int64_t b = 0; b < blocks; ++b) {
    starts[b] = static_cast<int32_t>(pair);
    for (int64_t t = begin; t < end; ++t) {
      const float d = input.q8.d_row(t)[b];
      if (!(d * d > least[t - begin])) continue;
      const float* x = job.x + t * job.ldx + 32 * b;
      const int8_t* qs = input.q8.qs_row(t) + 32 * b;
      float left[32];
      for (int k = 0; k < 32; ++k) left[k] = x[k] - d * static_cast<float>(qs[k]);
      const Q8Rows& to = rest.blocks;
      ctx.kernels.quantise_q8(left, 32, 1, {to.qs_row(pair), to.d_row(pair), to.sums_row(pair), 32});
      rest.token[pair++] = static_cast<int32_t>(t - begin);
    }
  }
  starts[blocks] = static_cast<int32_t>(pair);
}

// Memory for the input of a job that takes rounded ones.
Input plan_input(Context& ctx, const LinearJob& job) {
  const int64_t cols = job.w->cols, size = job.T * cols;
  const auto rows = [&](int64_t row_cols) {
    return Q8Rows{ctx.scratch.take<int8_t>(size), ctx.scratch.take<float>(size / 32),
                  ctx.scratch.take<int16_t>(size / 16), row_cols};
  };
  Input input{.first = true};
  if (takes_bf16(ctx, *job.w)) {
    input.bf16 = {ctx.scratch.take<uint16_t>(Bf16Rows::numbers(job.T, cols)), cols};
    return input;
  }
  input.q8 = rows(cols);
  if (!ctx.fine) return input;
  const int64_t groups = (job.T + kRestTokens - 1) / kRestTokens;
  input.rest = ctx.scratch.take<Q8Rest>(1);
  *input.rest = {rows(32), ctx.scratch.take<int32_t>(size / 32), ctx.scratch.take<int32_t>(groups * (cols / 32 + 1))};
  input.q8.rest = input.rest;
  return input;
}

// Part `part` of `parts` of the tokens of a job, rounded; of bfloat16 and of rests whole groups.
void make_input(const Context& ctx, const LinearJob& job, const Input& input, int64_t part, int64_t parts) {
  const int64_t unit = input.bf16.data != nullptr ? kBf16Group : input.rest != nullptr ? kRestTokens : 1;
  const int64_t units = (job.T + unit - 1) / unit;
  const int64_t begin = units * part / parts * unit, end = std::min(job.T, units * (part + 1) / parts * unit);
  if (begin >= end) return;
  const float* x = job.x + begin * job.ldx;
  if (input.bf16.data != nullptr)
    return ctx.kernels.round_bf16(x, job.ldx, end - begin, {input.bf16.group(begin), input.bf16.cols});
  const Q8Rows& rows = input.q8;
  ctx.kernels.quantise_q8(x, job.ldx, end - begin,
                          {rows.qs_row(begin), rows.d_row(begin), rows.sums_row(begin), rows.cols});
  for (int64_t t = begin; input.rest != nullptr && t < end; t += kRestTokens)
    keep_rests(ctx, job, input, t / kRestTokens);
}

bool same_rows(const LinearJob& a, const LinearJob& b) {
  return a.x == b.x && a.T == b.T && a.ldx == b.ldx && a.w->cols == b.w->cols;
}

// The activations of every job that takes them as int8 or bfloat16; neighbours with the same input share.
const Input* make_inputs(Context& ctx, const LinearJob* jobs, int n_jobs) {
  Input* inputs = ctx.scratch.take<Input>(n_jobs);
  int64_t numbers = 0;
  for (int j = 0; j < n_jobs; ++j) {
    inputs[j] = {};
    const bool q8 = takes_q8(ctx, *jobs[j].w);
    if (!q8 && !takes_bf16(ctx, *jobs[j].w)) continue;
    const Input* before = j > 0 && same_rows(jobs[j - 1], jobs[j]) ? &inputs[j - 1] : nullptr;
    if (before != nullptr && (q8 ? before->q8.qs != nullptr : before->bf16.data != nullptr)) {
      inputs[j] = *before;
      inputs[j].first = false;
      continue;
    }
    inputs[j] = plan_input(ctx, jobs[j]);
    numbers += jobs[j].T * jobs[j].w->cols;
  }
  if (numbers == 0) return inputs;
  const OpTimer timer(ctx.profile, "quantise");
  const auto make = [&](int64_t part, int64_t parts) {
    for (int j = 0; j < n_jobs; ++j) {
      if (inputs[j].first) make_input(ctx, jobs[j], inputs[j], part, parts);
    }
  };
  if (numbers < kMinParallelQuantise) {
    make(0, 1);
  } else {
    ctx.pool.run([&](int thread) { make(thread, ctx.pool.size()); });
  }
  return inputs;
}

void run_jobs(Context& ctx, const LinearJob* jobs, int n_jobs, const Input* inputs) {
  int64_t total_cost = 0, work = 0, cols = 0;
  for (int j = 0; j < n_jobs; ++j) {
    total_cost += panels_of(*jobs[j].w) * panel_cost(jobs[j]);
    work += jobs[j].w->rows * jobs[j].w->cols * jobs[j].T;
    if (ctx.profile != nullptr) ctx.profile->count(product_work(jobs[j], inputs && inputs[j].q8.qs));
    cols = std::max(cols, jobs[j].w->cols);
  }
  const int64_t panel_floats = round_up(kPanelRows * cols, kAlignment / 4);
  float* panels = ctx.scratch.take<float>(ctx.pool.size() * panel_floats);

  // The panels whose cost begins in [total part / parts, total (part + 1) / parts) on the line of all jobs.
  const auto run = [&](int part, int parts) {
    int64_t lo = total_cost * part / parts, hi = total_cost * (part + 1) / parts;
    for (int j = 0; j < n_jobs && hi > 0; ++j) {
      const LinearJob& job = jobs[j];
      const int64_t cost = panel_cost(job), count = panels_of(*job.w);
      const int64_t begin = std::clamp<int64_t>((lo + cost - 1) / cost, 0, count);
      const int64_t end = std::clamp<int64_t>((hi + cost - 1) / cost, 0, count);
      const RowRange rows = {begin * kPanelRows, std::min(end * kPanelRows, job.w->rows)};
      float* panel = panels + part * panel_floats;
      if (rows.begin < rows.end && job.T > 0) {
        if (inputs && inputs[j].q8.qs) {
          ctx.kernels.gemm_q8(*job.w, rows, inputs[j].q8, job.T, job.y, job.ldy, panel);
        } else if (inputs && inputs[j].bf16.data) {
          ctx.kernels.gemm_bf16(*job.w, rows, inputs[j].bf16, job.T, job.y, job.ldy, panel);
        } else {
          ctx.kernels.gemm_f32(*job.w, rows, job.x, job.ldx, job.T, job.y, job.ldy, panel);
        }
      }
      lo -= cost * count;
      hi -= cost * count;
    }
  };
  if (work < kMinParallelWork) {
    run(0, 1);
  } else {
    ctx.pool.run([&](int thread) { run(thread, ctx.pool.size()); });
  }
}

}  // namespace

void linear_jobs(Context& ctx, const LinearJob* jobs, int n_jobs) {
  for (int j = 0; j < n_jobs; ++j) check_job(ctx, jobs[j]);
  const ScratchScope scope(ctx.scratch);
  run_jobs(ctx, jobs, n_jobs, make_inputs(ctx, jobs, n_jobs));
}

void linear(Context& ctx, const Mat& w, const float* x, int64_t ldx, int64_t T, float* y, int64_t ldy) {
  const LinearJob job = {&w, x, ldx, T, y, ldy};
  linear_jobs(ctx, &job, 1);
}

void linear_f32(Context& ctx, const Mat& w, const float* x, int64_t ldx, int64_t T, float* y, int64_t ldy) {
  const LinearJob job = {&w, x, ldx, T, y, ldy};
  CHECK(w, "[{}, {}] without data", w.rows, w.cols);
  const ScratchScope scope(ctx.scratch);
  run_jobs(ctx, &job, 1, nullptr);
}

// Threads share the tokens when there are several. One token alone is the caller's: its sum over the rows keeps its
// order, and the columns of a quantised row cannot be cut.
void linear_transposed(Context& ctx, const Mat& w, const float* x, int64_t ldx, int64_t T, float* y, int64_t ldy) {
  CHECK(w, "[{}, {}] without data", w.rows, w.cols);
  CHECK((ldx >= w.rows && ldy >= w.cols) || T <= 1, "[{}, {}]: ldx {}, ldy {}", w.rows, w.cols, ldx, ldy);
  const ScratchScope scope(ctx.scratch);
  const int64_t panel_floats = round_up(kPanelRows * w.cols, kAlignment / 4);
  float* panels = ctx.scratch.take<float>(ctx.pool.size() * panel_floats);
  if (ctx.profile != nullptr) ctx.profile->count({w.bytes(), 0, 2 * w.rows * w.cols * T});
  const auto work = [&](int64_t begin, int64_t end, int thread) {
    for (int64_t t = begin; t < end; ++t) std::fill(y + t * ldy, y + t * ldy + w.cols, 0.0f);
    ctx.kernels.gemm_nn_f32(w, {0, w.rows}, x + begin * ldx, ldx, end - begin, y + begin * ldy, ldy,
                            panels + thread * panel_floats);
  };
  if (T > 0 && w.rows * w.cols * T < kMinParallelWork) {
    work(0, T, 0);
  } else {
    ctx.pool.for_range(T, 1, work);
  }
}

}  // namespace westlake
