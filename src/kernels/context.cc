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
#include "kernels/job_inputs.h"

namespace westlake {
namespace {

constexpr int64_t kAlignment = 64;  // bytes: a cache line, and the widest vector
constexpr int64_t kFirstBlockBytes = 1 << 20;
// Rows of activations lie kilobytes apart: in pages of 4 KB each of them would miss the address cache. Blocks that hold
// some are in large pages.
constexpr int64_t kLargePage = 2 << 20;

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
  const auto alignment = std::align_val_t(size >= 2 * kLargePage ? kLargePage : kAlignment);
  auto* data = static_cast<std::byte*>(::operator new[](static_cast<size_t>(size), alignment));
  blocks_.push_back({std::unique_ptr<std::byte[], Free>(data, Free{alignment}), size});
  if (size >= 2 * kLargePage) madvise(data, static_cast<size_t>(size), MADV_HUGEPAGE);  // no error where it cannot be
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
  CHECK((job.ldx >= w.cols && job.ldy >= w.rows) || std::max(job.T, job.input_rows()) <= 1, "[{}, {}]: ldx {}, ldy {}",
        w.rows, w.cols, job.ldx, job.ldy);
  CHECK(!takes_q8(ctx, w) || w.cols % 32 == 0, "{} inputs in blocks of 32", w.cols);
}

// What a product reads and computes: the weights once.
OpWork product_work(const LinearJob& job, bool q8) {
  const int64_t ops = 2 * job.w->rows * job.w->cols * job.T;
  return {job.T > 0 ? job.w->bytes() : 0, q8 ? ops : 0, q8 ? 0 : ops};
}

// Pieces of work a thread, at the least, where there are many jobs.
constexpr int64_t kPieces = 8;

// Multiply-adds that make a piece long beside the taking of it; with less the memory is the limit, and each thread
// reads a stretch of it.
constexpr int64_t kMinPiecesWork = 1 << 24;

// Panels [begin, end) of a job.
struct Piece {
  int job;
  int64_t begin, end;
};

// Jobs as pieces to be taken by whoever is free: whole ones, because each piece packs its activations again, but for
// those that one thread alone would still be at when the others are done.
int64_t cut_pieces(const LinearJob* jobs, int n_jobs, int64_t most_cost, Piece* pieces) {
  int64_t n = 0;
  for (int j = 0; j < n_jobs; ++j) {
    const int64_t count = panels_of(*jobs[j].w), parts = count * panel_cost(jobs[j]) / most_cost + 1;
    for (int64_t i = 0; i < parts; ++i) pieces[n++] = {j, count * i / parts, count * (i + 1) / parts};
  }
  return n;
}

void run_jobs(Context& ctx, const LinearJob* jobs, int n_jobs, const JobInput* inputs) {
  int64_t total_cost = 0, work = 0, cols = 0;
  for (int j = 0; j < n_jobs; ++j) {
    total_cost += panels_of(*jobs[j].w) * panel_cost(jobs[j]);
    work += jobs[j].w->rows * jobs[j].w->cols * jobs[j].T;
    if (ctx.profile != nullptr) ctx.profile->count(product_work(jobs[j], inputs[j].q8.qs != nullptr));
    cols = std::max(cols, jobs[j].w->cols);
  }
  const int64_t panel_floats = round_up(kScratchRows * cols, kAlignment / 4);
  float* panels = ctx.scratch.take<float>(ctx.pool.size() * panel_floats);

  const auto run_panels = [&](int j, int64_t begin, int64_t end, int thread) {
    const LinearJob& job = jobs[j];
    const JobInput& input = inputs[j];
    const RowRange rows = {begin * kPanelRows, std::min(end * kPanelRows, job.w->rows)};
    float* panel = panels + thread * panel_floats;
    if (rows.begin >= rows.end || job.T == 0) return;
    if (input.q8.qs != nullptr) {
      ctx.kernels.gemm_q8(*job.w, rows, input.q8, job.T, job.y, job.ldy, panel);
    } else if (input.bf16.data != nullptr) {
      ctx.kernels.gemm_bf16(*job.w, rows, input.bf16, job.T, job.y, job.ldy, panel);
    } else {
      ctx.kernels.gemm_f32(*job.w, rows, input.x, input.ldx, job.T, job.y, job.ldy, panel);
    }
  };
  // The panels whose cost begins in [total part / parts, total (part + 1) / parts) on the line of all jobs.
  const auto run = [&](int part, int parts) {
    int64_t lo = total_cost * part / parts, hi = total_cost * (part + 1) / parts;
    for (int j = 0; j < n_jobs && hi > 0; ++j) {
      const int64_t cost = panel_cost(jobs[j]), count = panels_of(*jobs[j].w);
      const int64_t begin = std::clamp<int64_t>((lo + cost - 1) / cost, 0, count);
      run_panels(j, begin, std::clamp<int64_t>((hi + cost - 1) / cost, 0, count), part);
      lo -= cost * count;
      hi -= cost * count;
    }
  };
  const int64_t threads = ctx.pool.size(), least = kPieces * threads;
  if (work < kMinParallelWork) {
    run(0, 1);
  } else if (n_jobs < least || work < kMinPiecesWork * least) {
    ctx.pool.run([&](int thread) { run(thread, static_cast<int>(threads)); });
  } else {
    Piece* pieces = ctx.scratch.take<Piece>(n_jobs + least);
    const int64_t n = cut_pieces(jobs, n_jobs, total_cost / least + 1, pieces);
    ctx.pool.for_each_chunk(n, 1, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t i = begin; i < end; ++i) run_panels(pieces[i].job, pieces[i].begin, pieces[i].end, thread);
    });
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
  const JobInput input{.x = x, .ldx = ldx};
  run_jobs(ctx, &job, 1, &input);
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
