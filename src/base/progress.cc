#include "base/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

#include "base/clock.h"

namespace westlake {
namespace {
constexpr int64_t kIntervalNs = 200'000'000;  // five lines a second are read as motion and cost nothing
}

std::string human_bytes(uint64_t bytes) {
  const double b = static_cast<double>(bytes);
  if (b >= 1e9) return fmt::format("{:.2f} GB", b * 1e-9);
  if (b >= 1e6) return fmt::format("{:.1f} MB", b * 1e-6);
  if (b >= 1e3) return fmt::format("{:.1f} kB", b * 1e-3);
  return fmt::format("{} B", bytes);
}

Progress::Progress(std::string label, uint64_t total, std::string unit, uint64_t already)
    : label_(std::move(label)), unit_(std::move(unit)), total_(total), already_(already), start_ns_(now_ns()),
      terminal_(isatty(STDERR_FILENO) == 1) {}

Progress::~Progress() {
  if (shown_) std::fputc('\n', stderr);
}

void Progress::update(uint64_t done) {
  if (!terminal_) return;
  const int64_t now = now_ns();
  if (now - last_ns_ < kIntervalNs && done != total_) return;
  last_ns_ = now;
  const double seconds = static_cast<double>(now - start_ns_) * 1e-9;
  const double rate = seconds > 0 && done > already_ ? static_cast<double>(done - already_) / seconds : 0;
  const bool bytes = unit_ == "bytes";
  auto amount = [&](double n) {
    return bytes ? human_bytes(static_cast<uint64_t>(n)) : fmt::format("{:.0f} {}", n, unit_);
  };
  std::string line = fmt::format("{}  {}", label_, amount(static_cast<double>(done)));
  if (total_ > 0) {
    line += fmt::format(" of {} ({:.0f} %)", amount(static_cast<double>(total_)),
                        100.0 * static_cast<double>(done) / static_cast<double>(total_));
  }
  line += fmt::format("  {}/s", amount(rate));
  if (total_ > done && rate > 0) line += fmt::format("  {:.0f} s left", static_cast<double>(total_ - done) / rate);
  std::fprintf(stderr, "\r\033[K%s", line.c_str());
  std::fflush(stderr);
  shown_ = true;
}

}  // namespace westlake
