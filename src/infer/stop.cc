#include "infer/stop.h"

#include <algorithm>

namespace westlake {
namespace {

// A piece is searched for every stop string, so both are bounded; far beyond what any client sends.
constexpr size_t kMaxStops = 64;
constexpr size_t kMaxStopBytes = 4096;

}  // namespace

Result<StopMatcher> StopMatcher::create(std::vector<std::string> stops) {
  if (stops.size() > kMaxStops)
    return make_error(Code::kInvalidArgument, "{} stop strings, at most {} are taken", stops.size(), kMaxStops);
  for (const std::string& stop : stops) {
    if (stop.empty()) return make_error(Code::kInvalidArgument, "a stop string is empty: every text contains it");
    if (stop.size() > kMaxStopBytes) {
      return make_error(Code::kInvalidArgument, "a stop string has {} bytes, at most {} are taken", stop.size(),
                        kMaxStopBytes);
    }
  }
  StopMatcher matcher;
  matcher.stops_ = std::move(stops);
  return matcher;
}

std::string StopMatcher::push(std::string_view piece) {
  if (matched_) return {};
  if (stops_.empty()) return std::string(piece);
  pending_ += piece;
  // The match that ends first; of those that end together the longest, so that none of it gets out.
  size_t best_begin = std::string::npos, best_end = std::string::npos;
  for (const std::string& stop : stops_) {
    const size_t begin = pending_.find(stop);
    if (begin == std::string::npos) continue;
    const size_t end = begin + stop.size();
    if (end < best_end || (end == best_end && begin < best_begin)) {
      best_begin = begin;
      best_end = end;
      which_ = stop;
    }
  }
  if (best_begin != std::string::npos) {
    matched_ = true;
    std::string out = pending_.substr(0, best_begin);
    pending_.clear();
    return out;
  }
  const size_t emit = pending_.size() - held_bytes();
  std::string out = pending_.substr(0, emit);
  pending_.erase(0, emit);
  return out;
}

std::string StopMatcher::flush() {
  std::string out = std::move(pending_);
  pending_.clear();
  return out;
}

// Length of the longest end of the pending text that is the beginning of a stop string.
size_t StopMatcher::held_bytes() const {
  size_t held = 0;
  const std::string_view text = pending_;
  for (const std::string& stop : stops_) {
    for (size_t n = std::min(stop.size() - 1, text.size()); n > held; --n) {
      if (text.ends_with(std::string_view(stop).substr(0, n))) {
        held = n;
        break;
      }
    }
  }
  return held;
}

}  // namespace westlake
