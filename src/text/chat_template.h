// Chat templates: a conversation -> the text a model was trained on, cut by origin.
// Idea: a checkpoint brings its format along as a Jinja template (tokenizer_config.json, GGUF metadata). It is run as
// it is, as transformers runs it, but what comes out is not one string: every piece knows whether the template wrote it
// or a message. Control tokens are recognised in the template's text alone (chat_encode.h), so nobody can type one.
// Source: Jinja 3.1 and transformers' render_jinja_template (ImmutableSandboxedEnvironment with trim_blocks,
// lstrip_blocks and loopcontrols), of which the test vectors come.
#pragma once

#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "text/jinja_string.h"
#include "text/jinja_value.h"

namespace westlake {

struct JinjaProgram;

// A message made by the program itself; one that came as JSON is passed on as it is (ChatRequest::messages_json).
struct ChatMessage {
  std::string role;
  std::optional<std::string> content;  // nullopt: None, as in a message that only calls tools
  std::optional<std::string> reasoning_content;
  std::optional<std::string> name;
  std::optional<std::string> tool_call_id;
  std::optional<JsonElement> tool_calls;
};

struct ChatRequest {
  std::vector<ChatMessage> messages;
  std::optional<JsonElement> messages_json;  // an array of objects; taken instead of `messages` when given
  std::optional<JsonElement> tools;          // an array of JSON schemas; none: the template sees None
  std::optional<JsonElement> documents;
  bool add_generation_prompt = true;
  // bos_token, eos_token ... of the tokenizer, under these names. The template's own: control tokens.
  std::vector<std::pair<std::string, std::string>> special_tokens;
  // An object with further variables (enable_thinking, date_string ...): content, like the messages.
  std::optional<JsonElement> variables;
  std::optional<std::tm> now;  // for strftime_now; none: the clock
};

// A run of text of one origin. Neighbours of one origin stay apart when they are of different message strings, or
// when an empty message string stands between them.
struct ChatSegment {
  std::string text;
  Origin origin = Origin::kTemplate;
};

struct RenderedChat {
  std::vector<ChatSegment> segments;  // none is empty
  std::string text() const;           // the whole, as transformers renders it
};

// Thread-safe: rendering. Copies share the parsed program.
class ChatTemplate {
 public:
  // `place` opens every message ("tokenizer_config.json: chat_template"). Errors: kCorrupt, kUnsupported (a tag that is
  // not known here), kExhausted, each with line and column.
  static Result<ChatTemplate> parse(std::string_view source, std::string_view place);

  // Errors: kInvalidArgument (the template's own raise_exception, a message that it cannot digest), kUnsupported (a
  // filter, test, method or function that is not known here), kExhausted (a limit, by its name).
  Result<RenderedChat> render(const ChatRequest& request, const JinjaLimits& limits = {}) const;

 private:
  std::shared_ptr<const JinjaProgram> program_;
};

}  // namespace westlake
