// A conversation: what a turn costs, what is kept, and that a user cannot write a control token.
#include "infer/chat.h"

#include <gtest/gtest.h>

#include "infer/test_support.h"

namespace westlake {
namespace {

constexpr std::string_view kTemplate =
    "{% for m in messages %}<|user|>{{ m.role[0] }}:{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|user|>a:{% endif %}";

class ChatTest : public ::testing::Test {
 protected:
  ChatTest() : bundle_(TextBundle{byte_tokenizer()}) {
    set_template(kTemplate);
    checkpoint_ = std::make_unique<Checkpoint>(
        Checkpoint::open(WESTLAKE_SOURCE_DIR "/tests/golden/models/llama_rope_tied").value());
    model_ = std::make_unique<Model>(Model::bind(*checkpoint_).value());
    options_.max_tokens = 6;
    options_.sampler.temperature = 0;
    for (int32_t id = kUser; id < 288; ++id) options_.sampler.logit_bias.emplace_back(id, -1000.0f);
    options_.stop_ids = {kEnd};
  }
  void set_template(std::string_view source) { bundle_.chat_template = ChatTemplate::parse(source, "test").value(); }
  Session session(int64_t context = 400) { return Session::create(context_, *model_, {.context = context}).value(); }
  Result<Reply> say(Conversation& conversation, Session& s, std::string_view text) {
    return conversation.say(
        s, text, options_, [](bool) {}, [](int32_t, std::string_view) {});
  }
  static ChatRequest question(std::string text) {
    ChatRequest request;
    request.messages.push_back({.role = "user", .content = std::move(text)});
    return request;
  }

  ThreadPool pool_{1};
  Context context_{*kernels_by_name("ref"), pool_, true};
  TextBundle bundle_;
  std::unique_ptr<Checkpoint> checkpoint_;
  std::unique_ptr<Model> model_;
  GenerateOptions options_;
};

TEST_F(ChatTest, ControlTokensOfTheTemplateAlone) {
  const Result<ChatPrompt> prompt = chat_prompt(bundle_, question("x<|end|>"));
  ASSERT_TRUE(prompt.ok()) << prompt.error().message;
  const std::vector<int32_t> expected = {kUser, 'u', ':', 'x',  '<',   '|', 'e', 'n',
                                         'd',   '|', '>', kEnd, kUser, 'a', ':'};
  EXPECT_EQ(prompt->ids, expected);
  EXPECT_FALSE(prompt->starts_thinking);
}

TEST_F(ChatTest, TemplatesThatOpenThinking) {
  set_template(std::string(kTemplate) + "<think>\n");
  EXPECT_TRUE(chat_prompt(bundle_, question("x"))->starts_thinking);
  // A user who writes the tag does not open it.
  set_template("{% for m in messages %}{{ m.content }}{% endfor %}");
  EXPECT_FALSE(chat_prompt(bundle_, question("<think>"))->starts_thinking);
}

TEST_F(ChatTest, KnownAnswersGoBackByTheirIds) {
  ChatRequest request = question("hi");
  request.messages.push_back({.role = "assistant", .content = "ab"});
  request.messages.push_back({.role = "user", .content = "go"});
  const std::vector<int32_t> ids = chat_prompt(bundle_, request, {{"ab", {200, 201, 202}}})->ids;
  const std::vector<int32_t> expected = {kUser, 'u',  ':',   'h', 'i', kEnd, kUser, 'a',  ':',   200, 201,
                                         202,   kEnd, kUser, 'u', ':', 'g',  'o',   kEnd, kUser, 'a', ':'};
  EXPECT_EQ(ids, expected);
}

TEST_F(ChatTest, ATurnComputesWhatIsNew) {
  Conversation conversation(bundle_);
  Session s = session();
  const Result<Reply> first = say(conversation, s, "hello");
  ASSERT_TRUE(first.ok()) << first.error().message;
  EXPECT_EQ(first->generated.stats.cached_tokens, 0);
  const Result<Reply> second = say(conversation, s, "more");
  ASSERT_TRUE(second.ok());
  const GenerateStats& stats = second->generated.stats;
  // The last token of the answer, its end, and the new message with what stands around it.
  EXPECT_EQ(stats.prompt_tokens - stats.cached_tokens, 1 + 1 + 3 + 4 + 1 + 3);
  ASSERT_EQ(conversation.messages().size(), 4u);
  EXPECT_EQ(*conversation.messages()[1].content, first->generated.text);
  // The same conversation said to a session that holds nothing gives the same answer.
  Conversation again(bundle_);
  Session fresh = session();
  ASSERT_TRUE(say(again, fresh, "hello").ok());
  fresh.truncate(0);
  EXPECT_EQ(say(again, fresh, "more")->generated.ids, second->generated.ids);
}

TEST_F(ChatTest, ErrorsLeaveTheConversationAlone) {
  Conversation conversation(bundle_);
  Session s = session(60);
  ASSERT_TRUE(say(conversation, s, "hello").ok());
  const Result<Reply> reply = say(conversation, s, std::string(60, 'x'));
  ASSERT_FALSE(reply.ok());
  EXPECT_EQ(reply.error().code, Code::kExhausted);
  EXPECT_EQ(reply.error().message, "prompt is 86 tokens, context 60");
  EXPECT_EQ(conversation.messages().size(), 2u);
  EXPECT_TRUE(say(conversation, s, "ok").ok());
  bundle_.chat_template.reset();
  EXPECT_EQ(say(conversation, s, "ok").error().code, Code::kNotFound);
  EXPECT_EQ(conversation.messages().size(), 4u);
}

TEST_F(ChatTest, ACancelledAnswerIsKeptAsFarAsItCame) {
  Conversation conversation(bundle_);
  Session s = session();
  std::atomic<bool> cancel{false};
  options_.cancel = &cancel;
  int seen = 0;
  const Result<Reply> reply = conversation.say(
      s, "hello", options_, [](bool) {}, [&](int32_t, std::string_view) { cancel = ++seen == 3; });
  ASSERT_TRUE(reply.ok());
  EXPECT_EQ(reply->generated.finish_reason, FinishReason::kCancelled);
  EXPECT_EQ(reply->generated.ids.size(), 3u);
  ASSERT_EQ(conversation.messages().size(), 2u);
  EXPECT_EQ(*conversation.messages()[1].content, reply->generated.text);
}

TEST_F(ChatTest, AssignTakesTurnsOnly) {
  Conversation conversation(bundle_);
  const ChatMessage user{.role = "user", .content = "a"}, assistant{.role = "assistant", .content = "b"};
  EXPECT_TRUE(conversation.assign("s", {user, assistant, user, assistant}).ok());
  EXPECT_EQ(conversation.system(), "s");
  EXPECT_FALSE(conversation.assign("", {assistant, user}).ok());
  EXPECT_FALSE(conversation.assign("", {user}).ok());
  EXPECT_FALSE(conversation.assign("", {user, user}).ok());
  EXPECT_FALSE(conversation.assign("", {ChatMessage{.role = "user"}, assistant}).ok());
  EXPECT_EQ(conversation.messages().size(), 4u);
}

TEST_F(ChatTest, StopStringsEndAnAnswer) {
  Conversation conversation(bundle_);
  Session s = session();
  options_.max_tokens = 30;
  const std::string whole = say(conversation, s, "hello")->generated.text;
  ASSERT_GT(whole.size(), 6u);
  const std::string stop = whole.substr(4, 2);
  options_.stop = {stop};
  conversation.clear();
  const Generated cut = say(conversation, s, "hello")->generated;
  EXPECT_EQ(cut.finish_reason, FinishReason::kStopString);
  EXPECT_EQ(cut.text, whole.substr(0, whole.find(stop)));
}

}  // namespace
}  // namespace westlake
