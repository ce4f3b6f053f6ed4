// Stop strings on a stream of text: the answer ends where one of them begins.
// Idea: pieces come in with borders anywhere. Text that may still grow into a stop string is held back; what has been
// let through never contains one. The match that is complete first wins, so that the result does not depend on where
// the borders are.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace westlake {

class StopMatcher {
 public:
  StopMatcher() = default;
  // Errors: kInvalidArgument for an empty string, too many or too long ones.
  static Result<StopMatcher> create(std::vector<std::string> stops);

  // Text that may go out now. After a match everything is swallowed.
  std::string push(std::string_view piece);
  // The end of the stream: what was held back.
  std::string flush();
  // A stop string was met.
  bool matched() const { return matched_; }
  const std::string& which() const { return which_; }

 private:
  size_t held_bytes() const;
  std::vector<std::string> stops_;
  std::string pending_;
  std::string which_;
  bool matched_ = false;
};

}  // namespace westlake
