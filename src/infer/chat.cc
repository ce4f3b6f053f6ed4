#include "infer/chat.h"

#include <algorithm>

#include "infer/thinking.h"
#include "model/chat_render.h"
#include "text/chat_encode.h"

namespace westlake {

Result<ChatPrompt> chat_prompt(const TextBundle& bundle, ChatRequest request, const KnownAnswers& known) {
  TRY_ASSIGN(const ChatTemplate* chat_template, bundle.runnable_template("chat"));
  request.special_tokens = template_tokens(bundle);
  TRY_ASSIGN(const RenderedChat rendered, chat_template->render(request));
  const std::vector<ChatSegment>& segments = rendered.segments;
  ChatPrompt prompt;
  // Runs between known answers are encoded together.
  size_t begin = 0;
  auto encode_to = [&](size_t end) {
    if (begin == end) return;
    const std::vector<ChatSegment> run(segments.begin() + static_cast<ptrdiff_t>(begin),
                                       segments.begin() + static_cast<ptrdiff_t>(end));
    const std::vector<int32_t> ids = encode_segments(bundle.tokenizer, run);
    prompt.ids.insert(prompt.ids.end(), ids.begin(), ids.end());
  };
  for (size_t i = 0; i < segments.size(); ++i) {
    if (segments[i].origin != Origin::kContent) continue;
    const auto answer = known.find(segments[i].text);
    if (answer == known.end()) continue;
    encode_to(i);
    prompt.ids.insert(prompt.ids.end(), answer->second.begin(), answer->second.end());
    begin = i + 1;
  }
  encode_to(segments.size());
  prompt.starts_thinking = request.add_generation_prompt && !segments.empty() &&
                           segments.back().origin == Origin::kTemplate && ends_in_thinking(segments.back().text);
  return prompt;
}

std::vector<int32_t> answer_stop_ids(const TextBundle& bundle, std::span<const int32_t> eos_token_ids) {
  std::vector<int32_t> ids = bundle.stop_ids;
  for (int32_t id : eos_token_ids) {
    if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
  }
  return ids;
}

Status Conversation::assign(std::string system, std::vector<ChatMessage> messages) {
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string_view expected = i % 2 == 0 ? "user" : "assistant";
    if (messages[i].role != expected) {
      return make_error(Code::kInvalidArgument, "message {} is of '{}', expected '{}': user and assistant take turns",
                        i, messages[i].role, expected);
    }
    if (!messages[i].content) return make_error(Code::kInvalidArgument, "message {} has no content", i);
  }
  if (messages.size() % 2 != 0)
    return make_error(Code::kInvalidArgument, "the last message is of 'user', expected the answer to it");
  system_ = std::move(system);
  messages_ = std::move(messages);
  known_.clear();
  return {};
}

void Conversation::clear() {
  messages_.clear();
  known_.clear();
}

Result<Reply> Conversation::say(Session& session, std::string_view text, const GenerateOptions& options,
                                FunctionRef<void(bool starts_thinking)> on_start, TokenCallback callback) {
  ChatRequest request;
  ChatMessage message;
  if (!system_.empty()) {
    message.role = "system";
    message.content = system_;
    request.messages.push_back(message);
  }
  request.messages.insert(request.messages.end(), messages_.begin(), messages_.end());
  message.role = "user";
  message.content = text;
  request.messages.push_back(message);
  TRY_ASSIGN(const ChatPrompt prompt, chat_prompt(*bundle_, std::move(request), known_));

  bool started = false;
  auto start = [&] {
    if (!started) on_start(prompt.starts_thinking);
    started = true;
  };
  auto on_token = [&](int32_t token, std::string_view piece) {
    start();
    callback(token, piece);
  };
  TRY_ASSIGN(Generated generated, session.generate(prompt.ids, options, &bundle_->tokenizer, on_token));
  start();
  messages_.push_back(message);
  message.role = "assistant";
  message.content = generated.text;
  messages_.push_back(message);
  remember(generated);
  return Reply{std::move(generated), prompt.starts_thinking};
}

// Keeps the ids of an answer if they say its text and nothing else: not cut by a stop string, and without added tokens,
// so that a user who repeats an answer does not get a control token in this way.
void Conversation::remember(const Generated& generated) {
  std::vector<int32_t> ids = generated.ids;
  if (generated.finish_reason == FinishReason::kStop && !ids.empty()) ids.pop_back();
  const Tokenizer& tokenizer = bundle_->tokenizer;
  const bool added = std::any_of(ids.begin(), ids.end(), [&](int32_t id) { return tokenizer.is_added(id); });
  if (added || generated.text.empty() || tokenizer.decode(ids) != generated.text) return;
  known_[generated.text] = std::move(ids);
}

}  // namespace westlake
