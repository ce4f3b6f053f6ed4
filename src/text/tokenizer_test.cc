// The tokenizer against vectors of Hugging Face tokenizers (tests/golden/text, made by
// tools/make_tokenizer_goldens.py), round trips through GGUF and JSON, streaming, plain text, caches, long words.
#include "text/tokenizer.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <set>
#include <thread>

#include "base/file.h"
#include "base/json.h"
#include "base/rng.h"
#include "text/tokenizer_fuzz_body.h"
#include "text/unicode.h"

namespace westlake {
namespace {

const std::string kGolden = WESTLAKE_SOURCE_DIR "/tests/golden/text/";

struct Vector {
  std::string text, decoded, without_special;
  std::vector<int32_t> ids, with_ends;
  bool special = true, has_more = false;
};

std::vector<int32_t> read_ids(JsonElement element) {
  std::vector<int32_t> ids;
  for (const JsonElement id : JsonArray(element)) ids.push_back(static_cast<int32_t>(int64_t(id)));
  return ids;
}

std::vector<Vector> read_vectors(const std::string& content) {
  std::vector<Vector> vectors;
  for (size_t at = 0; at < content.size();) {
    const size_t end = std::min(content.find('\n', at), content.size());
    const JsonDocument row = JsonDocument::parse(content.substr(at, end - at), "vector").value();
    const JsonObject object(row.root());
    Vector vector;
    EXPECT_TRUE(json_read(object, "text", "vector", &vector.text).ok());
    EXPECT_TRUE(json_read(object, "decoded", "vector", &vector.decoded).ok());
    EXPECT_TRUE(json_read(object, "special", "vector", &vector.special).ok());
    EXPECT_TRUE(json_read(object, "without_special", "vector", &vector.without_special).ok());
    vector.ids = read_ids(object.at_key("ids"));
    vector.has_more = json_has(object, "with_ends");
    if (vector.has_more) vector.with_ends = read_ids(object.at_key("with_ends"));
    vectors.push_back(std::move(vector));
    at = end + 1;
  }
  return vectors;
}

Tokenizer load(const std::string& family) {
  const std::string path = kGolden + family + ".tokenizer.json";
  auto tokenizer = Tokenizer::from_json(read_file(path).value(), path);
  EXPECT_TRUE(tokenizer.ok()) << (tokenizer.ok() ? "" : tokenizer.error().message);
  return std::move(tokenizer).value();
}

std::string stream(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  StreamDecoder decoder(tokenizer);
  std::string out;
  for (const int32_t id : ids) {
    const std::string piece = decoder.push(id);
    EXPECT_TRUE(simdjson::validate_utf8(piece)) << "half a character";
    out += piece;
  }
  return out + decoder.flush();
}

// Only the vectors of plain text, where a form without the flags of added tokens must agree too.
void check_vectors(const Tokenizer& tokenizer, const std::vector<Vector>& vectors, bool plain_only, const char* what) {
  int checked = 0;
  for (const Vector& vector : vectors) {
    if (plain_only && vector.special) continue;
    ++checked;
    EncodeOptions options;
    options.parse_added_tokens = vector.special;
    const std::vector<int32_t> ids = tokenizer.encode(vector.text, options);
    ASSERT_EQ(ids, vector.ids) << what << ": " << vector.text;
    ASSERT_EQ(tokenizer.decode(ids), vector.decoded) << what;
    ASSERT_EQ(stream(tokenizer, ids), vector.decoded) << what;
    if (!vector.has_more || plain_only) continue;
    options.add_special_tokens = true;
    ASSERT_EQ(tokenizer.encode(vector.text, options), vector.with_ends) << what << ": " << vector.text;
    DecodeOptions skip;
    skip.skip_special = true;
    ASSERT_EQ(tokenizer.decode(ids, skip), vector.without_special) << what;
  }
  EXPECT_GT(checked, 15);
}

struct Family {
  const char* name;
  const char* pre;  // its name in GGUF; nullptr: it has none
};

class Families : public testing::TestWithParam<Family> {};

TEST_P(Families, equal_the_reference) {
  const std::string family = GetParam().name;
  const Tokenizer tokenizer = load(family);
  const std::vector<Vector> vectors = read_vectors(read_file(kGolden + family + ".jsonl").value());
  ASSERT_GE(vectors.size(), 100u);
  check_vectors(tokenizer, vectors, false, "first");
  check_vectors(tokenizer, vectors, false, "from the cache");

  const std::string json = tokenizer.to_json();
  const auto again = Tokenizer::from_json(json, "again");
  ASSERT_TRUE(again.ok()) << again.error().message;
  check_vectors(*again, vectors, false, "written as JSON");
  EXPECT_EQ(again->to_json(), json);

  const auto gguf = tokenizer.to_gguf_vocab();
  ASSERT_EQ(gguf.ok(), GetParam().pre != nullptr) << (gguf.ok() ? gguf->pre : gguf.error().message);
  if (!gguf.ok()) return;
  EXPECT_EQ(gguf->pre, GetParam().pre);
  EXPECT_EQ(gguf->tokens.size(), static_cast<size_t>(tokenizer.vocab_size()));
  const auto from_gguf = Tokenizer::from_gguf(*gguf, "gguf");
  ASSERT_TRUE(from_gguf.ok()) << from_gguf.error().message;
  check_vectors(*from_gguf, vectors, true, "through GGUF");
  EXPECT_EQ(from_gguf->bos_id(), tokenizer.bos_id());
  EXPECT_EQ(from_gguf->adds_bos(), tokenizer.adds_bos());
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    ASSERT_EQ(from_gguf->token_text(id), tokenizer.token_text(id));
    ASSERT_EQ(from_gguf->is_special(id), tokenizer.is_special(id));
    ASSERT_EQ(tokenizer.token_to_id(tokenizer.token_text(id)), id);
  }
  const auto json_of_gguf = Tokenizer::from_json(from_gguf->to_json(), "gguf as JSON");
  ASSERT_TRUE(json_of_gguf.ok()) << json_of_gguf.error().message;
  check_vectors(*json_of_gguf, vectors, true, "through GGUF and JSON");
}

INSTANTIATE_TEST_SUITE_P(text, Families,
                         testing::Values(Family{"deepseek_v3", "deepseek-v3"}, Family{"deepseek_llm", "deepseek-llm"},
                                         Family{"deepseek_coder", "deepseek-coder"}, Family{"llama3", "llama-bpe"},
                                         Family{"qwen2", "qwen2"}, Family{"qwen35", "qwen35"},
                                         Family{"o200k", "gpt-4o"}, Family{"tekken", "tekken"},
                                         Family{"kimi_k2", "kimi-k2"}, Family{"smollm", "smollm"},
                                         Family{"gpt2", "gpt-2"}, Family{"mixed_prefix", nullptr},
                                         Family{"mixed_behaviors", nullptr}, Family{"mixed_regex", nullptr}),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(tokenizer, published_deepseek_v3) {
  const std::string shared = WESTLAKE_SOURCE_DIR "/../shared/";
  const std::string file = shared + "tokenizers/deepseek_v3.tokenizer.json.zst";
  const std::string vectors = shared + "golden/tokenizer_deepseek_v3/vectors.jsonl";
  if (!is_file(file) || !is_file(vectors)) GTEST_SKIP() << "SKIPPED: no " << file;
  FILE* pipe = popen(("zstd -dcq '" + file + "'").c_str(), "r");
  ASSERT_NE(pipe, nullptr);
  std::string json;
  char buffer[1 << 16];
  for (size_t n; (n = fread(buffer, 1, sizeof buffer, pipe)) > 0;) json.append(buffer, n);
  if (pclose(pipe) != 0) GTEST_SKIP() << "SKIPPED: no zstd program to unpack " << file;
  const auto tokenizer = Tokenizer::from_json(json, file);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
  check_vectors(*tokenizer, read_vectors(read_file(vectors).value()), false, "DeepSeek V3");
}

// A user's text can never become a control token when it is encoded as plain text.
TEST(tokenizer, plain_text_has_no_control_tokens) {
  for (const char* family : {"deepseek_v3", "llama3", "smollm", "mixed_regex"}) {
    const Tokenizer tokenizer = load(family);
    for (const AddedToken& token : tokenizer.added_tokens()) {
      if (!token.special) continue;
      for (const std::string& text : {token.content, " " + token.content, token.content + token.content}) {
        EncodeOptions plain;
        plain.parse_added_tokens = false;
        for (const int32_t id : tokenizer.encode(text, plain)) EXPECT_FALSE(tokenizer.is_special(id)) << text;
        EXPECT_NE(tokenizer.encode(text), tokenizer.encode(text, plain)) << text;
      }
    }
  }
}

TEST(tokenizer, invalid_utf8_reads_as_replacement_characters) {
  const Tokenizer tokenizer = load("gpt2");
  EXPECT_EQ(tokenizer.encode("a\xff"), tokenizer.encode("a\xef\xbf\xbd"));
  EXPECT_EQ(tokenizer.encode("\xf0\x9f\x98 b"), tokenizer.encode("\xef\xbf\xbd b"));  // cut short: one
  EXPECT_EQ(tokenizer.encode("\xed\xa0\x80"), tokenizer.encode("\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"));  // a surrogate
  EXPECT_EQ(utf8_repair("\xc0\xaf\xe0\x80"), "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
}

TEST(tokenizer, stream_holds_back_half_characters) {
  const Tokenizer tokenizer = load("gpt2");
  const std::vector<int32_t> ids = tokenizer.encode("\xf0\x9f\xa6\x99");  // one id a byte: nothing of it was trained
  ASSERT_EQ(ids.size(), 4u);
  StreamDecoder decoder(tokenizer);
  EXPECT_EQ(decoder.push(ids[0]), "");
  EXPECT_EQ(decoder.push(ids[1]), "");
  EXPECT_EQ(decoder.pending().size(), 2u);
  EXPECT_EQ(decoder.push(ids[2]), "");
  EXPECT_EQ(decoder.push(ids[3]), "\xf0\x9f\xa6\x99");
  EXPECT_EQ(decoder.push(ids[0]), "");
  EXPECT_EQ(decoder.push(tokenizer.token_to_id("a")),
            "\xef\xbf\xbd"
            "a");  // certain now: never a character
  EXPECT_EQ(decoder.push(ids[0]), "");
  EXPECT_EQ(decoder.flush(), "\xef\xbf\xbd");
  EXPECT_EQ(decoder.flush(), "");
  EXPECT_EQ(decoder.push(-1) + decoder.push(1 << 30), "");  // unknown ids are passed over
}

// Random ids, most of them no text: the stream must still say what decode says.
TEST(tokenizer, stream_equals_decode_for_any_ids) {
  const Tokenizer tokenizer = load("qwen2");
  Rng rng(7);
  for (int round = 0; round < 200; ++round) {
    std::vector<int32_t> ids;
    for (int i = 0; i < 40; ++i) ids.push_back(static_cast<int32_t>(rng.next() % 400) - 5);
    ASSERT_EQ(stream(tokenizer, ids), tokenizer.decode(ids));
  }
}

// The plain rule, written as plainly as it is: merge the lowest rank, leftmost first, until none is left.
std::vector<int32_t> slow_bpe(const GgufVocab& vocab, const Tokenizer& tokenizer, std::string_view word) {
  std::vector<std::string> parts;
  for (const char c : word) parts.emplace_back(1, c);
  for (;;) {
    size_t best = vocab.merges.size(), at = 0;
    for (size_t rank = 0; rank < vocab.merges.size() && best == vocab.merges.size(); ++rank) {
      for (size_t i = 0; i + 1 < parts.size(); ++i) {
        if (vocab.merges[rank] == parts[i] + " " + parts[i + 1]) {
          best = rank;
          at = i;
          break;
        }
      }
    }
    if (best == vocab.merges.size()) break;
    parts[at] += parts[at + 1];
    parts.erase(parts.begin() + static_cast<ptrdiff_t>(at) + 1);
  }
  std::vector<int32_t> ids;
  for (const std::string& part : parts) ids.push_back(tokenizer.token_to_id(part));
  return ids;
}

TEST(tokenizer, short_and_long_words_merge_by_the_same_rule) {
  const Tokenizer tokenizer = load("gpt2");
  const GgufVocab vocab = tokenizer.to_gguf_vocab().value();
  Rng rng(3);
  for (const size_t size : {1, 2, 3, 15, 16, 95, 96, 97, 98, 128, 129, 400}) {
    std::string word;
    while (word.size() < size) word += "thersaonidlck"[rng.next() % 13];
    EncodeOptions plain;
    plain.parse_added_tokens = false;
    ASSERT_EQ(tokenizer.encode(word, plain), slow_bpe(vocab, tokenizer, word)) << word;
  }
}

// A megabyte without a seam must not take n^2 steps, nor must runs of spaces or of combining marks.
TEST(tokenizer, long_runs_stay_quick) {
  const auto start = std::chrono::steady_clock::now();
  std::string marks;
  for (int i = 0; i < 100000; ++i) marks += "\xcc\x81\xcc\x96";  // classes 230 and 220: every other one moves
  for (const char* family : {"gpt2", "qwen2", "deepseek_v3", "deepseek_llm", "mixed_prefix", "o200k"}) {
    const Tokenizer tokenizer = load(family);
    EXPECT_GT(tokenizer.encode(std::string(1 << 20, 'e')).size(), 1000u);
    EXPECT_GT(tokenizer.encode(std::string(1 << 19, ' ') + "x").size(), 0u);
    EXPECT_GT(tokenizer.encode(std::string(1 << 19, '\n') + "x").size(), 0u);
    EXPECT_GT(tokenizer.encode(marks).size(), 1000u);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60));
}

TEST(tokenizer, many_threads_share_one) {
  const Tokenizer tokenizer = load("deepseek_v3");
  const std::vector<Vector> vectors = read_vectors(read_file(kGolden + "deepseek_v3.jsonl").value());
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (const Vector& vector : vectors) {
        EncodeOptions options;
        options.parse_added_tokens = vector.special;
        if (tokenizer.encode(vector.text, options) != vector.ids) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

// More different pieces than the cache holds, twice: what was pushed out must come back right.
TEST(tokenizer, cache_that_overflows_stays_right) {
  const Tokenizer tokenizer = load("smollm");
  std::string text;
  for (int i = 0; i < 60000; ++i) text += fmt::format(" w{:x}then{}", i * 2654435761u, std::string(i % 60, 'o'));
  const std::vector<int32_t> once = tokenizer.encode(text);
  EXPECT_EQ(tokenizer.encode(text), once);
  EXPECT_EQ(load("smollm").encode(text), once);
  EXPECT_EQ(tokenizer.decode(once), text);
}

TEST(tokenizer, replays_fuzz_inputs) {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(WESTLAKE_SOURCE_DIR "/tests/golden/fuzz/tokenizer")) {
    SCOPED_TRACE(entry.path().string());
    fuzz_tokenizer(read_file(entry.path().string()).value());
    ++count;
  }
  EXPECT_GT(count, 5);
}

}  // namespace
}  // namespace westlake
