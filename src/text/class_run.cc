// Regexes of the shape \s?X+ , X+ , X{1,3} or X, where X is a set of literal characters and ranges, or one of \p{N},
// \p{L}, \p{P}: what DeepSeek's tokenizers put before their main regex. Read from the text of the regex, so that every
// such set is run by hand, whatever its letters.
// Source: the "pre_tokenizer" entries of DeepSeek LLM, Coder, V2 and V3.
#include <optional>

#include "text/char_table.h"
#include "text/pattern.h"
#include "text/unicode.h"

namespace westlake {
namespace {

// A set of code points, one bit each up to the largest.
class CharSet {
 public:
  void add(uint32_t first, uint32_t last) {
    if (bits_.size() <= last / 64) bits_.resize(last / 64 + 1);
    for (uint32_t code = first; code <= last; ++code) bits_[code / 64] |= uint64_t{1} << (code % 64);
  }
  bool has(uint32_t code) const { return code / 64 < bits_.size() && (bits_[code / 64] >> (code % 64) & 1); }

 private:
  std::vector<uint64_t> bits_;
};

struct ClassRun {
  bool lead_space = false;  // \s? in front
  int most = 1;             // characters a match may have; 0: any number
  uint32_t mask = 0;        // a class of the table, or
  CharSet set;              // a set of its own
};

class ClassRunPattern : public Pattern {
 public:
  ClassRunPattern(ClassRun run, std::string name) : run_(std::move(run)), name_(std::move(name)) {}

  bool find(std::string_view text, size_t from, size_t* begin, size_t* end) const override {
    const char* stop = text.data() + text.size();
    for (const char* p = text.data() + from; p < stop;) {
      const Utf8Char c = utf8_at(p);
      const char* q = nullptr;
      if (run_.lead_space && (bits(c.code) & kSpace)) q = run_from(p + c.size, stop);
      if (!q && has(c.code)) q = run_from(p, stop);
      if (q) {
        *begin = static_cast<size_t>(p - text.data());
        *end = static_cast<size_t>(q - text.data());
        return true;
      }
      p += c.size;
    }
    return false;
  }
  std::string name() const override { return name_; }

 private:
  uint32_t bits(uint32_t code) const { return char_bits(table_.classes, code); }
  bool has(uint32_t code) const { return run_.mask ? (bits(code) & run_.mask) != 0 : run_.set.has(code); }

  const char* run_from(const char* p, const char* stop) const {
    const char* q = p;
    for (int count = 0; q < stop && (run_.most == 0 || count < run_.most); ++count) {
      const Utf8Char c = utf8_at(q);
      if (!has(c.code)) break;
      q += c.size;
    }
    return q == p ? nullptr : q;
  }

  ClassRun run_;
  std::string name_;
  const CharTable& table_ = char_table();
};

bool take(std::string_view& text, std::string_view prefix) {
  if (text.substr(0, prefix.size()) != prefix) return false;
  text.remove_prefix(prefix.size());
  return true;
}

// One character of a set, as itself or escaped; nullopt for whatever has a meaning of its own.
std::optional<uint32_t> take_literal(std::string_view& text) {
  if (text.empty()) return std::nullopt;
  if (take(text, "\\r")) return '\r';
  if (take(text, "\\n")) return '\n';
  if (take(text, "\\t")) return '\t';
  if (text[0] == '\\' || text[0] == '[' || text[0] == '&' || text[0] == '^') return std::nullopt;
  size_t size = 0;
  if (utf8_probe(text, &size) != Utf8State::kWhole) return std::nullopt;
  const uint32_t code = utf8_at(text.data()).code;
  text.remove_prefix(size);
  return code;
}

bool take_set(std::string_view& text, CharSet* set) {
  if (!take(text, "[") || text.substr(0, 1) == "]") return false;
  while (!take(text, "]")) {
    if (text.substr(0, 1) == "-") return false;  // a dash without a left side
    const auto first = take_literal(text);
    if (!first) return false;
    auto last = first;
    if (take(text, "-")) {
      if (text.substr(0, 1) == "]" || !(last = take_literal(text)) || *last < *first) return false;
    }
    set->add(*first, *last);
  }
  return true;
}

std::optional<ClassRun> parse(std::string_view regex) {
  ClassRun run;
  run.lead_space = take(regex, "\\s?");
  if (take(regex, "\\p{N}")) {
    run.mask = kN;
  } else if (take(regex, "\\p{L}")) {
    run.mask = kL;
  } else if (take(regex, "\\p{P}")) {
    run.mask = kP;
  } else if (!take_set(regex, &run.set)) {
    return std::nullopt;
  }
  if (regex == "+") {
    run.most = 0;
  } else if (regex == "{1,3}") {
    run.most = 3;
  } else if (!regex.empty()) {
    return std::nullopt;
  }
  return run;
}

// \s+$ , where $ stands before a line break or at the end: the reference's regex engine always looks at lines.
class SpaceTailPattern : public Pattern {
 public:
  bool find(std::string_view text, size_t from, size_t* begin, size_t* end) const override {
    const char* stop = text.data() + text.size();
    for (const char* p = text.data() + from; p < stop;) {
      const char* q = p;
      const char* last_break = nullptr;
      for (CharTable::Char c; q < stop && ((c = table_.at(q)).bits & kSpace); q += c.size) {
        if (*q == '\n' && q > p) last_break = q;
      }
      if (q == p) {
        p += table_.at(p).size;
      } else if (q == stop || last_break) {
        *begin = static_cast<size_t>(p - text.data());
        *end = static_cast<size_t>((q == stop ? q : last_break) - text.data());
        return true;
      } else {
        p = q;
      }
    }
    return false;
  }
  std::string name() const override { return "\\s+$"; }

 private:
  const CharTable& table_ = char_table();
};

class WordsPattern : public Pattern {
 public:
  bool find(std::string_view text, size_t from, size_t* begin, size_t* end) const override {
    const char* stop = text.data() + text.size();
    const char* p = table_.skip(text.data() + from, stop, kSpace, kWord);
    if (p == stop) return false;
    const char* q =
        table_.at(p).bits & kWord ? table_.skip(p, stop, kWord) : table_.skip_other(p, stop, kWord | kSpace);
    *begin = static_cast<size_t>(p - text.data());
    *end = static_cast<size_t>(q - text.data());
    return true;
  }
  std::string name() const override { return "words"; }

 private:
  const CharTable& table_ = char_table();
};

}  // namespace

std::unique_ptr<Pattern> make_mask_run(uint32_t mask, int most, std::string_view name) {
  ClassRun run;
  run.mask = mask;
  run.most = most;
  return std::make_unique<ClassRunPattern>(std::move(run), std::string(name));
}

std::unique_ptr<Pattern> make_words() {
  return std::make_unique<WordsPattern>();
}

std::unique_ptr<Pattern> make_class_run(std::string_view regex) {
  if (regex == "\\s+$") return std::make_unique<SpaceTailPattern>();
  auto run = parse(regex);
  if (!run) return nullptr;
  std::string name(regex);
  if (name == "[\r\n]") name = "[\\r\\n]";
  return std::make_unique<ClassRunPattern>(std::move(*run), std::move(name));
}

}  // namespace westlake
