#include "model/chat_render.h"

#include "text/chat_encode.h"

namespace westlake {

std::vector<std::pair<std::string, std::string>> template_tokens(const TextBundle& bundle) {
  std::vector<std::pair<std::string, std::string>> tokens;
  if (!bundle.bos_token.empty()) tokens.emplace_back("bos_token", bundle.bos_token);
  if (!bundle.eos_token.empty()) tokens.emplace_back("eos_token", bundle.eos_token);
  if (const int32_t pad = bundle.tokenizer.pad_id(); pad >= 0)
    tokens.emplace_back("pad_token", bundle.tokenizer.token_text(pad));
  return tokens;
}

Result<ChatInput> ChatInput::render(const TextBundle& bundle, JsonElement request, std::string_view place) {
  TRY_ASSIGN(const ChatTemplate* chat_template, bundle.runnable_template(place));
  ChatRequest chat;
  chat.add_generation_prompt = false;
  chat.special_tokens = template_tokens(bundle);
  JsonElement messages = request;
  JsonDocument variables;  // keeps chat.variables alive
  if (JsonObject object; request.get(object) == simdjson::SUCCESS) {
    if (object.at_key("messages").get(messages) != simdjson::SUCCESS)
      return make_error(Code::kInvalidArgument, "{}: key 'messages' is missing", place);
    TRY(json_read(object, "add_generation_prompt", place, &chat.add_generation_prompt));
    JsonElement tools;
    if (json_has(object, "tools") && object.at_key("tools").get(tools) == simdjson::SUCCESS) chat.tools = tools;
    JsonWriter rest;
    rest.begin_object();
    for (const auto field : object) {
      if (field.key == "messages" || field.key == "add_generation_prompt" || field.key == "tools") continue;
      rest.key(field.key).raw(simdjson::minify(field.value));
    }
    TRY_ASSIGN(variables, JsonDocument::parse(rest.end_object().text(), place));
    chat.variables = variables.root();
  }
  if (!messages.is_array())
    return make_error(Code::kInvalidArgument, "{}: 'messages' is {}, expected a list of messages", place,
                      json_preview(messages));
  chat.messages_json = messages;
  TRY_ASSIGN(const RenderedChat rendered, chat_template->render(chat));
  ChatInput input;
  input.text = rendered.text();
  input.ids = encode_segments(bundle.tokenizer, rendered.segments);
  return input;
}

}  // namespace westlake
