// The byte-level alphabet: every byte has a printable character, so that a vocabulary is a list of readable texts.
// Source: GPT-2's encoder.py (bytes_to_unicode); Hugging Face tokenizers, ByteLevel.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace westlake {

// The character of a byte: itself where it is printable Latin-1, else U+0100 and up in order.
uint32_t byte_to_char(uint8_t byte);

// The byte of a character of the alphabet; -1 for any other.
int char_to_byte(uint32_t code);

// Appends the alphabet's form of `bytes`.
void append_byte_level(std::string& out, std::string_view bytes);

// Appends the bytes that `token` stands for: those of its characters when all are of the alphabet, else its own UTF-8,
// as the reference's decoder does (for added tokens too). Returns whether all were. Requires: valid UTF-8.
bool append_token_bytes(std::string& out, std::string_view token);

}  // namespace westlake
