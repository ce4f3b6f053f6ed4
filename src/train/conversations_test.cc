// Which tokens of a conversation are learnt, by exact ids; templates that forget, and those that cannot be told; lines
// that are no conversation.
#include "train/conversations.h"

#include <gtest/gtest.h>

#include "train/batches.h"
#include "train/test_support.h"

namespace westlake {
namespace {

// Turns as "<｜User｜>..." and "<｜Assistant｜>...eos", a prompt as "<｜Assistant｜>".
constexpr std::string_view kTurns =
    "{% for m in messages %}"
    "{% if m.role == 'assistant' %}{{ '<\uff5cAssistant\uff5c>' + m.content + eos_token }}"
    "{% else %}{{ '<\uff5cUser\uff5c>' + m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<\uff5cAssistant\uff5c>' }}{% endif %}";

TextBundle bundle_of(std::string_view chat_template) {
  TextBundle bundle(small_tokenizer());
  bundle.bos_token = bundle.tokenizer.token_text(bundle.tokenizer.bos_id());
  bundle.eos_token = bundle.tokenizer.token_text(bundle.tokenizer.eos_id());
  bundle.stop_ids = {bundle.tokenizer.eos_id()};
  bundle.chat_template_source = chat_template;
  bundle.chat_template = ChatTemplate::parse(chat_template, "template").value();
  return bundle;
}

// Text with | before what is learnt and ^ behind it, of every document.
std::string marked(const TextBundle& bundle, const std::string& line) {
  std::vector<TokenPiece> pieces;
  const Status status = add_conversation(bundle, line, "chats.jsonl:7", &pieces);
  EXPECT_TRUE(status.ok()) << (status.ok() ? "" : status.error().message);
  std::string text;
  for (const TokenPiece& piece : pieces) {
    EXPECT_TRUE(piece.begins);
    if (!text.empty()) text += " // ";
    bool learnt = false;
    for (const uint32_t id : piece.ids) {
      const bool target = (id & kContextOnly) == 0;
      if (target != learnt) text += target ? "|" : "^";
      learnt = target;
      const auto token = static_cast<int32_t>(id & ~kContextOnly);
      text += token == bundle.tokenizer.eos_id() ? "[E]"
              : bundle.tokenizer.is_special(token)
                  ? "[" + std::string(bundle.tokenizer.token_text(token)).substr(4, 1) + "]"
                  : std::string(bundle.tokenizer.token_bytes(token));
    }
    if (learnt) text += "^";
  }
  return text;
}

std::string chat(std::initializer_list<std::pair<const char*, const char*>> messages) {
  JsonWriter w;
  w.begin_object().key("messages").begin_array();
  for (const auto& [role, content] : messages)
    w.begin_object().key("role").value(role).key("content").value(content).end_object();
  return w.end_array().end_object().text();
}

TEST(Conversations, answers_and_their_ends_are_learnt) {
  const TextBundle bundle = bundle_of(kTurns);
  EXPECT_EQ(marked(bundle, chat({{"user", "abc"}, {"assistant", "dea"}})), "[U]abc[A]|dea[E]^");
  EXPECT_EQ(marked(bundle,
                   chat({{"system", "bb"}, {"user", "abc"}, {"assistant", "dea"}, {"user", "c"}, {"assistant", "e"}})),
            "[U]bb[U]abc[A]|dea[E]^[U]c[A]|e[E]^");
  // What follows the last answer is left out, an empty answer is its end alone.
  EXPECT_EQ(marked(bundle, chat({{"user", "abc"}, {"assistant", ""}, {"user", "c"}})), "[U]abc[A]|[E]^");
}

// A message cannot bring control tokens.
TEST(Conversations, text_of_messages_is_text) {
  const TextBundle bundle = bundle_of(kTurns);
  std::vector<TokenPiece> pieces;
  ASSERT_TRUE(add_conversation(bundle,
                               chat({{"user", "<\uff5cAssistant\uff5c>"}, {"assistant", bundle.eos_token.c_str()}}),
                               "x:1", &pieces)
                  .ok());
  int controls = 0;
  for (const uint32_t id : pieces[0].ids)
    controls += bundle.tokenizer.is_special(static_cast<int32_t>(id & ~kContextOnly));
  EXPECT_EQ(controls, 3);  // user, assistant, eos
}

TEST(Conversations, exact_ids) {
  const TextBundle bundle = bundle_of(kTurns);
  const Tokenizer& t = bundle.tokenizer;
  std::vector<TokenPiece> pieces;
  ASSERT_TRUE(add_conversation(bundle, chat({{"user", "abc dea"}, {"assistant", "bcd abc"}}), "x:1", &pieces).ok());
  std::vector<uint32_t> expected = {static_cast<uint32_t>(t.token_to_id("<\uff5cUser\uff5c>")) | kContextOnly};
  for (const int32_t id : t.encode("abc dea")) expected.push_back(static_cast<uint32_t>(id) | kContextOnly);
  expected.push_back(static_cast<uint32_t>(t.token_to_id("<\uff5cAssistant\uff5c>")) | kContextOnly);
  for (const int32_t id : t.encode("bcd abc")) expected.push_back(static_cast<uint32_t>(id));
  expected.push_back(static_cast<uint32_t>(t.eos_id()));
  ASSERT_EQ(pieces.size(), 1u);
  EXPECT_EQ(pieces[0].ids, expected);
}

// A template that drops what it wrote of earlier answers makes a document of each.
TEST(Conversations, a_template_that_forgets) {
  const TextBundle bundle = bundle_of(
      "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<\uff5cAssistant\uff5c>' + "
      "('e' if loop.last else '') + m.content + eos_token }}{% else %}{{ '<\uff5cUser\uff5c>' + m.content }}{% endif %}"
      "{% endfor %}{% if add_generation_prompt %}{{ '<\uff5cAssistant\uff5c>' }}{% endif %}");
  EXPECT_EQ(marked(bundle, chat({{"user", "a"}, {"assistant", "b"}, {"user", "c"}, {"assistant", "d"}})),
            "[U]a[A]|eb[E]^ // [U]a[A]b[E][U]c[A]|ed[E]^");
}

TEST(Conversations, ends_that_the_template_leaves_out) {
  const TextBundle no_end = bundle_of(
      "{% for m in messages %}{{ '<\uff5cUser\uff5c>' if m.role == 'user' else '<\uff5cAssistant\uff5c>' }}{{ "
      "m.content }}"
      "{% endfor %}{% if add_generation_prompt %}{{ '<\uff5cAssistant\uff5c>' }}{% endif %}");
  EXPECT_EQ(marked(no_end, chat({{"user", "a"}, {"assistant", "b"}})), "[U]a[A]|b[E]^");
  const TextBundle newline = bundle_of(
      "{% for m in messages %}{% if m.role == 'user' %}{{ '<\uff5cUser\uff5c>' + m.content }}{% else %}"
      "{{ '<\uff5cAssistant\uff5c>' + m.content + eos_token + '\\n' }}{% endif %}{% endfor %}"
      "{% if add_generation_prompt %}{{ '<\uff5cAssistant\uff5c>' }}{% endif %}");
  EXPECT_EQ(marked(newline, chat({{"user", "a"}, {"assistant", "b"}, {"user", "c"}, {"assistant", "d"}})),
            "[U]a[A]|b[E]^\n[U]c[A]|d[E]^");
}

TEST(Conversations, refuses_by_file_and_line) {
  const TextBundle bundle = bundle_of(kTurns);
  std::vector<TokenPiece> pieces;
  const auto refuse = [&](const TextBundle& b, const std::string& line, Code code,
                          std::initializer_list<std::string_view> words) {
    const Status status = add_conversation(b, line, "chats.jsonl:7", &pieces);
    expect_error(status, code, words);
    ASSERT_FALSE(status.ok());
    EXPECT_TRUE(status.error().message.starts_with("chats.jsonl:7: ")) << status.error().message;
    EXPECT_TRUE(pieces.empty());
  };
  refuse(bundle, "{\"messages\": [", Code::kCorrupt, {});
  refuse(bundle, "[]", Code::kCorrupt, {"messages"});
  refuse(bundle, "{\"text\": \"abc\"}", Code::kCorrupt, {"messages", "train --data"});
  refuse(bundle, "{\"messages\": [7]}", Code::kCorrupt, {"message 0", "role"});
  refuse(bundle, "{\"messages\": [{\"content\": \"a\"}]}", Code::kCorrupt, {"message 0", "role"});
  refuse(bundle, "{\"messages\": [{\"role\": \"user\"}]}", Code::kCorrupt, {"user", "content"});
  refuse(bundle, "{\"messages\": [{\"role\": \"user\", \"content\": 3}]}", Code::kCorrupt, {"content"});
  refuse(bundle, "{\"messages\": []}", Code::kInvalidArgument, {"assistant"});
  refuse(bundle, chat({{"user", "abc"}}), Code::kInvalidArgument, {"assistant"});
  // A prompt that the answer's rendering does not begin with.
  const TextBundle opens = bundle_of(std::string(kTurns) + "{% if add_generation_prompt %}abc{% endif %}");
  refuse(opens, chat({{"user", "abc"}, {"assistant", "de"}}), Code::kInvalidArgument, {"template", "message 1"});
  const TextBundle raises = bundle_of("{{ raise_exception('no') }}");
  refuse(raises, chat({{"user", "abc"}, {"assistant", "de"}}), Code::kInvalidArgument, {"no"});
}

class ConversationFiles : public testing::Test {
 protected:
  Result<TokenStore> open(const TextBundle& bundle, int threads = 2) {
    ThreadPool pool(threads);
    made_ = false;
    return open_conversations(pool, bundle, {file_}, folder_.file("cache"),
                              [&](uint64_t, uint64_t, int64_t) { return made_ = true; });
  }
  TempFolder folder_;
  std::string file_ = folder_.file("chats.jsonl");
  bool made_ = false;
};

TEST_F(ConversationFiles, become_a_store_that_is_found_again) {
  std::string lines;
  Rng rng(3);
  for (int i = 0; i < 50; ++i)
    lines += chat({{"user", random_words(rng, 3).c_str()}, {"assistant", random_words(rng, 9).c_str()}}) + "\n\n";
  ASSERT_TRUE(write_file(file_, lines).ok());
  const TextBundle bundle = bundle_of(kTurns);
  const TokenStore store = open(bundle, 1).value();
  EXPECT_TRUE(made_);
  EXPECT_EQ(store.documents(), 50);
  int64_t targets = 0;
  for (int64_t i = 0; i < store.tokens(); ++i) {
    ASSERT_LT(store.token(i), bundle.tokenizer.vocab_size());
    ASSERT_TRUE(store.target(i) == -1 || store.target(i) == store.token(i));
    targets += store.target(i) >= 0 ? 1 : 0;
  }
  EXPECT_GT(targets, store.tokens() / 2);
  EXPECT_LT(targets, store.tokens() * 9 / 10);
  // In a batch, what is context is no target.
  BatchOptions options;
  options.whole_documents = true;
  options.shuffle = false;
  const Batch batch = BatchStream::create(store, options).value().next(1, 64).value();
  for (int64_t i = 0; i + 1 < store.document_start(1); ++i) EXPECT_EQ(batch.targets[i], store.target(i + 1)) << i;
  EXPECT_EQ(open(bundle, 2).value().key(), store.key());
  EXPECT_FALSE(made_);
  // The template is part of what the tokens are, and so is that they are conversations.
  const TextBundle other = bundle_of(std::string(kTurns) + "{# another #}");
  EXPECT_NE(open(other).value().key(), store.key());
  EXPECT_TRUE(made_);
}

TEST_F(ConversationFiles, errors_name_file_and_line) {
  const TextBundle bundle = bundle_of(kTurns);
  ASSERT_TRUE(
      write_file(file_, chat({{"user", "a"}, {"assistant", "b"}}) + "\n\n" + chat({{"user", "a"}}) + "\n").ok());
  expect_error(open(bundle), Code::kInvalidArgument, {"chats.jsonl:3: ", "assistant"});
  ASSERT_TRUE(write_file(file_, "\n \n").ok());
  expect_error(open(bundle), Code::kInvalidArgument, {"conversations", "empty"});
  TextBundle none(small_tokenizer());
  expect_error(open(none), Code::kNotFound, {"template"});
}

}  // namespace
}  // namespace westlake
