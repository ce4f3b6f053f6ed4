// TextBundle: what turns text into ids and back for one model: tokenizer, chat template, and the ids that stop.
// Idea: it opens from a model folder, a bare tokenizer folder, a tokenizer.json (also .zst), or a GGUF file; weights
// are not looked at.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace westlake {

struct TextBundle {
  explicit TextBundle(Tokenizer t) : tokenizer(std::move(t)) {}

  Tokenizer tokenizer;
  std::optional<ChatTemplate> chat_template;  // absent where the model publishes none
  std::string chat_template_source;           // its text, for files that carry it on
  std::string chat_template_problem;          // why it cannot be run; a plain prompt does not need it
  std::string bos_token, eos_token;           // as the template's variables of these names
  bool add_bos = false;                       // a plain prompt begins with bos
  std::vector<int32_t> stop_ids;              // tokens that end an answer: eos, eot, <|im_end|> and the like

  // The template, or why there is none to run.
  Result<const ChatTemplate*> runnable_template(std::string_view place) const;

  // Errors: kNotFound when there is no tokenizer at `path`.
  static Result<TextBundle> open(const std::string& path);
};

}  // namespace westlake
