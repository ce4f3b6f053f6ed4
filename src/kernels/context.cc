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
  bytes = round_up(bytes, kAlignment);
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

int64_t panels_of(const Mat& w) {
  return (w.rows + kPanelRows - 1) / kPanelRows;
}

Q8Rows quantise(Context& ctx, const float* x, int64_t ldx, int64_t T, int64_t cols) {
  Q8Rows q;
  q.cols = cols;
  q.qs = ctx.scratch.take<int8_t>(T * cols);
  q.d = ctx.scratch.take<float>(T * cols / 32);
  q.sums = ctx.scratch.take<int16_t>(T * cols / 16);
  const auto part = [&](int64_t begin, int64_t end, int) {
    const Q8Rows rows = {q.qs_row(begin), q.d_row(begin), q.sums_row(begin), cols};
    ctx.kernels.quantise_q8(x + begin * ldx, ldx, end - begin, rows);
  };
  if (T * cols < kMinParallelQuantise) {
    part(0, T, 0);
  } else {
    ctx.pool.for_range(T, 1, part);
  }
  return q;
}

}  // namespace

void linear_many(Context& ctx, const LinearJob* jobs, int n_jobs, const float* x, int64_t ldx, int64_t T) {
  if (n_jobs == 0 || T == 0) return;
  const int64_t cols = jobs[0].w->cols;
  bool any_q8 = false;
  int64_t panels = 0, rows = 0;
  for (int j = 0; j < n_jobs; ++j) {
    const Mat& w = *jobs[j].w;
    CHECK(w && w.cols == cols, "job {}: [{}, {}], {} inputs", j, w.rows, w.cols, cols);
    CHECK(jobs[j].ldy >= w.rows || T == 1, "job {}: {} rows, ldy {}", j, w.rows, jobs[j].ldy);
    any_q8 = any_q8 || takes_q8(ctx, w);
    panels += panels_of(w);
    rows += w.rows;
  }
  CHECK(ldx >= cols || T == 1, "{} inputs, ldx {}", cols, ldx);
  CHECK(!any_q8 || cols % 32 == 0, "{} inputs of blocks of 32", cols);

  const ScratchScope scope(ctx.scratch);
  const Q8Rows q = any_q8 ? quantise(ctx, x, ldx, T, cols) : Q8Rows{};
  const int64_t panel_floats = round_up(kPanelRows * cols, kAlignment / 4);
  float* scratch = ctx.scratch.take<float>(ctx.pool.size() * panel_floats);

  // Panels [begin, end) of the line of all jobs.
  const auto work = [&](int64_t begin, int64_t end, int thread) {
    float* panel = scratch + thread * panel_floats;
    for (int j = 0; j < n_jobs && end > 0; ++j) {
      const LinearJob& job = jobs[j];
      const RowRange range = {std::max<int64_t>(begin, 0) * kPanelRows, std::min(end * kPanelRows, job.w->rows)};
      if (range.begin < range.end) {
        if (takes_q8(ctx, *job.w)) {
          ctx.kernels.gemm_q8(*job.w, range, q, T, job.y, job.ldy, panel);
        } else {
          ctx.kernels.gemm_f32(*job.w, range, x, ldx, T, job.y, job.ldy, panel);
        }
      }
      begin -= panels_of(*job.w);
      end -= panels_of(*job.w);
    }
  };
  if (rows * cols * T < kMinParallelWork) {
    work(0, panels, 0);
  } else {
    ctx.pool.for_range(panels, 1, work);
  }
}

void linear(Context& ctx, const Mat& w, const float* x, int64_t ldx, int64_t T, float* y, int64_t ldy) {
  const LinearJob job = {&w, y, ldy};
  linear_many(ctx, &job, 1, x, ldx, T);
}

// Threads share the tokens when there are several; one token alone is done by the caller, because the columns of a
// quantised row cannot be cut and the sum over rows must keep its order.
void linear_transposed(Context& ctx, const Mat& w, const float* x, int64_t ldx, int64_t T, float* y, int64_t ldy) {
  if (T == 0) return;
  CHECK(w, "[{}, {}] without data", w.rows, w.cols);
  CHECK((ldx >= w.rows && ldy >= w.cols) || T == 1, "[{}, {}]: ldx {}, ldy {}", w.rows, w.cols, ldx, ldy);
  const ScratchScope scope(ctx.scratch);
  const int64_t panel_floats = round_up(kPanelRows * w.cols, kAlignment / 4);
  float* scratch = ctx.scratch.take<float>(ctx.pool.size() * panel_floats);
  const auto work = [&](int64_t begin, int64_t end, int thread) {
    for (int64_t t = begin; t < end; ++t) std::fill(y + t * ldy, y + t * ldy + w.cols, 0.0f);
    ctx.kernels.gemm_nn_f32(w, {0, w.rows}, x + begin * ldx, ldx, end - begin, y + begin * ldy, ldy,
                            scratch + thread * panel_floats);
  };
  if (w.rows * w.cols * T < kMinParallelWork) {
    work(0, T, 0);
  } else {
    ctx.pool.for_range(T, 1, work);
  }
}

}  // namespace westlake
