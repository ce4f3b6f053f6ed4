// Any regex that no scanner knows: translated from Oniguruma's dialect, compiled and run by PCRE2.
// Idea: the two engines agree on nearly all syntax; where they differ (\s, \w, \h, \b, $, script names) the translation
// writes out what Oniguruma means, and what cannot be written (set intersection, nested sets, POSIX brackets) is an
// error. PCRE2 of Debian 12 knows Unicode 14, the reference Unicode 16: the newer letters, marks, digits and signs are
// written out beside \p{..}; sub-categories that our table does not hold (Mn, Pd, Sc ..) keep Unicode 14.
// Source: Oniguruma doc/RE; pcre2syntax(3), pcre2unicode(3).
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>

#include "text/char_table.h"
#include "text/pattern.h"

namespace westlake {
namespace {

constexpr size_t kRegexLimitBytes = 1 << 16;

// The code points of a class that are newer than PCRE2's tables, as ranges for brackets.
std::string newer_ranges(uint32_t mask) {
  std::string out;
  for (size_t i = 0; i < kCharRangeCount; ++i) {
    const uint32_t bits = kCharClassBits[kCharRanges[i] & 0xff];
    if (!(bits & kNewer) || !(bits & mask)) continue;
    const uint32_t end = i + 1 < kCharRangeCount ? kCharRanges[i + 1] >> 8 : 0x110000;
    out += fmt::format("\\x{{{:x}}}-\\x{{{:x}}}", kCharRanges[i] >> 8, end - 1);
  }
  return out;
}

// The bits of a general category; 0 for one that the table does not hold.
uint32_t category_mask(std::string_view name) {
  static constexpr std::pair<std::string_view, uint32_t> kMasks[] = {
      {"L", kL}, {"Lu", kLu}, {"Ll", kLl}, {"Lt", kLt}, {"Lm", kLm}, {"Lo", kLo}, {"M", kM},
      {"N", kN}, {"Nd", kNd}, {"Nl", kNl}, {"No", kNo}, {"P", kP},   {"S", kS},   {"Z", kZ}};
  for (const auto& [known, mask] : kMasks) {
    if (name == known) return mask;
  }
  return 0;
}

// Inside brackets.
constexpr std::string_view kSpaceSet =
    R"(\x09-\x0d\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
constexpr std::string_view kWordSet =
    R"(\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{24b6}-\x{24e9}\x{1f130}-\x{1f149}\x{1f150}-\x{1f169}\x{1f170}-\x{1f189})";

// Alone, \w also takes the raised digits and fractions of Latin-1; inside brackets it does not.
std::string word_set(bool alone) {
  return std::string(kWordSet) + newer_ranges(kL | kM | kNd | kNl) +
         (alone ? R"(\x{b2}\x{b3}\x{b9}\x{bc}-\x{be})" : "");
}

class PcrePattern : public Pattern {
 public:
  PcrePattern(pcre2_code* code, std::string name) : code_(code), name_(std::move(name)) {
    // Without the just-in-time compiler the interpreter does the work; both give the same.
    (void)pcre2_jit_compile(code_, PCRE2_JIT_COMPLETE);
  }
  ~PcrePattern() override { pcre2_code_free(code_); }

  // A match that runs into PCRE2's limits counts as none: the reference's engine gives up at its own limit too.
  bool find(std::string_view text, size_t from, size_t* begin, size_t* end) const override {
    Scratch& scratch = thread_scratch();
    const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    int count = pcre2_match(code_, subject, text.size(), from, PCRE2_NO_UTF_CHECK, scratch.data, scratch.context);
    if (count == PCRE2_ERROR_JIT_STACKLIMIT) {
      count = pcre2_match(code_, subject, text.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, scratch.data,
                          scratch.context);
    }
    if (count < 0) return false;
    const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(scratch.data);
    *begin = offsets[0];
    *end = std::max(offsets[0], offsets[1]);  // \K in a lookahead may end before it begins
    return true;
  }
  std::string name() const override { return name_; }

 private:
  struct Scratch {
    pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
    pcre2_match_context* context = pcre2_match_context_create(nullptr);
    pcre2_jit_stack* stack = pcre2_jit_stack_create(32 << 10, 1 << 20, nullptr);
    Scratch() {
      CHECK(data && context && stack, "no memory for PCRE2's scratch");
      pcre2_jit_stack_assign(context, nullptr, stack);
      pcre2_set_match_limit(context, 1'000'000);
      pcre2_set_heap_limit(context, 64 << 10);  // KiB
    }
    ~Scratch() {
      pcre2_match_data_free(data);
      pcre2_match_context_free(context);
      pcre2_jit_stack_free(stack);
    }
  };
  static Scratch& thread_scratch() {
    static thread_local Scratch scratch;
    return scratch;
  }

  pcre2_code* code_;
  std::string name_;
};

// Walks over a regex and writes PCRE2's words for Oniguruma's.
class Translator {
 public:
  Translator(std::string_view regex, std::string_view place) : regex_(regex), place_(place) {}

  Result<std::string> run() {
    while (at_ < regex_.size()) {
      if (regex_[at_] == '\\') {
        TRY(escape(false));
      } else if (regex_[at_] == '[') {
        TRY(brackets());
      } else if (regex_.substr(at_, 2) == "}+") {
        return refuse("'{n,m}+' (an interval that is repeated)");
      } else if (regex_.substr(at_, 2) == "{,") {
        return refuse("'{,n}'");
      } else if (regex_.substr(at_, 2) == "(*") {
        return refuse("'(*' (a callout)");
      } else if (regex_.substr(at_, 2) == "(?" && sets_lines()) {
        return refuse("the option m, which means another thing there");
      } else {
        out_ += regex_[at_++];
      }
    }
    return std::move(out_);
  }

 private:
  Error refuse(std::string_view what) const {
    return make_error(Code::kUnsupported, "{}: the regex '{}' uses {}, which cannot be run exactly", place_, regex_,
                      what);
  }

  // Whether "(?" at at_ switches the option m.
  bool sets_lines() const {
    const size_t end = regex_.find_first_not_of("imx-", at_ + 2);
    return regex_.substr(at_, end == std::string_view::npos ? end : end - at_).find('m') != std::string_view::npos;
  }

  Status escape(bool in_set) {
    if (at_ + 1 >= regex_.size()) return refuse("a lone backslash at its end");
    const char kind = regex_[at_ + 1];
    const auto set = [&](std::string_view body, bool negated) {
      at_ += 2;
      out_ += fmt::format("[{}{}]", negated ? "^" : "", body);
    };
    if (kind == 'p' || kind == 'P') return property(in_set);
    if (in_set) {
      if (kind == 'S') {
        out_ += "\\S\\x{180e}";  // PCRE2 counts this one as a space, Oniguruma does not
        at_ += 2;
        return {};
      }
      if (kind == 'W' || kind == 'H') return refuse(fmt::format("'\\{}' inside brackets", kind));
      if (kind == 's' || kind == 'w' || kind == 'h') {
        out_ += kind == 's' ? std::string(kSpaceSet) : kind == 'w' ? word_set(false) : "0-9a-fA-F";
        at_ += 2;
        return {};
      }
    } else if (kind == 's' || kind == 'S') {
      set(kSpaceSet, kind == 'S');
      return {};
    } else if (kind == 'w' || kind == 'W') {
      set(word_set(true), kind == 'W');
      return {};
    } else if (kind == 'h' || kind == 'H') {
      set("0-9a-fA-F", kind == 'H');
      return {};
    } else if (kind == 'b' || kind == 'B') {
      const std::string word = fmt::format("[{}]", word_set(true));
      out_ += kind == 'b' ? fmt::format("(?:(?<={0})(?!{0})|(?<!{0})(?={0}))", word)
                          : fmt::format("(?:(?<={0})(?={0})|(?<!{0})(?!{0}))", word);
      at_ += 2;
      return {};
    }
    if (std::string_view("CEGKLMNQRUXYcgkoyOz").find(kind) != std::string_view::npos && kind != 'z' && kind != 'K' &&
        kind != 'G' && kind != 'R' && kind != 'k') {
      return refuse(fmt::format("'\\{}'", kind));
    }
    out_ += regex_.substr(at_, 2);
    at_ += 2;
    return {};
  }

  // \p{Name}: categories keep their names, all else is taken for a script (and PCRE2 refuses what it does not know).
  Status property(bool in_set) {
    const size_t close = regex_.find('}', at_);
    if (at_ + 2 >= regex_.size() || regex_[at_ + 2] != '{' || close == std::string_view::npos) {
      return refuse("'\\p' without a name in braces");
    }
    std::string_view name = regex_.substr(at_ + 3, close - at_ - 3);
    const bool negated = name.substr(0, 1) == "^";
    if (negated) name.remove_prefix(1);
    static constexpr std::pair<std::string_view, std::string_view> kLong[] = {{"Letter", "L"},
                                                                              {"Mark", "M"},
                                                                              {"Number", "N"},
                                                                              {"Punctuation", "P"},
                                                                              {"Symbol", "S"},
                                                                              {"Separator", "Z"},
                                                                              {"Uppercase_Letter", "Lu"},
                                                                              {"Lowercase_Letter", "Ll"},
                                                                              {"Decimal_Number", "Nd"}};
    std::string written(name);
    for (const auto& [long_name, short_name] : kLong) {
      if (name == long_name) written = short_name;
    }
    if (written.size() > 2 && written != "Any") written = "sc:" + written;
    const bool outside = negated != (regex_[at_ + 1] == 'P');  // \P{..} or \p{^..}
    const std::string newer = newer_ranges(written == "sc:Han" ? kHan : category_mask(written));
    if (in_set && outside && !newer.empty()) return refuse(fmt::format("'\\P{{{}}}' inside brackets", name));
    if (in_set) {
      out_ += fmt::format("\\{}{{{}}}{}", outside ? 'P' : 'p', written, outside ? "" : newer);
    } else {
      out_ += fmt::format("[{}\\p{{{}}}{}]", outside ? "^" : "", written, newer);
    }
    at_ = close + 1;
    return {};
  }

  Status brackets() {
    out_ += regex_[at_++];
    if (at_ < regex_.size() && regex_[at_] == '^') out_ += regex_[at_++];
    bool first = true;
    while (at_ < regex_.size() && (regex_[at_] != ']' || first)) {
      if (regex_[at_] == '\\') {
        TRY(escape(true));
      } else if (regex_[at_] == '[' || regex_[at_] == ']') {
        return refuse("brackets inside brackets");
      } else if (regex_.substr(at_, 2) == "&&") {
        return refuse("'&&' (the intersection of sets)");
      } else {
        out_ += regex_[at_++];
      }
      first = false;
    }
    if (at_ < regex_.size()) out_ += regex_[at_++];
    return {};
  }

  std::string_view regex_, place_;
  size_t at_ = 0;
  std::string out_;
};

Result<std::unique_ptr<Pattern>> make_pcre(std::string_view pcre, std::string_view name, std::string_view place) {
  int error = 0;
  PCRE2_SIZE at = 0;
  // Multi-line: Oniguruma's ^ and $ always look at lines, and only a line feed ends one.
  pcre2_compile_context* context = pcre2_compile_context_create(nullptr);
  CHECK(context != nullptr, "no memory for a PCRE2 context");
  pcre2_set_newline(context, PCRE2_NEWLINE_LF);
  pcre2_set_parens_nest_limit(context, 100);
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pcre.data()), pcre.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &at, context);
  pcre2_compile_context_free(context);
  if (!code) {
    char reason[256] = "";
    pcre2_get_error_message(error, reinterpret_cast<PCRE2_UCHAR*>(reason), sizeof reason);
    return make_error(Code::kUnsupported, "{}: the regex '{}' does not compile: {} (byte {} of its translation)", place,
                      name, reason, at);
  }
  return std::unique_ptr<Pattern>(std::make_unique<PcrePattern>(code, std::string(name)));
}

}  // namespace

Result<std::string> translate_regex(std::string_view regex, std::string_view place) {
  return Translator(regex, place).run();
}

Result<std::unique_ptr<Pattern>> make_regex(std::string_view regex, std::string_view place) {
  if (regex.size() > kRegexLimitBytes) {
    return make_error(Code::kUnsupported, "{}: a regex of {} bytes, at most {} are run", place, regex.size(),
                      kRegexLimitBytes);
  }
  TRY_ASSIGN(const std::string pcre, translate_regex(regex, place));
  return make_pcre(pcre, regex, place);
}

}  // namespace westlake
