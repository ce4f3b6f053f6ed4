// tokenizer_config.json: which tokens begin and end a text, and the chat templates.
// Source: Hugging Face transformers, PreTrainedTokenizerBase.save_pretrained.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace westlake {

struct TokenizerConfig {
  std::string bos_token, eos_token, pad_token, unk_token;  // empty: none
  std::optional<bool> add_bos_token, add_eos_token;        // unset: as tokenizer.json has it
  // Name and text. A single template is called "default". Empty: the file has none (it may lie beside it).
  std::vector<std::pair<std::string, std::string>> chat_templates;
  std::string tokenizer_class;
  int64_t model_max_length = 0;  // 0: not stated, or the "very large" of transformers

  // The template of that name; nullptr when there is none.
  const std::string* chat_template(std::string_view name = "default") const;
};

Result<TokenizerConfig> read_tokenizer_config(std::string_view text, std::string_view place);

}  // namespace westlake
