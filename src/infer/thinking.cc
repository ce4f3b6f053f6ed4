#include "infer/thinking.h"

#include <algorithm>

namespace westlake {
namespace {

bool is_blank(std::string_view text) {
  return text.find_first_not_of(" \t\r\n") == std::string_view::npos;
}

// Length of the longest end of `text` that `tag` begins with.
size_t held_bytes(std::string_view text, std::string_view tag) {
  for (size_t n = std::min(tag.size() - 1, text.size()); n > 0; --n) {
    if (text.ends_with(tag.substr(0, n))) return n;
  }
  return 0;
}

}  // namespace

void ThinkSplitter::push(std::string_view text, Sink sink) {
  pending_ += text;
  while (!pending_.empty()) {
    if (finished_) {
      sink(pending_, false);
      pending_.clear();
      return;
    }
    const std::string_view tag = inside_ ? kThinkEnd : kThinkBegin;
    const size_t at = pending_.find(tag);
    // A beginning tag counts only where an answer begins.
    if (at != std::string::npos && (inside_ || (!begun_ && is_blank(std::string_view(pending_).substr(0, at))))) {
      if (at > 0) sink(std::string_view(pending_).substr(0, at), inside_);
      pending_.erase(0, at + tag.size());
      finished_ = inside_;
      inside_ = !inside_;
      begun_ = true;
      continue;
    }
    const size_t out = pending_.size() - held_bytes(pending_, tag);
    if (out > 0) {
      const std::string_view ready = std::string_view(pending_).substr(0, out);
      sink(ready, inside_);
      begun_ = begun_ || !is_blank(ready);
      finished_ = begun_ && !inside_;
      pending_.erase(0, out);
      if (finished_) continue;
    }
    return;
  }
}

void ThinkSplitter::flush(Sink sink) {
  if (!pending_.empty()) sink(pending_, inside_);
  pending_.clear();
}

bool ends_in_thinking(std::string_view prompt) {
  const size_t last = prompt.find_last_not_of(" \t\r\n");
  return last != std::string_view::npos && prompt.substr(0, last + 1).ends_with(kThinkBegin);
}

}  // namespace westlake
