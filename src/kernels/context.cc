// Scratch memory, and the cutting of products over threads.
//
// Idea: the rows of the weights are cut in panels of kPanelRows; all panels of all jobs form one line of work, which is
// cut once over the threads. A step of decode is bound by the cost of starting regions, so there is one region a call
// (a second one only when there are many activations to quantise), and nothing is allocated once the scratch is warm.
#include "kernels/context.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>

#include "base/check.h"

namespace westlake {
namespace {

constexpr int64_t kAlignment = 64;  // bytes: a cache line, and the widest vector
constexpr int64_t kFirstBlockBytes = 1 << 20;
constexpr int64_t kLargePage = 2 << 20;  // bytes; blocks of that many and more begin at one

constexpr std::align_val_t alignment_of(int64_t block_bytes) {
  return std::align_val_t(block_bytes >= kLargePage ? kLargePage : kAlignment);
}

int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

}  // namespace

// ------------------------------------------------------------------------------------------------------------- scratch

void Scratch::Free::operator()(std::byte* p) const {
  ::operator delete[](p, alignment);
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
  const std::align_val_t alignment = alignment_of(size);
  auto* data = static_cast<std::byte*>(::operator new[](static_cast<size_t>(size), alignment));
  // Fewer misses of the address cache; not being granted is no error.
  if (size >= kLargePage) madvise(data, static_cast<size_t>(size), MADV_HUGEPAGE);
  blocks_.push_back({std::unique_ptr<std::byte[], Free>(data, Free{alignment}), size});
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

// Rows of int8 that stand for the T rows of a job: fine activations take two each, [T] and then the rest of each [T].
int64_t q8_rows(const Context& ctx, int64_t T) {
  return ctx.fine ? 2 * T : T;
}

// Rows [begin, end) of a job: int8 and, for fine activations, int8 again of what that leaves. `rest` holds one row.
void quantise_rows(const Context& ctx, const LinearJob& job, const Q8Rows& rows, int64_t begin, int64_t end,
                   float* rest) {
  const auto from = [&](int64_t t) { return Q8Rows{rows.qs_row(t), rows.d_row(t), rows.sums_row(t), rows.cols}; };
  ctx.kernels.quantise_q8(job.x + begin * job.ldx, job.ldx, end - begin, from(begin));
  for (int64_t t = begin; ctx.fine && t < end; ++t) {
    const float* x = job.x + t * job.ldx;
    const int8_t* qs = rows.qs_row(t);
    const float* d = rows.d_row(t);
    for (int64_t k = 0; k < rows.cols; ++k) rest[k] = x[k] - d[k / 32] * static_cast<float>(qs[k]);
    ctx.kernels.quantise_q8(rest, rows.cols, 1, from(job.T + t));
  }
}

// What a product reads and computes: the weights once.
OpWork product_work(const LinearJob& job, bool q8) {
  const int64_t ops = 2 * job.w->rows * job.w->cols * job.T;
  return {job.T > 0 ? job.w->bytes() : 0, q8 ? ops : 0, q8 ? 0 : ops};
}

// The activations of every job that takes them as int8; neighbours with the same input share.
const Q8Rows* quantise_inputs(Context& ctx, const LinearJob* jobs, int n_jobs) {
  Q8Rows* inputs = ctx.scratch.take<Q8Rows>(n_jobs);
  int64_t elements = 0;
  for (int j = 0; j < n_jobs; ++j) {
    const LinearJob& job = jobs[j];
    inputs[j] = {};
    if (!takes_q8(ctx, *job.w)) continue;
    const int64_t cols = job.w->cols, size = q8_rows(ctx, job.T) * cols;
    if (j > 0 && inputs[j - 1].qs && jobs[j - 1].x == job.x && jobs[j - 1].T == job.T && jobs[j - 1].ldx == job.ldx &&
        jobs[j - 1].w->cols == cols) {
      inputs[j] = inputs[j - 1];
      continue;
    }
    inputs[j] = {ctx.scratch.take<int8_t>(size), ctx.scratch.take<float>(size / 32),
                 ctx.scratch.take<int16_t>(size / 16), cols};
    elements += size;
  }
  if (elements == 0) return inputs;
  const OpTimer timer(ctx.profile, "quantise");
  int64_t most_cols = 0;
  for (int j = 0; j < n_jobs; ++j) most_cols = std::max(most_cols, jobs[j].w->cols);
  float* rests = ctx.scratch.take<float>(ctx.fine ? ctx.pool.size() * most_cols : 0);

  // Tokens [T part / parts, T (part + 1) / parts) of each input.
  const auto quantise = [&](int64_t part, int64_t parts) {
    for (int j = 0; j < n_jobs; ++j) {
      if (!inputs[j].qs || (j > 0 && inputs[j].qs == inputs[j - 1].qs)) continue;
      const LinearJob& job = jobs[j];
      const int64_t begin = job.T * part / parts, end = job.T * (part + 1) / parts;
      if (begin < end) quantise_rows(ctx, job, inputs[j], begin, end, rests + part * most_cols);
    }
  };
  if (elements < kMinParallelQuantise) {
    quantise(0, 1);
  } else {
    ctx.pool.run([&](int thread) { quantise(thread, ctx.pool.size()); });
  }
  return inputs;
}

// Numbers that fine products keep of both halves before they are added: half of a second-level cache, so that a piece
// has rows enough to pay for what a call prepares.
constexpr int64_t kFineSums = 1 << 17;

int64_t fine_rows(int64_t T) {
  return std::max(kPanelRows, kFineSums / (2 * T) / kPanelRows * kPanelRows);
}

// y = product of the first T rows + product of the rest, the weights read once. sums: [2T, fine_rows(T)].
void fine_product(const Context& ctx, const LinearJob& job, RowRange rows, const Q8Rows& x, float* sums, float* panel) {
  const int64_t ld = fine_rows(job.T);
  for (int64_t begin = rows.begin; begin < rows.end; begin += ld) {
    Mat piece = *job.w;
    piece.data = job.w->row(begin);
    piece.rows = std::min(ld, rows.end - begin);
    ctx.kernels.gemm_q8(piece, {0, piece.rows}, x, 2 * job.T, sums, ld, panel);
    for (int64_t t = 0; t < job.T; ++t) {
      const float* rest = sums + (job.T + t) * ld;
      for (int64_t n = 0; n < piece.rows; ++n) job.y[t * job.ldy + begin + n] = sums[t * ld + n] + rest[n];
    }
  }
}

void run_jobs(Context& ctx, const LinearJob* jobs, int n_jobs, const Q8Rows* inputs) {
  int64_t total_cost = 0, work = 0, cols = 0, fine_floats = 0;
  for (int j = 0; j < n_jobs; ++j) {
    total_cost += panels_of(*jobs[j].w) * panel_cost(jobs[j]);
    work += jobs[j].w->rows * jobs[j].w->cols * jobs[j].T;
    if (ctx.profile != nullptr) ctx.profile->count(product_work(jobs[j], inputs && inputs[j].qs));
    cols = std::max(cols, jobs[j].w->cols);
    if (ctx.fine && jobs[j].T > 0) fine_floats = std::max(fine_floats, 2 * jobs[j].T * fine_rows(jobs[j].T));
  }
  const int64_t panel_floats = round_up(kPanelRows * cols, kAlignment / 4);
  float* panels = ctx.scratch.take<float>(ctx.pool.size() * panel_floats);
  float* sums = ctx.scratch.take<float>(ctx.pool.size() * fine_floats);

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
        if (inputs && inputs[j].qs && ctx.fine) {
          fine_product(ctx, job, rows, inputs[j], sums + part * fine_floats, panel);
        } else if (inputs && inputs[j].qs) {
          ctx.kernels.gemm_q8(*job.w, rows, inputs[j], job.T, job.y, job.ldy, panel);
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
  run_jobs(ctx, jobs, n_jobs, quantise_inputs(ctx, jobs, n_jobs));
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
