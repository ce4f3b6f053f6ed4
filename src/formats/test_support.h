// What the tests of this room share: a folder that goes away, whole files as bytes, the place of the golden files.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "base/file.h"
#include "base/result.h"

namespace westlake {

inline std::string golden(const std::string& name) {
  return WESTLAKE_SOURCE_DIR "/tests/golden/formats/" + name;
}

class TempFolder {
 public:
  TempFolder() {
    std::string name = testing::TempDir() + "westlake_formats_XXXXXX";
    CHECK(mkdtemp(name.data()) != nullptr, "{}", name);
    path_ = name;
  }
  ~TempFolder() { std::filesystem::remove_all(path_); }
  std::string file(std::string_view name) const { return fmt::format("{}/{}", path_, name); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

inline std::span<const std::byte> as_bytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

inline std::string read_whole(const std::string& path) {
  auto text = read_file(path);
  EXPECT_TRUE(text.ok()) << path;
  return text.ok() ? *text : "";
}

template <typename T>
T load_at(const std::byte* data, int64_t i) {
  T value;
  std::memcpy(&value, data + i * static_cast<int64_t>(sizeof(T)), sizeof value);
  return value;
}

template <typename T>
void append_number(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

// Holds an error against the code and the words that its message must have.
template <typename T>
void expect_error(const Result<T>& result, Code code, std::initializer_list<std::string_view> words) {
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(code_name(result.error().code), code_name(code)) << result.error().message;
  for (std::string_view word : words)
    EXPECT_NE(result.error().message.find(word), std::string::npos)
        << "'" << word << "' in: " << result.error().message;
}

}  // namespace westlake
