// Normalisation of text before it is split.
// Idea: the steps of a tokenizer.json, each from text to text; NFC looks first for a character that could change and
// touches only its neighbourhood, so that plain text costs one scan.
// Source: Hugging Face tokenizers, "normalizer" of tokenizer.json; Unicode annex 15 by way of utf8proc.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "text/pattern.h"

namespace westlake {

class Normalizer {
 public:
  // The value of "normalizer"; null and an empty Sequence leave text as it is. Errors: kUnsupported for an unknown type
  // and for steps that together can make a text more than 256 times as long.
  static Result<Normalizer> from_json(JsonElement element, std::string_view place);

  bool empty() const { return steps_.empty(); }

  // The normalised text: `text` itself, or `buffer` where it changed. Thread-safe. Requires: valid UTF-8.
  std::string_view apply(std::string_view text, std::string& buffer) const;

  // The steps in words.
  std::string signature() const;

 private:
  enum class Kind { kNfc, kNfd, kNfkc, kNfkd, kLowercase, kPrepend, kReplace, kStrip };
  struct Step {
    Kind kind;
    std::string text;                  // what is put in front, or in a match's place
    std::unique_ptr<Pattern> pattern;  // of Replace
    bool left = true, right = true;    // of Strip
  };

  Status add(JsonElement element, std::string_view place, double* growth);
  static bool apply_step(const Step& step, std::string_view text, std::string& out);
  std::vector<Step> steps_;
};

}  // namespace westlake
