// The flat class table, expanded once from ranges, and the repair of UTF-8. See unicode.h.
#include "text/unicode.h"

#include <algorithm>
#include <memory>

#include "text/char_table.h"

namespace westlake {

const uint8_t* char_classes() {
  static const std::unique_ptr<uint8_t[]> table = [] {
    constexpr uint32_t kEnd = 0x110000;
    auto classes = std::make_unique<uint8_t[]>(kEnd);
    for (size_t i = 0; i < kCharRangeCount; ++i) {
      const uint32_t begin = kCharRanges[i] >> 8;
      const uint32_t end = i + 1 < kCharRangeCount ? kCharRanges[i + 1] >> 8 : kEnd;
      std::fill(classes.get() + begin, classes.get() + end, static_cast<uint8_t>(kCharRanges[i] & 0xff));
    }
    return classes;
  }();
  return table.get();
}

const CharTable& char_table() {
  static const CharTable table = [] {
    CharTable made = {char_classes(), {}};
    for (uint32_t code = 0; code < 128; ++code) made.ascii[code] = char_bits(made.classes, code);
    return made;
  }();
  return table;
}

void utf8_append(std::string& out, uint32_t code) {
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xc0 | code >> 6);
    out += static_cast<char>(0x80 | (code & 0x3f));
  } else if (code < 0x10000) {
    out += static_cast<char>(0xe0 | code >> 12);
    out += static_cast<char>(0x80 | (code >> 6 & 0x3f));
    out += static_cast<char>(0x80 | (code & 0x3f));
  } else {
    out += static_cast<char>(0xf0 | code >> 18);
    out += static_cast<char>(0x80 | (code >> 12 & 0x3f));
    out += static_cast<char>(0x80 | (code >> 6 & 0x3f));
    out += static_cast<char>(0x80 | (code & 0x3f));
  }
}

Utf8State utf8_probe(std::string_view text, size_t* size) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  *size = 1;
  if (lead < 0x80) return Utf8State::kWhole;
  if (lead < 0xc2 || lead > 0xf4) return Utf8State::kInvalid;
  const size_t length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  // The second byte has a narrower range after some leads: no overlong forms, no surrogates, nothing above U+10FFFF.
  const unsigned char low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
  const unsigned char high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
  for (; *size < length; ++*size) {
    if (*size == text.size()) return Utf8State::kIncomplete;
    const unsigned char next = byte(*size);
    if (*size == 1 ? next < low || next > high : (next & 0xc0) != 0x80) return Utf8State::kInvalid;
  }
  return Utf8State::kWhole;
}

std::string utf8_repair(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    size_t size = 0;
    if (utf8_probe(text.substr(at), &size) == Utf8State::kWhole) {
      out.append(text.substr(at, size));
    } else {
      out += "\xef\xbf\xbd";
    }
    at += size;
  }
  return out;
}

}  // namespace westlake
