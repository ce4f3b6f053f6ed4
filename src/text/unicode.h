// Code points: their class bits, and UTF-8 in and out.
// Idea: one byte a code point in a flat table (1.1 MB, of which a text touches a few pages), then one word of bits a
// class. The bits are those of the reference tokenizer's own engines (Unicode 16), not of a library of this machine.
// Source: the Unicode general categories; UTF-8 repair as in "maximal subpart" of the Unicode standard, chapter 3.9.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace westlake {

// The order of the bits is fixed by tools/make_unicode_tables.py.
enum CharBit : uint32_t {
  kLu = 1u << 0,
  kLl = 1u << 1,
  kLt = 1u << 2,
  kLm = 1u << 3,
  kLo = 1u << 4,
  kM = 1u << 5,
  kNd = 1u << 6,
  kNl = 1u << 7,
  kNo = 1u << 8,
  kP = 1u << 9,
  kS = 1u << 10,
  kZ = 1u << 11,
  kSpace = 1u << 12,        // \s: White_Space
  kHan = 1u << 13,          // the script
  kWord = 1u << 14,         // \w of Rust's regex: Alphabetic, M, Nd, Pc, joiners
  kNumeric = 1u << 15,      // Rust's char::is_numeric
  kPunctuation = 1u << 16,  // what the Punctuation pre-tokenizer splits at
  kNfcUnsafe = 1u << 17,    // NFC may change it, or it may act on its neighbour
  kNewer = 1u << 18,        // assigned after Unicode 14
  kDecomposes = 1u << 19,   // NFKD of the reference changes it or moves it
};
inline constexpr uint32_t kL = kLu | kLl | kLt | kLm | kLo;
inline constexpr uint32_t kN = kNd | kNl | kNo;

extern const uint32_t kCharClassBits[];
extern const uint32_t kCharRanges[];
extern const size_t kCharRangeCount;

// The flat table: one class a code point.
const uint8_t* char_classes();

inline uint32_t char_bits(const uint8_t* classes, uint32_t code) {
  return kCharClassBits[classes[code]];
}

struct Utf8Char {
  uint32_t code;
  uint32_t size;  // bytes
};

// Requires: valid UTF-8, at a character's first byte.
inline Utf8Char utf8_at(const char* at) {
  const auto* p = reinterpret_cast<const unsigned char*>(at);
  if (p[0] < 0x80) return {p[0], 1};
  if (p[0] < 0xe0) return {(p[0] & 0x1fu) << 6 | (p[1] & 0x3fu), 2};
  if (p[0] < 0xf0) return {(p[0] & 0x0fu) << 12 | (p[1] & 0x3fu) << 6 | (p[2] & 0x3fu), 3};
  return {(p[0] & 0x07u) << 18 | (p[1] & 0x3fu) << 12 | (p[2] & 0x3fu) << 6 | (p[3] & 0x3fu), 4};
}

// The start of the character that ends before `at`. Requires: valid UTF-8, begin < at.
inline const char* utf8_before(const char* begin, const char* at) {
  do --at;
  while (at > begin && (static_cast<unsigned char>(*at) & 0xc0) == 0x80);
  return at;
}

void utf8_append(std::string& out, uint32_t code);

// What stands at the start of `text`: a whole character, a piece that can never become one (both with their size in
// bytes), or the beginning of a character whose rest is missing.
enum class Utf8State { kWhole, kInvalid, kIncomplete };
Utf8State utf8_probe(std::string_view text, size_t* size);

// The same text with U+FFFD for every maximal invalid piece: what Rust's from_utf8_lossy and Python's "replace" give.
std::string utf8_repair(std::string_view text);

}  // namespace westlake
