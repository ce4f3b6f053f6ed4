// The request as variables of the template, and the output as segments.
#include "text/chat_template.h"

#include <algorithm>

#include "text/jinja_interpreter.h"
#include "text/jinja_parser.h"

namespace westlake {

namespace {

// About the bytes a request holds, by which the limits grow.
size_t json_bytes(const JsonElement& element) {
  JsonArray array;
  JsonObject object;
  std::string_view text;
  size_t bytes = 32;
  if (element.get(text) == simdjson::SUCCESS) {
    bytes += text.size();
  } else if (element.get(array) == simdjson::SUCCESS) {
    for (const JsonElement item : array) bytes += json_bytes(item);
  } else if (element.get(object) == simdjson::SUCCESS) {
    for (const auto field : object) bytes += field.key.size() + json_bytes(field.value);
  }
  return bytes;
}

size_t request_bytes(const ChatRequest& request) {
  size_t bytes = 0;
  for (const auto* element : {&request.messages_json, &request.tools, &request.documents, &request.variables}) {
    if (element->has_value()) bytes += json_bytes(**element);
  }
  for (const ChatMessage& message : request.messages) {
    bytes +=
        256 + message.role.size() + message.content.value_or("").size() + message.reasoning_content.value_or("").size();
    if (message.tool_calls.has_value()) bytes += json_bytes(*message.tool_calls);
  }
  return bytes;
}

class Variables {
 public:
  Variables(JinjaInterpreter& interpreter, const ChatRequest& request)
      : interpreter_(interpreter), heap_(interpreter.heap()), request_(request) {}

  Status define() {
    for (const auto& [name, text] : request_.special_tokens) {
      TRY_ASSIGN(JinjaValue value, heap_.string(utf8_repair(text), Origin::kTemplate));
      interpreter_.define(name, std::move(value));
    }
    TRY_ASSIGN(JinjaValue messages, request_.messages_json.has_value() ? messages_of_json() : messages_of_structs());
    interpreter_.define("messages", std::move(messages));
    TRY(define_json("tools", request_.tools));
    TRY(define_json("documents", request_.documents));
    TRY(define_further());
    interpreter_.define("add_generation_prompt", JinjaValue::boolean(request_.add_generation_prompt));
    return {};
  }

 private:
  using Value = Result<JinjaValue>;

  // What a program reads from a terminal need not be UTF-8.
  Value text(std::string_view text) { return heap_.string(utf8_repair(text), Origin::kContent); }
  static JinjaValue key(const char* name) { return JinjaValue::constant(JinjaString(name, Origin::kContent)); }

  Status define_json(const char* name, const std::optional<JsonElement>& element) {
    JinjaValue value = JinjaValue::none();
    if (element.has_value() && !element->is_null()) {
      if (!element->is_array()) {
        return make_error(Code::kInvalidArgument, "'{}' is {}, expected an array", name, json_preview(*element));
      }
      TRY_ASSIGN(value, heap_.from_json(*element));
    }
    interpreter_.define(name, std::move(value));
    return {};
  }

  Status define_further() {
    if (!request_.variables.has_value() || request_.variables->is_null()) return {};
    JsonObject object;
    if (request_.variables->get(object) != simdjson::SUCCESS) {
      return make_error(Code::kInvalidArgument, "the template's variables are {}, expected an object",
                        json_preview(*request_.variables));
    }
    static constexpr std::string_view kTaken[] = {"messages", "tools", "add_generation_prompt"};
    for (const auto field : object) {
      if (std::find(std::begin(kTaken), std::end(kTaken), field.key) != std::end(kTaken)) {
        return make_error(Code::kInvalidArgument, "the template's variables may not contain '{}'", field.key);
      }
      TRY_ASSIGN(JinjaValue value, heap_.from_json(field.value));
      interpreter_.define(field.key, std::move(value));
    }
    return {};
  }

  // Older names of a message's reasoning: it is there under all of them, as transformers has it.
  Value with_reasoning(std::vector<JinjaPair> items) {
    const JinjaValue* reasoning = nullptr;
    for (const std::string_view name : {"reasoning_content", "thinking", "reasoning"}) {
      for (const auto& [field, value] : items) {
        if (reasoning == nullptr && field.text() == name && !value.is(JinjaKind::kNone)) reasoning = &value;
      }
    }
    if (reasoning != nullptr) {
      const JinjaValue value = *reasoning;
      items.insert(items.begin(), {key("thinking"), value});
      items.emplace_back(key("reasoning_content"), value);
    }
    TRY_ASSIGN(JinjaValue message, heap_.dict(std::move(items)));
    return message.mark_content();
  }

  Value list_of(std::vector<JinjaValue> messages) {
    TRY_ASSIGN(JinjaValue list, heap_.list(std::move(messages)));
    return list.mark_content();
  }

  Value messages_of_json() {
    JsonArray array;
    if (request_.messages_json->get(array) != simdjson::SUCCESS) {
      return make_error(Code::kInvalidArgument, "the messages are {}, expected an array",
                        json_preview(*request_.messages_json));
    }
    std::vector<JinjaValue> messages;
    for (const JsonElement element : array) {
      if (!element.is_object()) {
        return make_error(Code::kInvalidArgument, "message {} is {}, expected an object with role and content",
                          messages.size(), json_preview(element));
      }
      TRY_ASSIGN(const JinjaValue plain, heap_.from_json(element));
      TRY_ASSIGN(JinjaValue message, with_reasoning(plain.as_dict().items));
      messages.push_back(std::move(message));
    }
    return list_of(std::move(messages));
  }

  Value messages_of_structs() {
    std::vector<JinjaValue> messages;
    for (const ChatMessage& message : request_.messages) {
      std::vector<JinjaPair> items;
      const auto add = [&](const char* name, const std::optional<std::string>& field) -> Status {
        if (!field.has_value()) return {};
        TRY_ASSIGN(JinjaValue value, text(*field));
        items.emplace_back(key(name), std::move(value));
        return {};
      };
      TRY(add("role", message.role));
      TRY(add("content", message.content));
      if (!message.content.has_value()) items.emplace_back(key("content"), JinjaValue::none().mark_content());
      TRY(add("reasoning_content", message.reasoning_content));
      TRY(add("name", message.name));
      TRY(add("tool_call_id", message.tool_call_id));
      if (message.tool_calls.has_value()) {
        TRY_ASSIGN(JinjaValue calls, heap_.from_json(*message.tool_calls));
        items.emplace_back(key("tool_calls"), std::move(calls));
      }
      TRY_ASSIGN(JinjaValue value, with_reasoning(std::move(items)));
      messages.push_back(std::move(value));
    }
    return list_of(std::move(messages));
  }

  JinjaInterpreter& interpreter_;
  JinjaHeap& heap_;
  const ChatRequest& request_;
};

}  // namespace

std::string RenderedChat::text() const {
  std::string out;
  for (const ChatSegment& segment : segments) out += segment.text;
  return out;
}

Result<ChatTemplate> ChatTemplate::parse(std::string_view source, std::string_view place) {
  ChatTemplate out;
  TRY_ASSIGN(out.program_, jinja_parse(source, place));
  return out;
}

Result<RenderedChat> ChatTemplate::render(const ChatRequest& request, const JinjaLimits& limits) const {
  JinjaInterpreter interpreter(*program_, limits, request.now);
  interpreter.heap().raise_limits_for_input(request_bytes(request));
  if (auto defined = Variables(interpreter, request).define(); !defined.ok()) {
    return defined.error().at(program_->place);
  }
  TRY_ASSIGN(const JinjaString text, interpreter.run());
  RenderedChat out;
  size_t begin = 0;
  for (const JinjaString::Piece& piece : text.pieces()) {
    if (piece.end > begin) out.segments.push_back({text.text().substr(begin, piece.end - begin), piece.origin});
    begin = piece.end;
  }
  return out;
}

}  // namespace westlake
