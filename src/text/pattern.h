// A pattern of a pre-tokenizer or normaliser: something that finds its next match in a text.
// Idea: the regexes that published tokenizers use are recognised and run by hand-written scanners over class bits
// (scanners.cc, class_run.cc); any other regex is run by PCRE2 after translation from the dialect of the reference
// (regex.cc). Tests hold the first kind against the second on random text.
// Source: Oniguruma's syntax (doc/RE), which Hugging Face tokenizers use; the tokenizer.json files of the families.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace westlake {

class Pattern {
 public:
  virtual ~Pattern() = default;

  // The first match in `text` that starts at `from` or later. Requires: `text` is valid UTF-8, `from` stands at a
  // character. Thread-safe.
  virtual bool find(std::string_view text, size_t from, size_t* begin, size_t* end) const = 0;

  // A word for the pattern, for comparing pipelines: the scanner's name, or the regex itself.
  virtual std::string name() const = 0;
};

// Oniguruma syntax. `place` opens messages. Errors: kUnsupported for a construct that cannot be run exactly.
Result<std::unique_ptr<Pattern>> make_pattern(std::string_view regex, std::string_view place);

// A text that is matched as it is. Errors: kUnsupported for an empty one.
Result<std::unique_ptr<Pattern>> make_literal_pattern(std::string_view text, std::string_view place);

// Runs of up to `most` characters (0: any number) with a bit of `mask`.
std::unique_ptr<Pattern> make_mask_run(uint32_t mask, int most, std::string_view name);

// \w+|[^\w\s]+ with Rust's idea of \w.
std::unique_ptr<Pattern> make_words();

// The parts of make_pattern, apart for tests.
struct KnownPattern {
  const char* name;
  const char* regex;
  const char* plain;  // the same without what cannot be translated (nullptr: `regex` itself)
};
const std::vector<KnownPattern>& known_patterns();
std::unique_ptr<Pattern> make_scanner(std::string_view regex);    // null when not a known regex
std::unique_ptr<Pattern> make_class_run(std::string_view regex);  // null when not of the shape \s?[...]+
Result<std::unique_ptr<Pattern>> make_regex(std::string_view regex, std::string_view place);
Result<std::string> translate_regex(std::string_view regex, std::string_view place);

// Walks over a text: matches and what lies between them, in order, covering it. An empty match that touches the
// previous match is passed over, as in the reference.
struct Stretch {
  size_t begin, end;
  bool is_match;
};

class StretchWalk {
 public:
  StretchWalk(const Pattern& pattern, std::string_view text) : pattern_(pattern), text_(text) { advance(); }
  bool next(Stretch* stretch);

 private:
  void advance();  // finds the next match into match_
  const Pattern& pattern_;
  std::string_view text_;
  size_t done_ = 0;  // everything before has been handed out
  size_t from_ = 0;  // where the next search starts
  bool any_ = false, have_ = false;
  size_t last_end_ = 0;
  Stretch match_ = {0, 0, true};
};

}  // namespace westlake
