// Pieces of text with their origin, and the few Unicode classes that Python's str methods look at.
#include "text/jinja_string.h"

#include <utf8proc.h>

#include <algorithm>

namespace westlake {

JinjaString::JinjaString(std::string text, Origin origin) : text_(std::move(text)) {
  if (!text_.empty() || origin == Origin::kContent) pieces_.push_back({text_.size(), origin});
}

bool JinjaString::has_content() const {
  return std::any_of(pieces_.begin(), pieces_.end(),
                     [](const Piece& piece) { return piece.origin == Origin::kContent; });
}

Origin JinjaString::origin_at(size_t offset) const {
  const auto piece = std::upper_bound(pieces_.begin(), pieces_.end(), offset,
                                      [](size_t value, const Piece& candidate) { return value < candidate.end; });
  if (piece != pieces_.end()) return piece->origin;
  return pieces_.empty() ? Origin::kTemplate : pieces_.back().origin;
}

void JinjaString::append(std::string_view text, Origin origin) {
  text_.append(text);
  if (origin == Origin::kTemplate) {
    if (text.empty()) return;
    if (!pieces_.empty() && pieces_.back().origin == Origin::kTemplate) {
      pieces_.back().end = text_.size();
      return;
    }
  }
  pieces_.push_back({text_.size(), origin});
}

void JinjaString::append(const JinjaString& other, size_t begin, size_t end) {
  const std::string_view text = other.text_;
  auto piece = std::lower_bound(other.pieces_.begin(), other.pieces_.end(), begin,
                                [](const Piece& candidate, size_t value) { return candidate.end < value; });
  bool parted = false;  // an empty slice of content leaves one empty piece, not one for each side of a border
  for (; piece != other.pieces_.end(); ++piece) {
    const size_t piece_begin = piece == other.pieces_.begin() ? 0 : (piece - 1)->end;
    if (piece_begin > end) break;
    const size_t from = std::max(piece_begin, begin), to = std::min(piece->end, end);
    if (from < to) {
      append(text.substr(from, to - from), piece->origin);
    } else if (piece->origin == Origin::kContent && (piece_begin == piece->end || begin == end) && !parted) {
      append({}, Origin::kContent);
      parted = true;
    }
  }
}

JinjaString JinjaString::slice(size_t begin, size_t end) const {
  JinjaString out;
  out.append(*this, begin, end);
  return out;
}

uint32_t utf8_next(std::string_view text, size_t* offset) {
  const Utf8Char character = utf8_at(text.data() + *offset);
  *offset += character.size;
  return character.code;
}

size_t utf8_length(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

size_t utf8_offset(std::string_view text, size_t index) {
  size_t offset = 0;
  while (index-- > 0 && offset < text.size()) utf8_next(text, &offset);
  return offset;
}

bool is_python_space(uint32_t c) {
  return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

bool is_python_line_break(uint32_t c) {
  return (c >= 0x0a && c <= 0x0d) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

namespace {

utf8proc_category_t category(uint32_t code) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(code));
}

// What utf8proc's one-to-one mappings leave out and chat text may well contain.
constexpr uint32_t kSharpS = 0xdf;
constexpr uint32_t kLatinLigatures = 0xfb00;  // ff fi fl ffi ffl
constexpr const char* kLigatureLetters[] = {"ff", "fi", "fl", "ffi", "ffl"};

}  // namespace

bool is_python_printable(uint32_t code) {
  switch (category(code)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return false;
    case UTF8PROC_CATEGORY_ZS:
      return code == ' ';
    default:
      return true;
  }
}

bool is_python_alpha(uint32_t code) {
  const utf8proc_category_t kind = category(code);
  return kind >= UTF8PROC_CATEGORY_LU && kind <= UTF8PROC_CATEGORY_LO;
}

bool is_python_digit(uint32_t code) {
  return category(code) == UTF8PROC_CATEGORY_ND;
}

bool is_python_numeric(uint32_t code) {
  const utf8proc_category_t kind = category(code);
  return kind >= UTF8PROC_CATEGORY_ND && kind <= UTF8PROC_CATEGORY_NO;
}

bool is_python_upper(uint32_t code) {
  return category(code) == UTF8PROC_CATEGORY_LU;
}

bool is_python_lower(uint32_t code) {
  return category(code) == UTF8PROC_CATEGORY_LL;
}

void append_upper(std::string& out, uint32_t code) {
  if (code == kSharpS) {
    out += "SS";
  } else if (code >= kLatinLigatures && code < kLatinLigatures + 5) {
    for (const char* c = kLigatureLetters[code - kLatinLigatures]; *c != 0; ++c) out += static_cast<char>(*c - 32);
  } else {
    utf8_append(out, static_cast<uint32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(code))));
  }
}

void append_lower(std::string& out, uint32_t code) {
  utf8_append(out, static_cast<uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(code))));
  if (code == 0x130) utf8_append(out, 0x307);  // capital I with dot above becomes i and a combining dot
}

void append_title(std::string& out, uint32_t code) {
  if (code == kSharpS) {
    out += "Ss";
  } else if (code >= kLatinLigatures && code < kLatinLigatures + 5) {
    const char* letters = kLigatureLetters[code - kLatinLigatures];
    out += static_cast<char>(letters[0] - 32);
    out += letters + 1;
  } else {
    utf8_append(out, static_cast<uint32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(code))));
  }
}

ByteRange strip_range(std::string_view text, bool left, bool right, const std::string* chars) {
  std::vector<uint32_t> set;
  for (size_t i = 0; chars != nullptr && i < chars->size();) set.push_back(utf8_next(*chars, &i));
  const auto stripped = [&](uint32_t code) {
    return chars == nullptr ? is_python_space(code) : std::find(set.begin(), set.end(), code) != set.end();
  };
  ByteRange range{0, text.size()};
  while (left && range.begin < range.end) {
    size_t next = range.begin;
    if (!stripped(utf8_next(text, &next))) break;
    range.begin = next;
  }
  while (right && range.end > range.begin) {
    size_t start = range.end - 1;
    while (start > range.begin && (text[start] & 0xc0) == 0x80) --start;
    size_t next = start;
    if (!stripped(utf8_next(text, &next))) break;
    range.end = start;
  }
  return range;
}

}  // namespace westlake
