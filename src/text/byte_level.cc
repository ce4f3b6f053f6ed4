// Tables of the byte-level alphabet. See byte_level.h.
#include "text/byte_level.h"

#include <array>

#include "text/unicode.h"

namespace westlake {
namespace {

constexpr bool is_printable(int byte) {
  return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

struct Alphabet {
  std::array<uint16_t, 256> chars = {};
  std::array<int16_t, 0x144> bytes = {};
};

constexpr Alphabet kAlphabet = [] {
  Alphabet alphabet;
  for (int16_t& byte : alphabet.bytes) byte = -1;
  uint16_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    alphabet.chars[byte] = is_printable(byte) ? static_cast<uint16_t>(byte) : next++;
    alphabet.bytes[alphabet.chars[byte]] = static_cast<int16_t>(byte);
  }
  return alphabet;
}();

}  // namespace

uint32_t byte_to_char(uint8_t byte) {
  return kAlphabet.chars[byte];
}

int char_to_byte(uint32_t code) {
  return code < kAlphabet.bytes.size() ? kAlphabet.bytes[code] : -1;
}

void append_byte_level(std::string& out, std::string_view bytes) {
  for (const char c : bytes) utf8_append(out, byte_to_char(static_cast<uint8_t>(c)));
}

bool append_token_bytes(std::string& out, std::string_view token) {
  const size_t before = out.size();
  for (size_t at = 0; at < token.size();) {
    const Utf8Char c = utf8_at(token.data() + at);
    const int byte = char_to_byte(c.code);
    if (byte < 0) {
      out.resize(before);
      out += token;
      return false;
    }
    out += static_cast<char>(byte);
    at += c.size;
  }
  return true;
}

}  // namespace westlake
