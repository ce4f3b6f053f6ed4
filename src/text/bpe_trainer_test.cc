// Training against Hugging Face tokenizers (tests/golden/tokenizer_train, made by
// tools/make_tokenizer_train_goldens.py): merges, and the ids that the trained tokenizer gives; and what must not
// matter: threads, order, how text is cut.
#include "text/bpe_trainer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <map>

#include "base/file.h"
#include "base/json.h"
#include "base/rng.h"
#include "text/chat_template.h"
#include "text/tokenizer_trainer.h"

namespace westlake {
namespace {

const std::string kGolden = WESTLAKE_SOURCE_DIR "/tests/golden/tokenizer_train/";

std::vector<std::string> corpus() {
  const std::string text = read_file(kGolden + "corpus.txt").value();
  constexpr std::string_view kSeparator = "<|endoftext|>\n";
  std::vector<std::string> documents;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find(kSeparator, at), text.size());
    std::string document = text.substr(at, end - at);
    document.resize(document.find_last_not_of("\r\n") + 1);
    documents.push_back(std::move(document));
    at = end + kSeparator.size();
  }
  return documents;
}

Tokenizer train(const std::vector<std::string>& documents, const TokenizerTrainerOptions& options, int threads = 2) {
  auto trainer = TokenizerTrainer::create(options);
  EXPECT_TRUE(trainer.ok()) << trainer.error().message;
  ThreadPool pool(threads);
  const std::vector<std::string_view> texts(documents.begin(), documents.end());
  trainer->feed(pool, texts);
  auto tokenizer = trainer->train();
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.error().message;
  return std::move(tokenizer).value();
}

std::vector<std::string> merges_of(const JsonElement& list) {
  std::vector<std::string> merges;
  for (const JsonElement merge : JsonArray(list)) {
    std::string_view text;
    if (merge.get(text) == simdjson::SUCCESS) {
      merges.emplace_back(text);
    } else {
      const JsonArray pair(merge);
      merges.push_back(std::string(std::string_view(pair.at(0))) + " " + std::string(std::string_view(pair.at(1))));
    }
  }
  return merges;
}

void check_golden(const std::string& name, const std::string& pipeline, const std::vector<std::string>& documents) {
  const JsonDocument golden = JsonDocument::parse(read_file(kGolden + name + ".json").value(), name).value();
  TokenizerTrainerOptions options;
  options.pipeline = pipeline;
  options.vocab_size = static_cast<int32_t>(int64_t(golden.root()["vocab_size"]));
  const std::string json = train(documents, options).to_json();
  const JsonDocument ours = JsonDocument::parse(json, "ours").value();
  const auto expected = merges_of(golden.root()["merges"]), seen = merges_of(ours.root()["model"]["merges"]);
  for (size_t i = 0; i < std::min(expected.size(), seen.size()); ++i) {
    ASSERT_EQ(seen[i], expected[i]) << name << " merge " << i;
  }
  EXPECT_EQ(seen.size(), expected.size()) << name;
  const Tokenizer again = Tokenizer::from_json(json, "ours").value();
  EncodeOptions with_bos;
  with_bos.add_special_tokens = true;
  for (const JsonElement vector : JsonArray(golden.root()["vectors"])) {
    std::vector<int32_t> ids;
    for (const JsonElement id : JsonArray(vector["ids"])) ids.push_back(static_cast<int32_t>(int64_t(id)));
    EXPECT_EQ(again.encode(std::string_view(vector["text"]), with_bos), ids) << name << " " << vector["text"];
  }
}

TEST(bpe_trainer, learns_what_hugging_face_learns) {
  const auto documents = corpus();
  for (const char* pipeline : {"deepseek-v3", "qwen2", "gpt-2"}) check_golden(pipeline, pipeline, documents);
  check_golden("exhausted", "deepseek-v3", {documents.back()});
}

// A slow trainer without book-keeping: counts all pairs anew before each merge.
std::vector<std::pair<std::string, std::string>> plain_merges(const WordCounts& words, size_t merges) {
  std::vector<std::pair<std::vector<int>, int64_t>> rows;
  std::vector<std::string> texts(256);
  for (int byte = 0; byte < 256; ++byte) texts[byte] = std::string(1, static_cast<char>(byte));
  for (size_t i = 0; i < words.size(); ++i) {
    std::vector<int> row;
    for (const char c : words.word(i)) row.push_back(static_cast<unsigned char>(c));
    rows.emplace_back(row, words.count(i));
  }
  std::vector<std::pair<std::string, std::string>> result;
  while (result.size() < merges) {
    std::map<std::pair<int, int>, int64_t> counts;
    for (const auto& [row, count] : rows) {
      for (size_t at = 1; at < row.size(); ++at) counts[{row[at - 1], row[at]}] += count;
    }
    std::pair<int, int> best;
    int64_t most = 0;
    for (const auto& [pair, count] : counts) {
      if (count > most) most = count, best = pair;
    }
    if (most == 0) break;
    result.emplace_back(texts[best.first], texts[best.second]);
    const int merged = static_cast<int>(texts.size());
    texts.push_back(texts[best.first] + texts[best.second]);
    for (auto& [row, count] : rows) {
      std::vector<int> next;
      for (size_t at = 0; at < row.size(); ++at) {
        const bool here = at + 1 < row.size() && row[at] == best.first && row[at + 1] == best.second;
        next.push_back(here ? merged : row[at]);
        at += here ? 1 : 0;
      }
      row = next;
    }
  }
  return result;
}

TEST(bpe_trainer, equals_counting_anew) {
  // Letters in the order of their bytes have ids in that order, so that ties fall alike.
  Rng rng(3);
  WordCounts words;
  for (int i = 0; i < 400; ++i) {
    std::string word;
    const uint64_t length = 1 + rng.below(9);
    for (uint64_t at = 0; at < length; ++at) word += static_cast<char>('a' + rng.below(6));
    words.add(word, 1 + rng.below(50));
  }
  BpeTrainerOptions options;
  options.vocab_size = 256 + 60;
  const TrainedBpe trained = train_bpe(words, options);
  const auto plain = plain_merges(words, 60);
  ASSERT_EQ(trained.merges.size(), plain.size());
  for (size_t i = 0; i < plain.size(); ++i) {
    EXPECT_EQ(trained.tokens[static_cast<size_t>(trained.merges[i].first)], plain[i].first) << i;
    EXPECT_EQ(trained.tokens[static_cast<size_t>(trained.merges[i].second)], plain[i].second) << i;
  }
}

TEST(bpe_trainer, threads_order_and_cuts_do_not_matter) {
  std::vector<std::string> documents = corpus();
  TokenizerTrainerOptions options;
  options.vocab_size = 1000;
  const std::string json = train(documents, options, 1).to_json();
  std::reverse(documents.begin(), documents.end());
  EXPECT_EQ(train(documents, options, 3).to_json(), json);
  std::vector<std::string> cut;
  const auto letter = [](char c) { return std::isalpha(static_cast<unsigned char>(c)) != 0; };
  for (const std::string& document : documents) {  // between words: where DocumentReader cuts
    size_t at = 0;
    for (size_t i = 1; i + 1 < document.size(); ++i) {
      if (!letter(document[i - 1]) || document[i] != ' ' || !letter(document[i + 1])) continue;
      cut.push_back(document.substr(at, i - at));
      at = i;
    }
    cut.push_back(document.substr(at));
  }
  EXPECT_GT(cut.size(), documents.size() + 1000);
  EXPECT_EQ(train(cut, options, 2).to_json(), json);
}

TEST(bpe_trainer, frequency_limits_merges) {
  WordCounts words;
  words.add("ab", 5);
  words.add("cd", 4);
  BpeTrainerOptions options;
  options.vocab_size = 300;
  options.min_frequency = 5;
  EXPECT_EQ(train_bpe(words, options).merges.size(), 1u);
  options.min_frequency = 0;
  EXPECT_EQ(train_bpe(words, options).merges.size(), 2u);
}

TEST(tokenizer_trainer, roles_and_template) {
  TokenizerTrainerOptions options;
  options.vocab_size = 300;
  Tokenizer tokenizer = train(corpus(), options);
  EXPECT_EQ(tokenizer.vocab_size(), 300);
  const TokenizerConfig config = read_tokenizer_config(trained_tokenizer_config(), "config").value();
  tokenizer.apply_config(config);
  EXPECT_EQ(tokenizer.bos_id(), 0);
  EXPECT_EQ(tokenizer.eos_id(), 1);
  EXPECT_EQ(tokenizer.pad_id(), 2);
  EXPECT_TRUE(tokenizer.adds_bos());
  for (int32_t id = 0; id < 5; ++id) EXPECT_TRUE(tokenizer.is_special(id)) << id;
  EXPECT_FALSE(tokenizer.is_special(5));
  EXPECT_EQ(tokenizer.token_to_id(kUserToken), 3);
  EXPECT_EQ(tokenizer.token_to_id(kAssistantToken), 4);
  EXPECT_EQ(tokenizer.to_gguf_vocab().value().pre, "deepseek-v3");
  // The name of a special token in a text is text.
  EncodeOptions plain;
  plain.parse_added_tokens = false;
  for (const int32_t id : tokenizer.encode(kUserToken, plain)) EXPECT_GE(id, 5);
}

TEST(tokenizer_trainer, template_in_deepseeks_form) {
  const TokenizerConfig config = read_tokenizer_config(trained_tokenizer_config(), "config").value();
  ASSERT_NE(config.chat_template(), nullptr);
  const ChatTemplate chat = ChatTemplate::parse(*config.chat_template(), "template").value();
  const JsonDocument messages = JsonDocument::parse(R"([{"role":"user","content":"Hi!"},
      {"role":"assistant","content":"Hello.\n"},{"role":"system","content":"Be kind."},
      {"role":"user","content":" A story?"},{"role":"system","content":"Be short."}])",
                                                    "messages")
                                    .value();
  const std::string bos(kBosToken), eos(kEosToken), user(kUserToken), assistant(kAssistantToken);
  ChatRequest request;
  request.messages_json = messages.root();
  request.special_tokens = {{"bos_token", bos}, {"eos_token", eos}};
  const std::string history =
      bos + "Be kind.\n\nBe short." + user + "Hi!" + assistant + "Hello.\n" + eos + user + " A story?";
  request.add_generation_prompt = false;
  EXPECT_EQ(chat.render(request).value().text(), history);
  request.add_generation_prompt = true;
  EXPECT_EQ(chat.render(request).value().text(), history + assistant);
}

TEST(tokenizer_trainer, errors_name_the_numbers) {
  TokenizerTrainerOptions options;
  options.vocab_size = 260;
  const auto small = TokenizerTrainer::create(options);
  ASSERT_FALSE(small.ok());
  EXPECT_NE(small.error().message.find("260 is too small"), std::string::npos) << small.error().message;
  EXPECT_NE(small.error().message.find("need 261"), std::string::npos) << small.error().message;
  options.vocab_size = 261;
  options.pipeline = "nonsense";
  const auto unknown = TokenizerTrainer::create(options);
  ASSERT_FALSE(unknown.ok());
  EXPECT_NE(unknown.error().message.find("deepseek-v3"), std::string::npos) << unknown.error().message;
  options.pipeline = "deepseek-v3";
  auto trainer = TokenizerTrainer::create(options);
  ASSERT_TRUE(trainer.ok());
  EXPECT_FALSE(trainer->train().ok());  // no text
}

}  // namespace
}  // namespace westlake
