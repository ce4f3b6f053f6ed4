// Pre-tokenization: a text is cut into pieces that the merges never cross.
// Idea: a pipeline of stages, each cutting the pieces of the one before; a piece runs through all stages before the
// next is cut, so nothing is collected. Only byte-level tokenizers are run here: the mapping of bytes to printable
// characters is left out, since the model works on bytes (bpe.h).
// Source: Hugging Face tokenizers, "pre_tokenizer" of tokenizer.json.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "text/pattern.h"

namespace westlake {

class PieceSink {
 public:
  virtual ~PieceSink() = default;
  // `piece` is not empty and lives during the call only.
  virtual void piece(std::string_view piece) = 0;
};

// What becomes of a match of a split.
enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

class PreTokenizer {
 public:
  // The value of "pre_tokenizer". Errors: kUnsupported for a type or an option that is not run, and for a pipeline that
  // does not end in ByteLevel.
  static Result<PreTokenizer> from_json(JsonElement element, std::string_view place);

  // Thread-safe. Requires: valid UTF-8.
  void split(std::string_view text, PieceSink& sink) const { run(0, text, sink); }

  // The stages in words, equal for pipelines that do the same.
  std::string signature() const;

 private:
  struct Stage {
    std::unique_ptr<Pattern> pattern;  // null: put a space in front of a piece that has none
    SplitBehavior behavior = SplitBehavior::kIsolated;
    bool invert = false;
  };

  Status add(JsonElement element, std::string_view place);
  Status add_split(const JsonObject& object, std::string_view place);
  Status add_byte_level(const JsonObject& object, std::string_view place);
  void add_stage(std::unique_ptr<Pattern> pattern, SplitBehavior behavior, bool invert = false);
  void run(size_t stage, std::string_view piece, PieceSink& sink) const;
  void run_split(const Stage& stage, size_t next, std::string_view piece, PieceSink& sink) const;

  std::vector<Stage> stages_;
  bool byte_level_ = false;  // ByteLevel was met: nothing may follow
};

}  // namespace westlake
