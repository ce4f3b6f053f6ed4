// A conversation with a model: messages -> template -> ids -> answer -> messages.
// Idea: the whole conversation is rendered anew for every turn, as the model was trained on it, and the session
// computes what its cache does not hold. An answer goes back into the prompt by the very ids the model gave, where the
// template repeats its text unchanged: encoding the text again may cut it into other tokens, and the cache would be
// lost from there on.
#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "infer/session.h"
#include "model/text_bundle.h"
#include "text/chat_template.h"

namespace westlake {

// Answers of the model by their text. Requires: ids that decode to the text, without added tokens.
using KnownAnswers = std::map<std::string, std::vector<int32_t>, std::less<>>;

struct ChatPrompt {
  std::vector<int32_t> ids;
  bool starts_thinking = false;  // the template has opened <think>
};

// Renders and encodes; special tokens of the request are filled in from the bundle.
// Errors: kNotFound when the model has no template; the template's own.
Result<ChatPrompt> chat_prompt(const TextBundle& bundle, ChatRequest request, const KnownAnswers& known = {});

// Ends an answer: the tokens that the tokenizer's files and the checkpoint's config name.
std::vector<int32_t> answer_stop_ids(const TextBundle& bundle, std::span<const int32_t> eos_token_ids);

struct Reply {
  Generated generated;
  bool starts_thinking = false;
};

class Conversation {
 public:
  // Requires: the bundle outlives the conversation.
  explicit Conversation(const TextBundle& bundle) : bundle_(&bundle) {}

  // Without the system message.
  const std::vector<ChatMessage>& messages() const { return messages_; }
  const std::string& system() const { return system_; }
  void set_system(std::string system) { system_ = std::move(system); }  // empty: what the template has by itself
  // Replaces everything. Errors: kInvalidArgument for roles that do not alternate, or a missing content.
  Status assign(std::string system, std::vector<ChatMessage> messages);
  void clear();

  // Says `text` and adds the answer, as far as it came when it is cancelled. On an error the conversation is as it was.
  // `on_start` is called once, before the first token, with Reply::starts_thinking.
  // Errors: kExhausted names the length of the prompt and the context.
  Result<Reply> say(Session& session, std::string_view text, const GenerateOptions& options,
                    FunctionRef<void(bool starts_thinking)> on_start, TokenCallback callback);

 private:
  void remember(const Generated& generated);
  const TextBundle* bundle_;
  std::string system_;
  std::vector<ChatMessage> messages_;
  KnownAnswers known_;
};

}  // namespace westlake
