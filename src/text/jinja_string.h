// JinjaString: UTF-8 text in which every byte knows where it came from.
// Idea: a chat prompt is glued together from the template's own words and from what users and tools wrote. When both
// end in one plain string, a user can type a control token. So a string here is a row of pieces, each of the template
// or of the content of one message string, and slicing, joining and replacing carry the pieces along. Neighbouring
// template pieces melt into one; content pieces never melt, not even with each other, and an empty one still parts the
// template's text around it: each message string is encoded alone.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/unicode.h"

namespace westlake {

enum class Origin : uint8_t {
  kTemplate,  // written in the template, or a special token of the tokenizer: control tokens are recognised in it
  kContent,   // from messages, tools and variables of the request: plain text
};

class JinjaString {
 public:
  struct Piece {
    size_t end;  // byte offset behind the piece; it begins where the one before it ends
    Origin origin;
  };

  JinjaString() = default;
  JinjaString(std::string text, Origin origin);

  const std::string& text() const { return text_; }
  size_t size() const { return text_.size(); }
  bool empty() const { return text_.empty(); }
  const std::vector<Piece>& pieces() const { return pieces_; }
  bool has_content() const;
  // Of the whole as one: content as soon as any piece is.
  Origin origin() const { return has_content() ? Origin::kContent : Origin::kTemplate; }
  // Of the byte at `offset`; of the last one when `offset` is at the end.
  Origin origin_at(size_t offset) const;
  // Bytes held, for the memory limit.
  size_t footprint_bytes() const { return text_.size() + pieces_.size() * sizeof(Piece); }

  void append(std::string_view text, Origin origin);
  void append(const JinjaString& other) { append(other, 0, other.size()); }
  // Appends bytes [begin, end) of another string. Requires: begin <= end <= other.size().
  void append(const JinjaString& other, size_t begin, size_t end);
  JinjaString slice(size_t begin, size_t end) const;

  // f(text of a piece) -> its new text; pieces keep their origin.
  template <typename F>
  JinjaString map_pieces(F f) const {
    JinjaString out;
    size_t begin = 0;
    for (const Piece& piece : pieces_) {
      out.append(f(std::string_view(text_).substr(begin, piece.end - begin)), piece.origin);
      begin = piece.end;
    }
    return out;
  }

 private:
  std::string text_;
  std::vector<Piece> pieces_;
};

// UTF-8 that is known to be valid.

// Reads the character at `*offset` and steps behind it. Requires: *offset < text.size(), at a character's first byte.
uint32_t utf8_next(std::string_view text, size_t* offset);
size_t utf8_length(std::string_view text);
// Byte offset of character `index`; the size when there are fewer.
size_t utf8_offset(std::string_view text, size_t index);

// The classes of Python's str methods.
bool is_python_space(uint32_t code_point);
bool is_python_line_break(uint32_t code_point);  // where splitlines splits
bool is_python_printable(uint32_t code_point);
bool is_python_alpha(uint32_t code_point);
bool is_python_digit(uint32_t code_point);
bool is_python_numeric(uint32_t code_point);
bool is_python_upper(uint32_t code_point);
bool is_python_lower(uint32_t code_point);
void append_upper(std::string& out, uint32_t code_point);
void append_lower(std::string& out, uint32_t code_point);
void append_title(std::string& out, uint32_t code_point);

// The part of `text` without white space (or the characters of `chars`, if given) at its ends, as byte offsets.
struct ByteRange {
  size_t begin, end;
};
ByteRange strip_range(std::string_view text, bool left, bool right, const std::string* chars);

}  // namespace westlake
