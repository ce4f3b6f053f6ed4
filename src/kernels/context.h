// Context: what every computation is given: kernels, threads, precision, scratch memory. Passed, never global.
#pragma once

#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "base/thread_pool.h"
#include "kernels/kernels.h"
#include "kernels/profile.h"

namespace westlake {

// A stack of scratch floats that lives as long as the context and grows to the largest need seen.
// Mark, take, release: scopes nest like function calls. Not Thread-safe: only the calling thread takes.
class Scratch {
 public:
  // Uninitialised, 64-byte aligned. Valid until the mark that was current at the take is released.
  template <typename T>
  T* take(int64_t count) {
    return static_cast<T*>(take_bytes(count * static_cast<int64_t>(sizeof(T))));
  }
  struct Mark {
    size_t block;
    int64_t used;
  };
  Mark mark() const { return {current_, used_}; }
  void release(Mark mark) {
    current_ = mark.block;
    used_ = mark.used;
  }
  int64_t reserved_bytes() const;

 private:
  struct Free {
    std::align_val_t alignment;
    void operator()(std::byte* p) const;
  };
  struct Block {
    std::unique_ptr<std::byte[], Free> data;
    int64_t size_bytes;
  };
  void* take_bytes(int64_t bytes);
  std::vector<Block> blocks_;
  size_t current_ = 0;
  int64_t used_ = 0;
};

// Releases on leaving the scope what was taken in it.
class ScratchScope {
 public:
  explicit ScratchScope(Scratch& scratch) : scratch_(scratch), mark_(scratch.mark()) {}
  ~ScratchScope() { scratch_.release(mark_); }
  ScratchScope(const ScratchScope&) = delete;
  ScratchScope& operator=(const ScratchScope&) = delete;

 private:
  Scratch& scratch_;
  Scratch::Mark mark_;
};

struct Context {
  const KernelTable& kernels;
  ThreadPool& pool;
  bool exact = false;  // float32 activations everywhere; false: activations of quantised weights are quantised too
  // Quantised activations as the sum of two int8 rows, x ~ d q + d' q' (the second is what the first leaves): sixteen
  // bits for twice the products and the same weights read. For models so small that they feel the rounding.
  bool fine = false;
  Scratch scratch{};
  Profile* profile = nullptr;  // where the time went, for who asks; null: nobody counts
};

// y[T, N] = x[T, K] W^T, cut over the threads of the context. The fast path quantises x when W is quantised, unless
// ctx.exact. `x` row stride ldx, `y` row stride ldy.
void linear(Context& ctx, const Mat& w, const float* x, int64_t ldx, int64_t T, float* y, int64_t ldy);

// Several products in one parallel region: q, k, v of one input; gate and up of all chosen experts; down of each expert
// over its own tokens. Inputs that are the same pointer in neighbouring jobs are quantised once. The work of all jobs
// is cut over the threads together, so that they end together.
struct LinearJob {
  const Mat* w;    // [N, K]
  const float* x;  // [T, K]
  int64_t ldx;
  int64_t T;
  float* y;  // [T, N]
  int64_t ldy;
};
void linear_jobs(Context& ctx, const LinearJob* jobs, int n_jobs);

// As linear(), with float32 activations whatever the context says: routers, where rounding would change the choice.
void linear_f32(Context& ctx, const Mat& w, const float* x, int64_t ldx, int64_t T, float* y, int64_t ldy);

// y[T, K] = x[T, N] W: the transposed product.
void linear_transposed(Context& ctx, const Mat& w, const float* x, int64_t ldx, int64_t T, float* y, int64_t ldy);

}  // namespace westlake
