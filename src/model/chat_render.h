// ChatInput: a conversation as JSON -> the text of the model's template and the ids that go into the model.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "model/text_bundle.h"

namespace westlake {

struct ChatInput {
  std::string text;          // as transformers renders it
  std::vector<int32_t> ids;  // template and message text encoded apart

  // `request`: {"messages": [...], "add_generation_prompt": bool (default false), "tools": [...] or null, and further
  // variables of the template}; a bare array is taken as the messages. Errors: kNotFound when the model has no
  // template, kInvalidArgument for a request that is no conversation, and the template's own.
  static Result<ChatInput> render(const TextBundle& bundle, JsonElement request, std::string_view place);
};

// The special tokens of the model under the names that templates use.
std::vector<std::pair<std::string, std::string>> template_tokens(const TextBundle& bundle);

}  // namespace westlake
