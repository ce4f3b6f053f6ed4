// Ctrl-C during long writing: the work is told to stop and cleans up after itself, instead of dying on the spot.
#pragma once

#include <csignal>

namespace westlake {

// While it lives, SIGINT and SIGTERM raise a flag. Requires: one at a time.
class InterruptFlag {
 public:
  InterruptFlag() {
    flag() = 0;
    old_interrupt_ = std::signal(SIGINT, [](int) { flag() = 1; });
    old_terminate_ = std::signal(SIGTERM, [](int) { flag() = 1; });
  }
  ~InterruptFlag() {
    std::signal(SIGINT, old_interrupt_);
    std::signal(SIGTERM, old_terminate_);
  }
  InterruptFlag(const InterruptFlag&) = delete;
  InterruptFlag& operator=(const InterruptFlag&) = delete;
  bool raised() const { return flag() != 0; }

 private:
  static volatile std::sig_atomic_t& flag() {
    static volatile std::sig_atomic_t raised = 0;
    return raised;
  }
  void (*old_interrupt_)(int);
  void (*old_terminate_)(int);
};

}  // namespace westlake
