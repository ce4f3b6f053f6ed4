// Chat templates against what transformers renders (tests/golden/chat, made by tools/make_chat_goldens.py): constructs
// of the language, whole templates over many conversations, and ids with message text apart.
#include <gtest/gtest.h>

#include <map>

#include "base/file.h"
#include "text/chat_encode.h"

namespace westlake {
namespace {

const std::string kGolden = WESTLAKE_SOURCE_DIR "/tests/golden/chat/";

std::vector<JsonDocument> rows(const std::string& name) {
  const std::string content = read_file(kGolden + name).value();
  std::vector<JsonDocument> out;
  for (size_t at = 0; at < content.size();) {
    const size_t end = content.find('\n', at);
    out.push_back(JsonDocument::parse(content.substr(at, end - at), name).value());
    at = end + 1;
  }
  return out;
}

std::string text_of(JsonElement row, const char* key) {
  std::string text;
  EXPECT_TRUE(json_read(JsonObject(row), key, "row", &text).ok());
  return text;
}

std::vector<int32_t> ids_of(JsonElement row, const char* key) {
  std::vector<int32_t> ids;
  for (const JsonElement id : JsonArray(row[key])) ids.push_back(static_cast<int32_t>(int64_t(id)));
  return ids;
}

ChatRequest request_at_noon() {
  ChatRequest request;
  request.special_tokens = {{"bos_token", "<｜begin▁of▁sentence｜>"}, {"eos_token", "<｜end▁of▁sentence｜>"}};
  std::tm now{};
  now.tm_year = 124;
  now.tm_mon = 6;
  now.tm_mday = 26;
  now.tm_wday = 5;
  now.tm_hour = 13;
  request.now = now;
  return request;
}

std::string joined(const RenderedChat& chat) {
  std::string text;
  for (const ChatSegment& segment : chat.segments) {
    EXPECT_FALSE(segment.text.empty());
    text += segment.text;
  }
  EXPECT_EQ(text, chat.text());
  return text;
}

TEST(ChatGolden, EveryConstructRendersAsJinjaOrFailsAsJinja) {
  const JsonDocument messages = JsonDocument::parse(R"([{"role": "user", "content": "Hëllo <|x|>", "n": 3, "f": 1.5,
      "ok": true, "none": null, "list": [1, "a"], "obj": {"k": "v"}}, {"role": "assistant", "content": "ok"}])",
                                                    "messages")
                                    .value();
  int rendered = 0, refused = 0;
  for (const JsonDocument& row : rows("constructs.jsonl")) {
    const std::string source = text_of(row.root(), "template");
    SCOPED_TRACE(source);
    ChatRequest request = request_at_noon();
    request.messages_json = messages.root();
    const auto parsed = ChatTemplate::parse(source, "template");
    auto result = parsed.ok() ? parsed.value().render(request) : Result<RenderedChat>(parsed.error());
    if (row.root()["text"].is_null()) {
      ASSERT_FALSE(result.ok()) << result.value().text();
      EXPECT_TRUE(result.error().message.starts_with("template:")) << result.error().message;
      ++refused;
    } else {
      ASSERT_TRUE(result.ok()) << result.error().message;
      EXPECT_EQ(joined(result.value()), text_of(row.root(), "text"));
      ++rendered;
    }
  }
  EXPECT_GT(rendered, 80);
  EXPECT_GT(refused, 40);
}

class Families : public testing::Test {
 protected:
  const ChatTemplate& find(const std::string& name) {
    if (!templates_.contains(name)) {
      templates_.emplace(name, ChatTemplate::parse(read_file(kGolden + "templates/" + name).value(), name).value());
    }
    return templates_.at(name);
  }

  Result<RenderedChat> render(JsonElement row) {
    const JsonElement conversation = conversations_.at(int64_t(row["conversation"])).root();
    ChatRequest request = request_at_noon();
    request.messages_json = conversation["messages"].value();
    request.tools = conversation["tools"].value();
    request.variables = conversation["variables"].value();
    request.add_generation_prompt = bool(row["add_generation_prompt"]);
    return find(text_of(row, "template")).render(request);
  }

  std::vector<JsonDocument> conversations_ = rows("conversations.jsonl");
  std::map<std::string, ChatTemplate> templates_;
};

TEST_F(Families, RenderAsTransformers) {
  for (const JsonDocument& row : rows("families.jsonl")) {
    SCOPED_TRACE(simdjson::minify(row.root()).substr(0, 120));
    const auto result = render(row.root());
    if (row.root()["text"].is_null()) {
      EXPECT_FALSE(result.ok());
    } else {
      ASSERT_TRUE(result.ok()) << result.error().message;
      EXPECT_EQ(joined(result.value()), text_of(row.root(), "text"));
    }
  }
}

TEST_F(Families, IdsWithMessagesApart) {
  const Tokenizer tokenizer = Tokenizer::from_json(read_file(kGolden + "tokenizer.json").value(), "tokenizer").value();
  int apart = 0;
  for (const JsonDocument& row : rows("ids.jsonl")) {
    SCOPED_TRACE(simdjson::minify(row.root()).substr(0, 120));
    const auto result = render(row.root());
    ASSERT_TRUE(result.ok()) << result.error().message;
    EXPECT_EQ(tokenizer.encode(result.value().text()), ids_of(row.root(), "ids"));
    const std::vector<int32_t> expected = ids_of(row.root(), "ids_apart");
    EXPECT_EQ(encode_segments(tokenizer, result.value().segments), expected);
    apart += expected != ids_of(row.root(), "ids") ? 1 : 0;
  }
  EXPECT_GT(apart, 4);  // some messages spell control tokens
}

}  // namespace
}  // namespace westlake
