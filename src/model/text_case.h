// Reference vectors of text: JSON lines that a tokenizer and a chat template must reproduce.
//   tokenizer: {"text", "ids", "decoded", "special"}; special false: added tokens in the text are only text
//   chat:      {"messages", "add_generation_prompt", "tools", "text", "ids", "ids_apart"}
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "model/text_bundle.h"

namespace westlake {

struct TextReport {
  std::string name;
  int64_t vectors = 0, equal = 0;
  std::vector<std::string> failures;  // the first few, one sentence each
  bool passed() const { return equal == vectors; }
};

// Names of the .jsonl files of a folder.
std::vector<std::string> text_vector_files(const std::string& folder);

// Errors: a file that cannot be read, or a line that is no vector.
Result<TextReport> run_text_case(const TextBundle& bundle, const std::string& path);

}  // namespace westlake
