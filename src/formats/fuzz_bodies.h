// What the fuzz targets do with one input, shared with the test that replays tests/golden/fuzz/.
// Idea: parse, and where that succeeds use everything that the reader promises: read each byte that a view points to,
// call each getter with each key. Sanitizers and limits judge.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "formats/gguf.h"
#include "formats/npy.h"
#include "formats/safetensors.h"
#include "formats/text_file.h"

namespace westlake {

inline uint64_t touch(const TensorView& view) {
  CHECK(view.elements() >= 0 && view.size_bytes >= 0);
  uint64_t sum = 0;
  for (int64_t i = 0; i < view.size_bytes; ++i) sum += static_cast<uint64_t>(view.data[i]);
  return sum;
}

// Every tensor of a file is found under its name and lies inside the input.
template <typename File>
void touch_all(const File& file, std::span<const std::byte> input) {
  int64_t total = 0;
  for (const NamedTensor& tensor : file.tensors()) {
    touch(tensor.view);
    CHECK(file.find(tensor.name) == &tensor.view);
    total += tensor.view.size_bytes;
  }
  CHECK(total <= static_cast<int64_t>(input.size()));
}

inline void fuzz_safetensors(std::span<const std::byte> input) {
  auto file = Safetensors::from_bytes(input, "fuzz");
  if (!file.ok()) return;
  touch_all(*file, input);
}

inline void fuzz_gguf(std::span<const std::byte> input) {
  auto file = Gguf::from_bytes(input, "fuzz");
  if (!file.ok()) return;
  touch_all(*file, input);
  size_t characters = 0;
  for (const GgufEntry& entry : file->metadata()) {
    gguf_preview(entry.value);
    (void)file->get_u64(entry.key).ok();
    (void)file->get_i64(entry.key).ok();
    (void)file->get_f64(entry.key).ok();
    (void)file->get_bool(entry.key).ok();
    (void)file->get_ints(entry.key).ok();
    (void)file->get_floats(entry.key).ok();
    if (auto text = file->get_string(entry.key); text.ok()) characters += std::string(*text).size();
    if (auto texts = file->get_strings(entry.key); texts.ok()) {
      for (std::string_view text : *texts) characters += std::string(text).size();
    }
  }
  CHECK(characters <= input.size());
}

inline void fuzz_npy(std::span<const std::byte> input) {
  auto array = Npy::from_bytes(input, "fuzz");
  if (!array.ok()) return;
  touch(array->view());
  (void)array->int32s().ok();
  (void)array->floats().ok();
}

// Line by line and as a whole: both must tell the same story.
inline void fuzz_text_file(std::span<const std::byte> input) {
  constexpr uint64_t kLimitBytes = 1 << 16;  // bombs are told by their first bytes; more would only be slow
  auto lines = TextReader::from_bytes(input, "fuzz");
  auto whole = TextReader::from_bytes(input, "fuzz");
  CHECK(lines.ok() == whole.ok());
  if (!lines.ok()) return;
  auto text = whole->read_all(kLimitBytes);
  std::string line, joined;
  for (;;) {
    auto more = lines->next_line(&line, kLimitBytes);
    CHECK(more.ok() || !text.ok());
    if (!more.ok() || !*more) break;
    joined += line + "\n";
    if (joined.size() > kLimitBytes) return;
  }
  if (!text.ok()) return;
  if (!text->empty() && text->back() != '\n') *text += '\n';
  CHECK(joined == *text);
}

}  // namespace westlake
