// ThreadPool: a fixed team that runs one parallel region at a time.
// Idea: a decode step has hundreds of regions of some ten microseconds, so a region must start and end in about one:
// workers spin for a while on an epoch counter before they sleep on a futex (C++20 atomic wait), and the caller is
// worker 0. Work is cut by the caller into equal parts by index, so that results never depend on who ran what.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

namespace westlake {

// A non-owning reference to a callable; costs one indirect call. Requires: the callable outlives the call.
template <typename Signature>
class FunctionRef;
template <typename R, typename... Args>
class FunctionRef<R(Args...)> {
 public:
  template <typename F>
    requires(!std::is_same_v<std::remove_cvref_t<F>, FunctionRef>)
  FunctionRef(F&& f)  // NOLINT: implicit on purpose
      : object_(const_cast<void*>(static_cast<const void*>(&f))), call_([](void* object, Args... args) -> R {
          return (*static_cast<std::remove_reference_t<F>*>(object))(static_cast<Args>(args)...);
        }) {}
  R operator()(Args... args) const { return call_(object_, static_cast<Args>(args)...); }

 private:
  void* object_;
  R (*call_)(void*, Args...);
};

class ThreadPool {
 public:
  // `threads` >= 1 counts the caller.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return threads_; }

  // Calls f(thread) once on each of the size() threads and returns when all are done.
  // Requires: not called from inside a region; one caller at a time.
  void run(FunctionRef<void(int)> f);

  // Calls f(begin, end, thread) over [0, n), cut into size() contiguous parts whose borders are multiples of `grain`.
  // With n <= grain the caller does it alone and no one is woken.
  void for_range(int64_t n, int64_t grain, FunctionRef<void(int64_t, int64_t, int)> f);

  // Calls f(begin, end, thread) over [0, n) in chunks of `grain`, each taken by whoever is free: for uneven work.
  void for_each_chunk(int64_t n, int64_t grain, FunctionRef<void(int64_t, int64_t, int)> f);

 private:
  void worker(int thread);
  int threads_;
  std::vector<std::thread> workers_;
  const FunctionRef<void(int)>* job_ = nullptr;
  alignas(64) std::atomic<uint32_t> epoch_{0};   // raised by the caller: a new region is there
  alignas(64) std::atomic<int32_t> pending_{0};  // workers that have not finished the region
  std::atomic<bool> leave_{false};
};

// Threads that make sense for heavy work here: the cores this process may run on.
int hardware_threads();

}  // namespace westlake
