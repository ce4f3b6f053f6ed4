// Hand-written scanners for the main regexes of the families. Each follows its regex alternative by alternative; where
// a regex backtracks, the comment says what the backtracking comes to.
// Source: the "pre_tokenizer" entries of the published tokenizer.json files; tokenization_kimi.py for Kimi K2.
#include "text/char_table.h"
#include "text/pattern.h"
#include "text/unicode.h"

namespace westlake {
namespace {

bool is_newline(const char* p) {
  return *p == '\r' || *p == '\n';
}

const char* skip_newlines(const char* p, const char* end) {
  while (p < end && is_newline(p)) ++p;
  return p;
}

// 's 't 're 've 'm 'll 'd at `p`; nullptr when there is none. Case folding reaches one letter outside ASCII: the long
// s.
const char* contraction(const char* p, const char* end, bool any_case) {
  if (p + 1 >= end || *p != '\'') return nullptr;
  const auto letter = [&](const char* at) {
    return any_case && *at >= 'A' && *at <= 'Z' ? static_cast<char>(*at | 0x20) : *at;
  };
  const char first = letter(p + 1);
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return p + 2;
  if (any_case && p + 2 < end && p[1] == '\xc5' && p[2] == '\xbf') return p + 3;
  if (p + 2 >= end) return nullptr;
  const char second = letter(p + 2);
  if ((first == 'r' || first == 'v') && second == 'e') return p + 3;
  return first == 'l' && second == 'l' ? p + 3 : nullptr;
}

// \s*[\r\n]+ | \s+(?!\S) | \s+ at white space: up to the last line break of the run, else all but the last character
// when something follows, else all. Without `line_breaks` the first alternative is absent.
const char* white_space(const CharTable& table, const char* p, const char* end, bool line_breaks) {
  const char* last = p;
  const char* after_break = nullptr;
  const char* q = p;
  while (q < end) {
    const CharTable::Char c = table.at(q);
    if (!(c.bits & kSpace)) break;
    last = q;
    if (is_newline(q)) after_break = q + 1;
    q += c.size;
  }
  if (line_breaks && after_break) return after_break;
  return q == end || last == p ? q : last;
}

enum class Digits { kOne, kThree, kRun };

const char* digits(const CharTable& table, const char* p, const char* end, Digits rule) {
  if (rule == Digits::kRun) return table.skip(p, end, kN);
  for (int i = 0; i < (rule == Digits::kOne ? 1 : 3) && p < end; ++i) {
    const CharTable::Char c = table.at(p);
    if (!(c.bits & kN)) break;
    p += c.size;
  }
  return p;
}

// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
const char* gpt2(const CharTable& table, const char* p, const char* end) {
  if (const char* q = contraction(p, end, false)) return q;
  const char* q = *p == ' ' && p + 1 < end ? p + 1 : p;
  const CharTable::Char c = table.at(q);
  if (c.bits & kL) return table.skip(q + c.size, end, kL);
  if (c.bits & kN) return table.skip(q + c.size, end, kN);
  if (!(c.bits & kSpace)) return table.skip_other(q + c.size, end, kSpace | kL | kN);
  return white_space(table, p, end, false);
}

// (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
// with \p{N} for \p{N}{1,3}, or [\p{L}\p{M}] for \p{L} and M among the excluded of the fourth alternative.
template <Digits kDigits, uint32_t kLetters>
const char* cl100k(const CharTable& table, const char* p, const char* end) {
  if (const char* q = contraction(p, end, true)) return q;
  const CharTable::Char c = table.at(p);
  if (c.bits & kLetters & kL) return table.skip(p + c.size, end, kLetters);
  if (!(c.bits & kN) && !is_newline(p)) {
    const char* q = p + c.size;
    if (q < end && (table.at(q).bits & kLetters)) return table.skip(q, end, kLetters);
    if (c.bits & kLetters) return q;
  }
  if (c.bits & kN) return digits(table, p, end, kDigits);
  constexpr uint32_t kNotOther = kSpace | kLetters | kL | kN;
  const char* q = *p == ' ' ? p + 1 : p;
  if (q < end && !(table.at(q).bits & kNotOther)) return skip_newlines(table.skip_other(q, end, kNotOther), end);
  return white_space(table, p, end, true);
}

// One word of the o200k kind: upper* lower+ (`lower_first` false: upper+ lower*), where `upper` and `lower` share the
// letters without case and the marks. upper* takes all it can and gives back, character by character, until lower+ has
// one: the last shared character of the run. nullptr when there is none.
const char* cased_word(const CharTable& table, const char* p, const char* end, uint32_t not_in) {
  constexpr uint32_t kShared = kLm | kLo | kM;
  constexpr uint32_t kUpper = kLu | kLt | kShared;
  const char* after_shared = nullptr;
  const char* q = p;
  while (q < end) {
    const CharTable::Char c = table.at(q);
    if (!(c.bits & kUpper) || (c.bits & not_in)) break;
    q += c.size;
    if (c.bits & kShared) after_shared = q;
  }
  if (q < end) {
    const CharTable::Char c = table.at(q);
    if ((c.bits & kLl) && !(c.bits & not_in)) return table.skip(q, end, kLl | kShared, not_in);
  }
  return after_shared;
}

struct O200kRules {
  Digits digits;
  bool contractions;  // (?i:'s|'t|'re|'ve|'m|'ll|'d)? after a word
  bool slash;         // [\r\n/]* after signs, else [\r\n]*
  bool han_apart;     // [\p{Han}]+ first, and no Han in words
};

// [^\r\n\p{L}\p{N}]?U*l+C|[^\r\n\p{L}\p{N}]?U+l*C|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+
// U = [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}], l = [\p{Ll}\p{Lm}\p{Lo}\p{M}], C = the contraction.
template <O200kRules kRules>
const char* o200k(const CharTable& table, const char* p, const char* end) {
  constexpr uint32_t kNotIn = kRules.han_apart ? uint32_t{kHan} : 0;
  constexpr uint32_t kUpper = kLu | kLt | kLm | kLo | kM;
  const CharTable::Char c = table.at(p);
  if (kRules.han_apart && (c.bits & kHan)) return table.skip(p, end, kHan);
  const bool may_lead = !(c.bits & (kL | kN)) && !is_newline(p);
  const char* word = may_lead ? cased_word(table, p + c.size, end, kNotIn) : nullptr;
  if (!word) word = cased_word(table, p, end, kNotIn);
  // The second alternative is left with words of upper case alone: whatever has a lower tail went to the first.
  if (!word && may_lead) {
    const char* q = table.skip(p + c.size, end, kUpper, kNotIn);
    if (q != p + c.size) word = q;
  }
  if (!word) {
    const char* q = table.skip(p, end, kUpper, kNotIn);
    if (q != p) word = q;
  }
  if (word) {
    const char* q = kRules.contractions ? contraction(word, end, true) : nullptr;
    return q ? q : word;
  }
  if (c.bits & kN) return digits(table, p, end, kRules.digits);
  const char* q = *p == ' ' ? p + 1 : p;
  if (q < end && !(table.at(q).bits & (kSpace | kL | kN))) {
    q = table.skip_other(q, end, kSpace | kL | kN);
    if (!kRules.slash) return skip_newlines(q, end);
    while (q < end && (is_newline(q) || *q == '/')) ++q;
    return q;
  }
  return c.bits & kSpace ? white_space(table, p, end, true) : nullptr;
}

// [!-~ without letters and digits][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|
// \s+(?!\S)|\s+   A character that none takes (a control, a digit before no letter) is no match.
const char* deepseek_v3(const CharTable& table, const char* p, const char* end) {
  const CharTable::Char c = table.at(p);
  const char* next = p + c.size;
  const bool sign = c.bits & (kP | kS);
  if (sign && c.size == 1 && next < end && CharTable::is_ascii_letter(*next)) {
    while (next < end && CharTable::is_ascii_letter(*next)) ++next;
    return next;
  }
  if (c.bits & kL) return table.skip(next, end, kL | kM);
  if (!sign && !is_newline(p)) {
    if (next < end && (table.at(next).bits & (kL | kM))) return table.skip(next, end, kL | kM);
    if (c.bits & kM) return next;
  }
  const char* q = *p == ' ' ? next : p;
  if (q < end && (table.at(q).bits & (kP | kS))) return skip_newlines(table.skip(q, end, kP | kS), end);
  return c.bits & kSpace ? white_space(table, p, end, true) : nullptr;
}

using MatchAt = const char* (*)(const CharTable& table, const char* p, const char* end);

class Scanner : public Pattern {
 public:
  Scanner(const char* name, MatchAt match_at) : name_(name), match_at_(match_at), table_(char_table()) {}
  bool find(std::string_view text, size_t from, size_t* begin, size_t* end) const override {
    const char* stop = text.data() + text.size();
    for (const char* p = text.data() + from; p < stop; p += table_.at(p).size) {
      const char* q = match_at_(table_, p, stop);
      if (!q) continue;
      *begin = static_cast<size_t>(p - text.data());
      *end = static_cast<size_t>(q - text.data());
      return true;
    }
    return false;
  }
  std::string name() const override { return name_; }

 private:
  const char* name_;
  MatchAt match_at_;
  const CharTable& table_;
};

struct KnownScanner {
  KnownPattern pattern;
  MatchAt match_at;
};

#define WL_CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define WL_SPACES R"(\s*[\r\n]+|\s+(?!\S)|\s+)"
#define WL_UPPER R"(\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M})"
#define WL_LOWER R"(\p{Ll}\p{Lm}\p{Lo}\p{M})"
#define WL_LEAD R"([^\r\n\p{L}\p{N}]?)"

constexpr const char* kGpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr const char* kGpt2Grouped = R"('(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr const char* kLlama3 = WL_CONTRACTIONS "|" WL_LEAD R"(\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|)" WL_SPACES;
constexpr const char* kQwen2 = WL_CONTRACTIONS "|" WL_LEAD R"(\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|)" WL_SPACES;
constexpr const char* kQwen35 =
    WL_CONTRACTIONS "|" WL_LEAD R"([\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|)" WL_SPACES;
constexpr const char* kO200k =
    WL_LEAD "[" WL_UPPER "]*[" WL_LOWER "]+" WL_CONTRACTIONS "?|" WL_LEAD "[" WL_UPPER "]+[" WL_LOWER
            "]*" WL_CONTRACTIONS R"(?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|)" WL_SPACES;
constexpr const char* kTekken = WL_LEAD "[" WL_UPPER "]*[" WL_LOWER "]+|" WL_LEAD "[" WL_UPPER "]+[" WL_LOWER
                                        R"(]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|)" WL_SPACES;
constexpr const char* kKimi =
    R"([\p{Han}]+|)" WL_LEAD "[" WL_UPPER R"(&&[^\p{Han}]]*[)" WL_LOWER R"(&&[^\p{Han}]]+)" WL_CONTRACTIONS "?|" WL_LEAD
    "[" WL_UPPER R"(&&[^\p{Han}]]+[)" WL_LOWER R"(&&[^\p{Han}]]*)" WL_CONTRACTIONS
    R"(?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|)" WL_SPACES;
constexpr const char* kKimiPlain =
    R"([\p{Han}]+|)" WL_LEAD R"((?:(?!\p{Han})[)" WL_UPPER R"(])*(?:(?!\p{Han})[)" WL_LOWER
    "])+" WL_CONTRACTIONS "?|" WL_LEAD R"((?:(?!\p{Han})[)" WL_UPPER R"(])+(?:(?!\p{Han})[)" WL_LOWER
    "])*" WL_CONTRACTIONS R"(?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|)" WL_SPACES;
constexpr const char* kDeepseekV3 = R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?)"
                                    R"([\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|)" WL_SPACES;

const std::vector<KnownScanner>& known_scanners() {
  static const std::vector<KnownScanner> scanners = {
      {{"gpt-2", kGpt2, nullptr}, gpt2},
      {{"gpt-2", kGpt2Grouped, nullptr}, gpt2},
      {{"llama3", kLlama3, nullptr}, cl100k<Digits::kThree, kL>},
      {{"qwen2", kQwen2, nullptr}, cl100k<Digits::kOne, kL>},
      {{"qwen35", kQwen35, nullptr}, cl100k<Digits::kOne, kL | kM>},
      {{"o200k", kO200k, nullptr}, o200k<O200kRules{Digits::kThree, true, true, false}>},
      {{"tekken", kTekken, nullptr}, o200k<O200kRules{Digits::kOne, false, true, false}>},
      {{"kimi-k2", kKimi, kKimiPlain}, o200k<O200kRules{Digits::kThree, true, false, true}>},
      {{"deepseek-v3", kDeepseekV3, nullptr}, deepseek_v3},
  };
  return scanners;
}

// Files write a line break in a regex as itself or as its escape; both mean the same.
std::string with_escapes(std::string_view regex) {
  std::string out;
  for (const char c : regex) {
    if (c == '\r') {
      out += "\\r";
    } else if (c == '\n') {
      out += "\\n";
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace

const std::vector<KnownPattern>& known_patterns() {
  static const std::vector<KnownPattern> patterns = [] {
    std::vector<KnownPattern> list;
    for (const KnownScanner& known : known_scanners()) list.push_back(known.pattern);
    return list;
  }();
  return patterns;
}

std::unique_ptr<Pattern> make_scanner(std::string_view regex) {
  const std::string escaped = with_escapes(regex);
  for (const KnownScanner& known : known_scanners()) {
    if (escaped == known.pattern.regex) return std::make_unique<Scanner>(known.pattern.name, known.match_at);
  }
  return nullptr;
}

}  // namespace westlake
