// Thinking apart from answering: reasoning models put <think> ... </think> before what they say.
// Idea: a splitter on the stream; text that may still become a tag is held back, so that a tag is found wherever the
// pieces break. Templates of some models open the thinking themselves: then the stream starts inside.
#pragma once

#include <string>
#include <string_view>

#include "base/thread_pool.h"

namespace westlake {

inline constexpr std::string_view kThinkBegin = "<think>";
inline constexpr std::string_view kThinkEnd = "</think>";

class ThinkSplitter {
 public:
  explicit ThinkSplitter(bool starts_inside = false) : inside_(starts_inside) {}

  // Sees text without tags, in order. Only the first thinking counts: tags after it are text.
  using Sink = FunctionRef<void(std::string_view text, bool thinking)>;
  void push(std::string_view text, Sink sink);
  // The end: what was held back.
  void flush(Sink sink);
  bool inside() const { return inside_; }

 private:
  std::string pending_;
  bool inside_;
  bool begun_ = false;     // something other than white space has come
  bool finished_ = false;  // all that follows is answer
};

// Whether a prompt ends inside <think>, white space aside.
bool ends_in_thinking(std::string_view prompt);

}  // namespace westlake
