// Ctrl-C while a model writes: the first stops the answer at the next token, the second leaves at once.
#pragma once

#include <atomic>

namespace westlake {

// While it lives, SIGINT raises the flag; a SIGINT on a raised flag ends the process with exit code 130.
// Requires: one at a time.
class CancelFlag {
 public:
  CancelFlag();
  ~CancelFlag();
  CancelFlag(const CancelFlag&) = delete;
  CancelFlag& operator=(const CancelFlag&) = delete;

  const std::atomic<bool>* flag() const;
  bool raised() const { return flag()->load(); }
  void raise();
  void lower();
  // Written to standard output before the process ends in the handler: ends a colour. Requires: a literal.
  void set_farewell(const char* text);
};

}  // namespace westlake
