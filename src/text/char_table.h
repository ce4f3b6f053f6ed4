// The class table as scanners use it: bits of the character at a pointer, and runs of characters of a class. ASCII has
// a small table of its own, since most of most texts is ASCII.
#pragma once

#include "text/unicode.h"

namespace westlake {

struct CharTable {
  const uint8_t* classes;
  uint32_t ascii[128];

  struct Char {
    uint32_t bits;
    uint32_t size;
  };

  // Requires: valid UTF-8 at `p`.
  Char at(const char* p) const {
    const auto byte = static_cast<unsigned char>(*p);
    if (byte < 0x80) return {ascii[byte], 1};
    const Utf8Char c = utf8_at(p);
    return {char_bits(classes, c.code), c.size};
  }

  // Past the characters that have a bit of `mask` and none of `without`.
  const char* skip(const char* p, const char* end, uint32_t mask, uint32_t without = 0) const {
    while (p < end) {
      const Char c = at(p);
      if (!(c.bits & mask) || (c.bits & without)) break;
      p += c.size;
    }
    return p;
  }

  // Past the characters that have no bit of `mask`.
  const char* skip_other(const char* p, const char* end, uint32_t mask) const {
    while (p < end) {
      const Char c = at(p);
      if (c.bits & mask) break;
      p += c.size;
    }
    return p;
  }

  static bool is_ascii_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
};

// Thread-safe: made on first use.
const CharTable& char_table();

}  // namespace westlake
