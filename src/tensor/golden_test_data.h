// Reads tests/golden/*.json for the tests of this room: byte strings stand in hexadecimal, floats as their bytes.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/json.h"

namespace westlake {

class GoldenData {
 public:
  explicit GoldenData(const std::string& name) {
    auto file = MappedFile::open(WESTLAKE_SOURCE_DIR "/tests/golden/" + name);
    CHECK(file.ok(), "{}", file.error().message);
    auto document = JsonDocument::parse(file->text(), name);
    CHECK(document.ok(), "{}", document.error().message);
    document_ = std::move(document).value();
  }
  JsonObject object(const char* key) const { return document_.root()[key].get_object().value(); }

 private:
  JsonDocument document_;
};

inline std::vector<std::byte> golden_bytes(JsonElement element) {
  const std::string_view hex = element.get_string().value();
  const auto digit = [](char c) { return c <= '9' ? c - '0' : c - 'a' + 10; };
  std::vector<std::byte> bytes(hex.size() / 2);
  for (size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<std::byte>(digit(hex[2 * i]) << 4 | digit(hex[2 * i + 1]));
  }
  return bytes;
}

inline std::vector<float> golden_floats(JsonElement element) {
  const std::vector<std::byte> bytes = golden_bytes(element);
  std::vector<float> floats(bytes.size() / sizeof(float));
  std::memcpy(floats.data(), bytes.data(), bytes.size());
  return floats;
}

}  // namespace westlake
