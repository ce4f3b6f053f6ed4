// A hand-written walk over the source in Jinja's two states: outside and inside a tag.
#include "text/jinja_lexer.h"

#include <algorithm>

#include "base/json.h"
#include "text/jinja_string.h"

namespace westlake {

std::string jinja_place(std::string_view place, JinjaPosition at) {
  return fmt::format("{}:{}:{}", place, at.line, at.column);
}

std::string jinja_describe(const JinjaToken& token) {
  switch (token.kind) {
    case JinjaTokenKind::kData:
      return "text";
    case JinjaTokenKind::kVariableBegin:
      return "'{{'";
    case JinjaTokenKind::kVariableEnd:
      return "'}}'";
    case JinjaTokenKind::kBlockBegin:
      return "'{%'";
    case JinjaTokenKind::kBlockEnd:
      return "'%}'";
    case JinjaTokenKind::kString:
      return fmt::format("the string '{}'", token.text.substr(0, 40));
    case JinjaTokenKind::kEnd:
      return "the end of the template";
    default:
      return fmt::format("'{}'", token.text.substr(0, 40));
  }
}

namespace {

// Newlines become '\n', and one at the very end goes.
std::string normalize_newlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out += source[i];
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

int digit_value(char c) {
  if (is_digit(c)) return c - '0';
  if (c >= 'a' && c <= 'z') return c - 'a' + 10;
  if (c >= 'A' && c <= 'Z') return c - 'A' + 10;
  return 99;
}

class Lexer {
 public:
  Lexer(std::string source, std::string_view place) : source_(std::move(source)), place_(place) {}

  Result<std::vector<JinjaToken>> run() {
    while (at_ < source_.size()) TRY(outside());
    add(JinjaTokenKind::kEnd, source_.size(), {});
    return std::move(tokens_);
  }

 private:
  char peek(size_t ahead = 0) const { return at_ + ahead < source_.size() ? source_[at_ + ahead] : '\0'; }
  bool starts(size_t offset, std::string_view text) const {
    return std::string_view(source_).substr(std::min(offset, source_.size()), text.size()) == text;
  }

  // Offsets come in rising order, so lines are counted once.
  JinjaPosition position(size_t offset) {
    for (; counted_ < offset && counted_ < source_.size(); ++counted_) {
      if (source_[counted_] == '\n') {
        ++counted_at_.line;
        counted_at_.column = 1;
      } else if ((source_[counted_ + 1] & 0xc0) != 0x80) {
        ++counted_at_.column;
      }
    }
    return counted_at_;
  }

  void add(JinjaTokenKind kind, size_t offset, std::string text) {
    tokens_.push_back({kind, position(offset), std::move(text)});
  }

  template <typename... Args>
  Error fail(size_t offset, fmt::format_string<Args...> format, Args&&... args) {
    return make_error(Code::kCorrupt, "{}: {}", jinja_place(place_, position(offset)),
                      fmt::format(format, std::forward<Args>(args)...));
  }

  size_t skip_space(size_t offset) const {
    while (offset < source_.size()) {
      size_t next = offset;
      if (!is_python_space(utf8_next(source_, &next))) break;
      offset = next;
    }
    return offset;
  }

  // Data up to the next tag, and the tag's opening. `strips_line`: lstrip_blocks applies to this kind of tag.
  void add_data(size_t begin, size_t end, char sign, bool strips_line) {
    std::string_view text = std::string_view(source_).substr(begin, end - begin);
    if (sign == '-') {
      text = text.substr(0, strip_range(text, false, true, nullptr).end);
    } else if (sign != '+' && strips_line) {
      const size_t newline = text.rfind('\n');
      const size_t line = newline == text.npos ? 0 : newline + 1;
      const std::string_view rest = text.substr(line);
      if ((line > 0 || line_starting_) && strip_range(rest, false, true, nullptr).end == 0) text = text.substr(0, line);
    }
    if (!text.empty()) add(JinjaTokenKind::kData, begin, std::string(text));
  }

  // Behind `{% raw %}` when that stands at `offset`, else npos.
  size_t match_raw(size_t offset, std::string_view word, char* sign) const {
    if (!starts(offset, "{%")) return std::string::npos;
    size_t i = offset + 2;
    *sign = 0;
    if (i < source_.size() && (source_[i] == '-' || source_[i] == '+')) *sign = source_[i++];
    i = skip_space(i);
    if (!starts(i, word)) return std::string::npos;
    i = skip_space(i + word.size());
    if (starts(i, "-%}")) return skip_space(i + 3);
    if (word == "endraw") {
      if (starts(i, "+%}")) return i + 3;
      if (starts(i, "%}\n")) return i + 3;
    }
    return starts(i, "%}") ? i + 2 : std::string::npos;
  }

  Status outside() {
    const size_t begin = at_;
    size_t open = begin;
    while (true) {
      open = source_.find('{', open);
      if (open == std::string::npos || open + 1 >= source_.size()) {
        add_data(begin, source_.size(), '+', false);
        at_ = source_.size();
        return {};
      }
      const char kind = source_[open + 1];
      if (kind == '%' || kind == '#' || kind == '{') break;
      ++open;
    }
    char sign = 0;
    if (const size_t body = match_raw(open, "raw", &sign); body != std::string::npos) {
      add_data(begin, open, sign, true);
      return raw(open, body);
    }
    const char kind = source_[open + 1];
    at_ = open + 2;
    sign = peek();
    if (sign == '-' || sign == '+') {
      ++at_;
    } else {
      sign = 0;
    }
    add_data(begin, open, sign, kind != '{');
    if (kind == '#') return comment(open);
    line_starting_ = false;
    add(kind == '{' ? JinjaTokenKind::kVariableBegin : JinjaTokenKind::kBlockBegin, open, {});
    return inside(open, kind == '{');
  }

  Status raw(size_t open, size_t body) {
    for (size_t i = body; (i = source_.find("{%", i)) != std::string::npos; ++i) {
      char sign = 0;
      const size_t end = match_raw(i, "endraw", &sign);
      if (end == std::string::npos) continue;
      line_starting_ = source_[body - 1] == '\n';
      add_data(body, i, sign, true);
      at_ = end;
      line_starting_ = source_[end - 1] == '\n';
      return {};
    }
    return fail(open, "'raw' has no 'endraw'");
  }

  Status comment(size_t open) {
    const size_t close = source_.find("#}", at_);
    if (close == std::string::npos) return fail(open, "the comment has no end");
    const bool strip = close > at_ && source_[close - 1] == '-';
    const bool keep = close > at_ && source_[close - 1] == '+';
    at_ = close + 2;
    if (strip) {
      at_ = skip_space(at_);
    } else if (!keep && peek() == '\n') {
      ++at_;
    }
    line_starting_ = source_[at_ - 1] == '\n';
    return {};
  }

  // Takes the end of the tag when it stands here.
  bool close(bool variable) {
    const std::string_view end = variable ? "}}" : "%}";
    const size_t open = at_;
    if (starts(at_, variable ? "-}}" : "-%}")) {
      at_ = skip_space(at_ + 3);
    } else if (!variable && starts(at_, "+%}")) {
      at_ += 3;
    } else if (starts(at_, end)) {
      at_ += 2;
      if (!variable && peek() == '\n') ++at_;
    } else {
      return false;
    }
    line_starting_ = source_[at_ - 1] == '\n';
    add(variable ? JinjaTokenKind::kVariableEnd : JinjaTokenKind::kBlockEnd, open, {});
    return true;
  }

  Status inside(size_t open, bool variable) {
    const JinjaPosition opened = position(open);
    std::string brackets;  // closing ones that are awaited
    while (true) {
      at_ = skip_space(at_);
      if (at_ >= source_.size()) {
        return make_error(Code::kCorrupt, "{}: the tag has no end, expected '{}'", jinja_place(place_, opened),
                          variable ? "}}" : "%}");
      }
      if (brackets.empty() && close(variable)) return {};
      const char c = peek();
      if (is_digit(c)) {
        number();
      } else if (c == '\'' || c == '"') {
        TRY(string());
      } else if (is_word(at_)) {
        name();
      } else {
        TRY(punctuation(brackets));
      }
    }
  }

  bool is_word(size_t offset) const {
    size_t next = offset;
    const uint32_t code = utf8_next(source_, &next);
    return code == '_' || is_python_alpha(code) || is_python_numeric(code);
  }

  void name() {
    const size_t begin = at_;
    while (at_ < source_.size() && is_word(at_)) utf8_next(source_, &at_);
    add(JinjaTokenKind::kName, begin, source_.substr(begin, at_ - begin));
  }

  // Digits with single underscores between them, without these.
  std::string digits(size_t* offset, int base = 10) const {
    std::string out;
    size_t i = *offset;
    while (i < source_.size()) {
      const bool joined = source_[i] == '_' && i + 1 < source_.size() && digit_value(source_[i + 1]) < base;
      if (joined && (!out.empty() || base != 10)) {
        ++i;
      } else if (digit_value(source_[i]) >= base) {
        break;
      }
      out += source_[i++];
    }
    *offset = i;
    return out;
  }

  void number() {
    const size_t begin = at_;
    const char marker = static_cast<char>(peek(1) | 0x20);
    if (peek() == '0' && (marker == 'x' || marker == 'o' || marker == 'b')) {
      size_t i = at_ + 2;
      const std::string body = digits(&i, marker == 'x' ? 16 : marker == 'o' ? 8 : 2);
      if (!body.empty()) {
        at_ = i;
        add(JinjaTokenKind::kInteger, begin, std::string("0") + marker + body);
        return;
      }
    }
    std::string text = digits(&at_);
    JinjaTokenKind kind = JinjaTokenKind::kInteger;
    const bool after_dot = begin > 0 && source_[begin - 1] == '.';
    if (!after_dot && peek() == '.' && is_digit(peek(1))) {
      ++at_;
      text += "." + digits(&at_);
      kind = JinjaTokenKind::kFloat;
    }
    if (!after_dot && (peek() | 0x20) == 'e') {
      size_t i = at_ + 1;
      std::string exponent = "e";
      if (i < source_.size() && (source_[i] == '+' || source_[i] == '-')) exponent += source_[i++];
      if (i < source_.size() && is_digit(source_[i])) {
        text += exponent + digits(&i);
        at_ = i;
        kind = JinjaTokenKind::kFloat;
      }
    }
    add(kind, begin, std::move(text));
  }

  Status string() {
    const size_t begin = at_;
    const char quote = source_[at_++];
    std::string out;
    while (true) {
      if (at_ >= source_.size()) return fail(begin, "the string has no end, expected {}", quote);
      const char c = source_[at_++];
      if (c == quote) break;
      if (c != '\\') {
        out += c;
        continue;
      }
      if (at_ >= source_.size()) return fail(begin, "the string has no end, expected {}", quote);
      TRY(escape(out));
    }
    add(JinjaTokenKind::kString, begin, std::move(out));
    return {};
  }

  // Python's escapes of a string literal; an unknown one stays as it is.
  Status escape(std::string& out) {
    static constexpr std::string_view kNames = "abfnrtv\\'\"", kValues = "\a\b\f\n\r\t\v\\'\"";
    const size_t begin = at_ - 1;
    const char c = source_[at_++];
    if (const size_t index = kNames.find(c); index != kNames.npos) {
      out += kValues[index];
    } else if (c == '\n') {
      // A newline that is escaped is no part of the string.
    } else if (c == 'x' || c == 'u' || c == 'U') {
      const size_t length = c == 'x' ? 2 : c == 'u' ? 4 : 8;
      uint32_t code = 0;
      for (size_t i = 0; i < length; ++i, ++at_) {
        if (digit_value(peek()) >= 16) return fail(begin, "the escape '\\{}' needs {} hexadecimal digits", c, length);
        code = code << 4 | static_cast<uint32_t>(digit_value(peek()));
      }
      if (code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) {
        return fail(begin, "the escape '\\{}{:04x}' is no character", c, code);
      }
      utf8_append(out, code);
    } else if (c >= '0' && c <= '7') {
      uint32_t code = static_cast<uint32_t>(c - '0');
      for (int i = 0; i < 2 && peek() >= '0' && peek() <= '7'; ++i) {
        code = code * 8 + static_cast<uint32_t>(source_[at_++] - '0');
      }
      utf8_append(out, code);
    } else if (c == 'N') {
      return fail(begin, "the escape '\\N' (a character by its name) is not supported");
    } else {
      out += '\\';
      --at_;  // the character itself may be of several bytes: the caller goes on with it
      if (source_[at_] != '\\') out += source_[at_++];
    }
    return {};
  }

  Status punctuation(std::string& brackets) {
    static constexpr std::string_view kPairs[] = {"**", "//", "==", "!=", "<=", ">="};
    static constexpr std::string_view kSingles = "+-/*%~[](){}><=.:|,;";
    const size_t begin = at_;
    const std::string_view here = std::string_view(source_).substr(at_, 2);
    for (const std::string_view pair : kPairs) {
      if (here != pair) continue;
      at_ += 2;
      add(JinjaTokenKind::kOperator, begin, std::string(pair));
      return {};
    }
    const char c = peek();
    if (kSingles.find(c) == kSingles.npos) {
      size_t next = at_;
      utf8_next(source_, &next);
      return fail(at_, "unexpected character '{}'", source_.substr(at_, next - at_));
    }
    if (c == '(' || c == '[' || c == '{') {
      brackets += c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (c == ')' || c == ']' || c == '}') {
      if (brackets.empty()) return fail(at_, "unexpected '{}'", c);
      if (brackets.back() != c) return fail(at_, "unexpected '{}', expected '{}'", c, brackets.back());
      brackets.pop_back();
    }
    ++at_;
    add(JinjaTokenKind::kOperator, begin, std::string(1, c));
    return {};
  }

  std::string source_;
  std::string_view place_;
  size_t at_ = 0;
  bool line_starting_ = true;  // what was taken last ended with a newline
  size_t counted_ = 0;
  JinjaPosition counted_at_;
  std::vector<JinjaToken> tokens_;
};

}  // namespace

Result<std::vector<JinjaToken>> jinja_tokens(std::string_view source, std::string_view place) {
  if (!simdjson::validate_utf8(source.data(), source.size())) {
    return make_error(Code::kCorrupt, "{}: the template is not valid UTF-8", place);
  }
  return Lexer(normalize_newlines(source), place).run();
}

}  // namespace westlake
