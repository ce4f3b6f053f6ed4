// The choice among the kinds of patterns, literals, and the walk over matches. See pattern.h.
#include "text/pattern.h"

#include "text/unicode.h"

namespace westlake {
namespace {

class LiteralPattern : public Pattern {
 public:
  explicit LiteralPattern(std::string_view text) : text_(text) {}
  bool find(std::string_view text, size_t from, size_t* begin, size_t* end) const override {
    const size_t at = text.find(text_, from);
    if (at == std::string_view::npos) return false;
    *begin = at;
    *end = at + text_.size();
    return true;
  }
  std::string name() const override { return "text:" + text_; }

 private:
  std::string text_;
};

}  // namespace

Result<std::unique_ptr<Pattern>> make_pattern(std::string_view regex, std::string_view place) {
  if (auto scanner = make_scanner(regex)) return scanner;
  if (auto run = make_class_run(regex)) return run;
  return make_regex(regex, place);
}

Result<std::unique_ptr<Pattern>> make_literal_pattern(std::string_view text, std::string_view place) {
  if (text.empty()) return make_error(Code::kUnsupported, "{}: the pattern is an empty text", place);
  return std::unique_ptr<Pattern>(std::make_unique<LiteralPattern>(text));
}

void StretchWalk::advance() {
  have_ = false;
  while (from_ <= text_.size() && pattern_.find(text_, from_, &match_.begin, &match_.end)) {
    if (match_.begin == match_.end && any_ && last_end_ == match_.end) {
      if (from_ >= text_.size()) return;
      from_ = match_.end >= text_.size() ? text_.size() + 1 : match_.end + utf8_at(text_.data() + match_.end).size;
      continue;
    }
    from_ = last_end_ = match_.end;
    any_ = have_ = true;
    return;
  }
}

bool StretchWalk::next(Stretch* stretch) {
  if (have_ && match_.begin == done_) {
    *stretch = match_;
    done_ = match_.end;
    advance();
    return true;
  }
  const size_t end = have_ ? match_.begin : text_.size();
  if (end == done_) return false;
  *stretch = {done_, end, false};
  done_ = end;
  return true;
}

}  // namespace westlake
