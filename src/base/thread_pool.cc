#include "base/thread_pool.h"

#include <sched.h>

#include <algorithm>

#include "base/check.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace westlake {
namespace {

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

// About 50 us at some 40 cycles a pause: longer than the gap between two regions of a decode step, short enough that an
// idle server does not burn a core.
constexpr int kSpins = 4000;

template <typename T>
void spin_while_equal(std::atomic<T>& word, T value) {
  for (int i = 0; i < kSpins; ++i) {
    if (word.load(std::memory_order_acquire) != value) return;
    relax();
  }
  word.wait(value, std::memory_order_acquire);
}

}  // namespace

int hardware_threads() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

ThreadPool::ThreadPool(int threads) : threads_(threads) {
  CHECK(threads >= 1 && threads <= 4096, "{} threads", threads);
  for (int i = 1; i < threads_; ++i) workers_.emplace_back([this, i] { worker(i); });
}

ThreadPool::~ThreadPool() {
  leave_.store(true, std::memory_order_relaxed);
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  for (std::thread& thread : workers_) thread.join();
}

void ThreadPool::worker(int thread) {
  uint32_t seen = 0;
  for (;;) {
    spin_while_equal(epoch_, seen);
    const uint32_t now = epoch_.load(std::memory_order_acquire);
    if (now == seen) continue;  // a spurious wake
    seen = now;
    if (leave_.load(std::memory_order_relaxed)) return;
    (*job_)(thread);
    if (pending_.fetch_sub(1, std::memory_order_acq_rel) == 1) pending_.notify_one();
  }
}

void ThreadPool::run(FunctionRef<void(int)> f) {
  if (threads_ == 1) return f(0);
  job_ = &f;
  pending_.store(threads_ - 1, std::memory_order_relaxed);
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  f(0);
  for (int32_t left; (left = pending_.load(std::memory_order_acquire)) != 0;) spin_while_equal(pending_, left);
}

void ThreadPool::for_range(int64_t n, int64_t grain, FunctionRef<void(int64_t, int64_t, int)> f) {
  if (n <= 0) return;
  const int64_t units = (n + grain - 1) / grain;
  if (units == 1 || threads_ == 1) return f(0, n, 0);
  run([&](int thread) {
    const int64_t begin = units * thread / threads_ * grain;
    const int64_t end = std::min(n, units * (thread + 1) / threads_ * grain);
    if (begin < end) f(begin, end, thread);
  });
}

void ThreadPool::for_each_chunk(int64_t n, int64_t grain, FunctionRef<void(int64_t, int64_t, int)> f) {
  if (n <= 0) return;
  if (n <= grain || threads_ == 1) return f(0, n, 0);
  std::atomic<int64_t> next{0};
  run([&](int thread) {
    for (int64_t begin; (begin = next.fetch_add(grain, std::memory_order_relaxed)) < n;)
      f(begin, std::min(n, begin + grain), thread);
  });
}

}  // namespace westlake
