// The walk over one GGUF file's header; private to this room (gguf.h is the door).
#pragma once

#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include "formats/gguf.h"

namespace westlake {

// What one file says. Everything points into the bytes given.
struct GgufContents {
  uint32_t version = 0;
  std::vector<GgufEntry> metadata;   // keys may still occur twice
  std::vector<NamedTensor> tensors;  // names too
};

// Checks everything that can be checked without a look at other files; see gguf.h for the errors.
Result<GgufContents> parse_gguf(std::span<const std::byte> bytes, std::string_view place);

// Bytes of a number or bool; 0 for strings and arrays.
size_t gguf_scalar_bytes(GgufType type);

// Decoding of values that parse_gguf has walked over. Nothing when the type does not fit or the number is out of range.
std::optional<int64_t> gguf_as_i64(const GgufValue& value);
std::optional<uint64_t> gguf_as_u64(const GgufValue& value);
std::optional<double> gguf_as_f64(const GgufValue& value);
std::optional<bool> gguf_as_bool(const GgufValue& value);
std::optional<std::string_view> gguf_as_string(const GgufValue& value);
std::optional<GgufArray> gguf_as_array(const GgufValue& value);

}  // namespace westlake
