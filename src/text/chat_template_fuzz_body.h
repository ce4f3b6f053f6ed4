// What the fuzzer and the test of its old findings do with an input: a template, and after a line "---" the messages.
#pragma once

#include <string_view>

#include "base/check.h"
#include "text/chat_template.h"

namespace westlake {

inline void fuzz_chat_template(std::string_view input) {
  static constexpr std::string_view kSeparator = "\n---\n";
  static constexpr std::string_view kMessages =
      R"([{"role": "system", "content": "s <x> é"}, {"role": "user", "content": [{"type": "text", "text": "a"}]},
          {"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1.5}}}]}])";
  const size_t cut = input.find(kSeparator);
  const std::string_view source = input.substr(0, cut);
  std::string_view messages = kMessages;
  if (cut != std::string_view::npos) messages = input.substr(cut + kSeparator.size());
  const auto parsed = ChatTemplate::parse(source, "fuzz");
  if (!parsed.ok()) return;
  const auto document = JsonDocument::parse(messages, "messages");
  if (!document.ok()) return;
  ChatRequest request;
  request.messages_json = document.value().root();
  request.tools = document.value().root();
  request.special_tokens = {{"bos_token", "<s>"}};
  request.now = std::tm{.tm_mday = 1, .tm_year = 100};
  JinjaLimits limits;
  limits.steps = 200'000;
  limits.live_bytes = 4 << 20;
  limits.output_bytes = 1 << 20;
  const auto chat = parsed.value().render(request, limits);
  if (!chat.ok()) {
    CHECK(!chat.error().message.empty(), "an error without a message");
    return;
  }
  for (const ChatSegment& segment : chat.value().segments) {
    CHECK(!segment.text.empty(), "an empty segment");
    CHECK(simdjson::validate_utf8(segment.text.data(), segment.text.size()), "a segment cuts a character");
  }
}

}  // namespace westlake
