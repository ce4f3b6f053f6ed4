// The stages of pre-tokenization and how they are read. See pretokenizer.h.
#include "text/pretokenizer.h"

#include <algorithm>

#include "text/unicode.h"

namespace westlake {
namespace {

constexpr size_t kMostStages = 32;
constexpr const char* kGpt2Regex = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

Result<SplitBehavior> read_behavior(const JsonObject& object, std::string_view place) {
  std::string name = "Isolated";
  TRY(json_read(object, "behavior", place, &name));
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  return make_error(Code::kUnsupported,
                    "{}: 'behavior' is '{}'. Supported: Removed, Isolated, MergedWithPrevious, MergedWithNext, "
                    "Contiguous",
                    place, name);
}

// The stretches of a piece, merged as the behaviour says. A merged stretch counts as kept. The rules follow the
// reference to the letter: a match joins its neighbour only when the stretch seen before was none, and what joins
// nothing stands alone.
std::vector<Stretch> merged(std::vector<Stretch> all, SplitBehavior behavior) {
  const bool backwards = behavior == SplitBehavior::kMergedWithNext;
  if (backwards) std::reverse(all.begin(), all.end());
  std::vector<Stretch> out;
  bool previous = false;
  for (const Stretch& stretch : all) {
    const bool joins =
        behavior == SplitBehavior::kContiguous ? stretch.is_match == previous : stretch.is_match && !previous;
    if (joins && !out.empty()) {
      (backwards ? out.back().begin : out.back().end) = backwards ? stretch.begin : stretch.end;
    } else {
      out.push_back({stretch.begin, stretch.end, false});
    }
    previous = stretch.is_match;
  }
  if (backwards) std::reverse(out.begin(), out.end());
  return out;
}

}  // namespace

Result<PreTokenizer> PreTokenizer::from_json(JsonElement element, std::string_view place) {
  PreTokenizer made;
  if (!element.is_null()) TRY(made.add(element, place));
  if (!made.byte_level_) {
    return make_error(
        Code::kUnsupported,
        "{}: does not end in ByteLevel, seen {}. Only byte-level BPE is supported (not SentencePiece-like "
        "or word-piece tokenizers)",
        place, json_preview(element));
  }
  return made;
}

Status PreTokenizer::add(JsonElement element, std::string_view place) {
  JsonObject object;
  std::string type;
  if (element.get(object) != simdjson::SUCCESS) {
    return make_error(Code::kCorrupt, "{}: is {}, expected an object", place, json_preview(element));
  }
  TRY(json_read(object, "type", place, &type));
  if (byte_level_) {
    return make_error(Code::kUnsupported, "{}: '{}' after ByteLevel; ByteLevel must be the last step", place, type);
  }
  if (stages_.size() > kMostStages) {
    return make_error(Code::kUnsupported, "{}: more than {} steps", place, kMostStages);
  }
  if (type == "Sequence") {
    JsonArray steps;
    if (object.at_key("pretokenizers").get(steps) != simdjson::SUCCESS) {
      return make_error(Code::kCorrupt, "{}: a Sequence without the list 'pretokenizers'", place);
    }
    for (const JsonElement step : steps) TRY(add(step, place));
    return {};
  }
  if (type == "Split") return add_split(object, place);
  if (type == "ByteLevel") return add_byte_level(object, place);
  if (type == "Digits") {
    bool individual = false;
    TRY(json_read(object, "individual_digits", place, &individual));
    add_stage(make_mask_run(kNumeric, individual ? 1 : 0, individual ? "\\p{N}" : "\\p{N}+"), SplitBehavior::kIsolated);
  } else if (type == "Punctuation") {
    TRY_ASSIGN(const SplitBehavior behavior, read_behavior(object, place));
    add_stage(make_mask_run(kPunctuation, 1, "punctuation"), behavior);
  } else if (type == "WhitespaceSplit") {
    add_stage(make_mask_run(kSpace, 1, "\\s"), SplitBehavior::kRemoved);
  } else if (type == "Whitespace") {
    add_stage(make_words(), SplitBehavior::kRemoved, true);
  } else if (type == "BertPreTokenizer") {
    add_stage(make_mask_run(kSpace, 1, "\\s"), SplitBehavior::kRemoved);
    add_stage(make_mask_run(kPunctuation, 1, "punctuation"), SplitBehavior::kIsolated);
  } else {
    return make_error(Code::kUnsupported,
                      "{}: '{}' is not supported. Supported: Sequence, Split, ByteLevel, Digits, Punctuation, "
                      "Whitespace, WhitespaceSplit, BertPreTokenizer",
                      place, type);
  }
  return {};
}

Status PreTokenizer::add_split(const JsonObject& object, std::string_view place) {
  TRY_ASSIGN(const SplitBehavior behavior, read_behavior(object, place));
  bool invert = false;
  TRY(json_read(object, "invert", place, &invert));
  JsonObject pattern;
  std::string_view text;
  if (object.at_key("pattern").get(pattern) != simdjson::SUCCESS) {
    return make_error(Code::kCorrupt, "{}: a Split without the object 'pattern'", place);
  }
  if (pattern.at_key("Regex").get(text) == simdjson::SUCCESS) {
    TRY_ASSIGN(auto made, make_pattern(text, place));
    add_stage(std::move(made), behavior, invert);
  } else if (pattern.at_key("String").get(text) == simdjson::SUCCESS) {
    TRY_ASSIGN(auto made, make_literal_pattern(text, place));
    add_stage(std::move(made), behavior, invert);
  } else {
    return make_error(Code::kCorrupt, "{}: the 'pattern' of a Split has neither 'Regex' nor 'String'", place);
  }
  return {};
}

Status PreTokenizer::add_byte_level(const JsonObject& object, std::string_view place) {
  bool add_prefix_space = false, use_regex = true;
  TRY(json_read(object, "add_prefix_space", place, &add_prefix_space));
  TRY(json_read(object, "use_regex", place, &use_regex));
  if (add_prefix_space) add_stage(nullptr, SplitBehavior::kIsolated);
  if (use_regex) add_stage(make_scanner(kGpt2Regex), SplitBehavior::kIsolated);
  byte_level_ = true;
  return {};
}

void PreTokenizer::add_stage(std::unique_ptr<Pattern> pattern, SplitBehavior behavior, bool invert) {
  stages_.push_back({std::move(pattern), behavior, invert});
}

void PreTokenizer::run(size_t stage, std::string_view piece, PieceSink& sink) const {
  if (piece.empty()) return;
  if (stage == stages_.size()) return sink.piece(piece);
  if (stages_[stage].pattern) return run_split(stages_[stage], stage + 1, piece, sink);
  if (piece[0] == ' ') return run(stage + 1, piece, sink);
  std::string spaced = " ";
  spaced += piece;
  run(stage + 1, spaced, sink);
}

void PreTokenizer::run_split(const Stage& stage, size_t next, std::string_view piece, PieceSink& sink) const {
  StretchWalk walk(*stage.pattern, piece);
  Stretch stretch;
  const auto hand_on = [&](const Stretch& s) { run(next, piece.substr(s.begin, s.end - s.begin), sink); };
  if (stage.behavior == SplitBehavior::kIsolated) {
    while (walk.next(&stretch)) hand_on(stretch);
    return;
  }
  if (stage.behavior == SplitBehavior::kRemoved) {
    while (walk.next(&stretch)) {
      if (stretch.is_match == stage.invert) hand_on(stretch);
    }
    return;
  }
  std::vector<Stretch> all;
  while (walk.next(&stretch)) all.push_back({stretch.begin, stretch.end, stretch.is_match != stage.invert});
  for (const Stretch& s : merged(std::move(all), stage.behavior)) hand_on(s);
}

std::string PreTokenizer::signature() const {
  static constexpr const char* kBehaviors[] = {"removed", "isolated", "previous", "next", "contiguous"};
  std::string out;
  for (const Stage& stage : stages_) {
    out += fmt::format("{}{}/{}; ", stage.invert ? "not " : "", stage.pattern ? stage.pattern->name() : "prefix space",
                       kBehaviors[static_cast<int>(stage.behavior)]);
  }
  return out;
}

}  // namespace westlake
