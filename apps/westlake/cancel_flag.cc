#include "westlake/cancel_flag.h"

#include <signal.h>
#include <unistd.h>

#include <cstring>

#include "base/check.h"

namespace westlake {
namespace {

// A handler has no other place to look at. All are lock-free, so the handler may touch them.
std::atomic<bool> raised_flag{false};
std::atomic<const char*> farewell{nullptr};
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<const char*>::is_always_lock_free);
struct sigaction before;

void on_interrupt(int) {
  if (!raised_flag.exchange(true)) return;
  if (const char* text = farewell.load()) {
    if (write(STDOUT_FILENO, text, std::strlen(text)) < 0) _exit(130);
  }
  _exit(130);
}

}  // namespace

CancelFlag::CancelFlag() {
  raised_flag = false;
  struct sigaction action {};
  action.sa_handler = on_interrupt;
  sigemptyset(&action.sa_mask);
  CHECK(sigaction(SIGINT, &action, &before) == 0);  // without SA_RESTART: a read of the prompt ends
}

CancelFlag::~CancelFlag() {
  sigaction(SIGINT, &before, nullptr);
  farewell = nullptr;
}

const std::atomic<bool>* CancelFlag::flag() const {
  return &raised_flag;
}
void CancelFlag::raise() {
  raised_flag = true;
}
void CancelFlag::lower() {
  raised_flag = false;
}
void CancelFlag::set_farewell(const char* text) {
  farewell = text;
}

}  // namespace westlake
