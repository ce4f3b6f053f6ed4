// Lines, renderings, masks. See conversations.h.
#include "train/conversations.h"

#include <algorithm>

#include "base/json.h"
#include "model/chat_render.h"
#include "text/chat_encode.h"
#include "train/data_lines.h"

namespace westlake {
namespace {

constexpr uint64_t kRoundBytes = uint64_t{4} << 20;  // of lines that are rendered at once

using Ids = std::vector<int32_t>;

struct Conversation {
  JsonDocument document;  // keeps the elements below
  std::vector<ChatMessage> messages;
  std::optional<JsonElement> tools;
  size_t answers = 0;
};

Result<ChatMessage> read_message(JsonElement element, const std::string& place) {
  JsonObject object;
  ChatMessage message;
  if (element.get(object) != simdjson::SUCCESS)
    return make_error(Code::kCorrupt, "{}: is {}, expected an object with role and content", place,
                      json_preview(element));
  TRY(json_read(object, "role", place, &message.role));
  if (message.role.empty())
    return make_error(Code::kCorrupt, "{}: has no 'role', expected system, user or assistant", place);
  const auto text = [&](const char* key, std::optional<std::string>* out) -> Status {
    std::string value;
    TRY(json_read(object, key, place, &value));
    if (json_has(object, key)) *out = std::move(value);
    return {};
  };
  TRY(text("content", &message.content));
  TRY(text("reasoning_content", &message.reasoning_content));
  TRY(text("name", &message.name));
  TRY(text("tool_call_id", &message.tool_call_id));
  JsonElement calls;
  if (json_has(object, "tool_calls") && object["tool_calls"].get(calls) == simdjson::SUCCESS)
    message.tool_calls = calls;
  if (!message.content && !message.tool_calls)
    return make_error(Code::kCorrupt, "{}: the message of '{}' has no 'content'", place, message.role);
  return message;
}

Result<Conversation> read_conversation(std::string_view line, std::string_view place) {
  Conversation c;
  TRY_ASSIGN(c.document, JsonDocument::parse(line, place));
  JsonObject object;
  JsonArray messages;
  if (c.document.root().get(object) != simdjson::SUCCESS || object["messages"].get(messages) != simdjson::SUCCESS) {
    const bool plain = c.document.root().get(object) == simdjson::SUCCESS && json_has(object, "text");
    return make_error(Code::kCorrupt, "{}: expected an object with a list \"messages\", seen {}{}", place,
                      json_preview(c.document.root()),
                      plain ? ". Hint: texts (\"text\") are read by train --data" : "");
  }
  for (const JsonElement element : messages) {
    TRY_ASSIGN(ChatMessage message, read_message(element, fmt::format("{}: message {}", place, c.messages.size())));
    c.answers += message.role == "assistant" ? 1 : 0;
    c.messages.push_back(std::move(message));
  }
  if (c.answers == 0)
    return make_error(Code::kInvalidArgument,
                      "{}: the conversation has no message of 'assistant', so there is nothing to learn from it",
                      place);
  while (c.messages.back().role != "assistant") c.messages.pop_back();
  JsonElement tools;
  if (json_has(object, "tools") && object["tools"].get(tools) == simdjson::SUCCESS) c.tools = tools;
  return c;
}

// The tokens of the first n messages. The date that some templates write is always the same: tokens depend on the data
// alone. It is the one that Llama 3.1's template has where it cannot ask.
Result<Ids> render(const TextBundle& bundle, const Conversation& c, size_t n, bool prompt) {
  ChatRequest request;
  request.messages.assign(c.messages.begin(), c.messages.begin() + static_cast<ptrdiff_t>(n));
  request.tools = c.tools;
  request.add_generation_prompt = prompt;
  request.special_tokens = template_tokens(bundle);
  request.now = std::tm{};
  request.now->tm_year = 124;
  request.now->tm_mon = 6;
  request.now->tm_mday = 26;
  request.now->tm_wday = 5;
  request.now->tm_yday = 207;
  TRY_ASSIGN(const RenderedChat rendered, bundle.chat_template->render(request));
  return encode_segments(bundle.tokenizer, rendered.segments);
}

bool begins_with(const Ids& whole, const Ids& part) {
  return part.size() <= whole.size() && std::equal(part.begin(), part.end(), whole.begin());
}

// An answer in the rendering that ends with it.
struct Answer {
  Ids ids;
  size_t begin = 0, end = 0;  // the targets
};

Result<Answer> find_answer(const TextBundle& bundle, const Conversation& c, size_t message) {
  Answer answer;
  TRY_ASSIGN(const Ids prompt, render(bundle, c, message, true));
  TRY_ASSIGN(answer.ids, render(bundle, c, message + 1, false));
  if (!begins_with(answer.ids, prompt) || answer.ids.size() == prompt.size()) {
    const size_t same = static_cast<size_t>(
        std::mismatch(prompt.begin(), prompt.end(), answer.ids.begin(), answer.ids.end()).first - prompt.begin());
    return make_error(Code::kInvalidArgument,
                      "the chat template does not continue its own prompt with message {}: they part after {} of {} "
                      "tokens, so that its tokens cannot be told",
                      message, same, prompt.size());
  }
  answer.begin = prompt.size();
  const auto is_stop = [&](int32_t id) {
    return std::find(bundle.stop_ids.begin(), bundle.stop_ids.end(), id) != bundle.stop_ids.end();
  };
  answer.end = answer.ids.size();
  while (answer.end > answer.begin && !is_stop(answer.ids[answer.end - 1])) --answer.end;
  if (answer.end == answer.begin) answer.end = answer.ids.size();  // the template writes no end
  return answer;
}

// A document of the last of `answers`, with all of them as targets.
TokenPiece make_document(const TextBundle& bundle, const std::vector<Answer>& answers, size_t first) {
  const Answer& last = answers.back();
  TokenPiece piece;
  piece.begins = true;
  for (size_t i = 0; i < last.end; ++i) piece.ids.push_back(static_cast<uint32_t>(last.ids[i]) | kContextOnly);
  for (size_t i = first; i < answers.size(); ++i) {
    for (size_t at = answers[i].begin; at < answers[i].end; ++at) piece.ids[at] &= ~kContextOnly;
  }
  const int32_t end = last.ids[last.end - 1];
  const bool ended = std::find(bundle.stop_ids.begin(), bundle.stop_ids.end(), end) != bundle.stop_ids.end();
  if (!ended && bundle.tokenizer.eos_id() >= 0) piece.ids.push_back(static_cast<uint32_t>(bundle.tokenizer.eos_id()));
  return piece;
}

}  // namespace

Status add_conversation(const TextBundle& bundle, std::string_view line, std::string_view place,
                        std::vector<TokenPiece>* pieces) {
  TRY_ASSIGN(const Conversation c, read_conversation(line, place));
  std::vector<Answer> answers;
  for (size_t m = 0; m < c.messages.size(); ++m) {
    if (c.messages[m].role != "assistant") continue;
    Result<Answer> answer = find_answer(bundle, c, m);
    if (!answer.ok()) return answer.error().at(place);
    answers.push_back(std::move(answer).value());
  }
  const bool one = std::all_of(answers.begin(), answers.end(),
                               [&](const Answer& a) { return begins_with(answers.back().ids, a.ids); });
  if (one) {
    pieces->push_back(make_document(bundle, answers, 0));
    return {};
  }
  for (Answer& answer : answers) pieces->push_back(make_document(bundle, {std::move(answer)}, 0));
  return {};
}

Result<TokenStore> open_conversations(ThreadPool& pool, const TextBundle& bundle, const std::vector<std::string>& files,
                                      const std::string& folder, const TokenizeProgress& progress) {
  TRY(bundle.runnable_template("chat template"));
  struct Line {
    std::string text, place;
  };
  DataLines lines(files);
  TokenRecipe recipe;
  recipe.identity = "conversations 1\n" + tokenizer_identity(bundle.tokenizer) + bundle.chat_template_source;
  for (const auto& [name, token] : template_tokens(bundle)) recipe.identity += fmt::format("\n{} {}", name, token);
  for (const int32_t id : bundle.stop_ids) recipe.identity += fmt::format("\n{}", id);
  recipe.vocab_size = bundle.tokenizer.vocab_size();
  recipe.marked = true;
  recipe.empty = "the data has no conversations: every file is empty";
  recipe.bytes = [&] { return std::pair(lines.bytes_read(), lines.bytes_total()); };
  recipe.next = [&](std::vector<TokenPiece>* pieces) -> Result<bool> {
    std::vector<Line> round;
    bool more = true;
    for (uint64_t bytes = 0; more && bytes < kRoundBytes;) {
      std::string text;
      TRY_ASSIGN(const DataLines::Event event, lines.next(&text));
      more = event != DataLines::Event::kEnd;
      if (event != DataLines::Event::kLine || text.find_first_not_of(" \t\r") == std::string::npos) continue;
      bytes += text.size();
      round.push_back({std::move(text), lines.place()});
    }
    std::vector<std::vector<TokenPiece>> made(round.size());
    std::vector<Status> status(round.size());
    pool.for_each_chunk(static_cast<int64_t>(round.size()), 4, [&](int64_t begin, int64_t end, int) {
      for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i)
        status[i] = add_conversation(bundle, round[i].text, round[i].place, &made[i]);
    });
    for (size_t i = 0; i < round.size(); ++i) {
      TRY(status[i]);
      std::move(made[i].begin(), made[i].end(), std::back_inserter(*pieces));
    }
    return more;
  };
  return open_store(files, folder, recipe, progress);
}

}  // namespace westlake
