// The cache of tokens: what it holds, when it is found again, and that no damaged file is believed.
#include "train/token_cache.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <set>

#include "train/test_support.h"

namespace westlake {
namespace {

namespace fs = std::filesystem;

class TokenCache : public testing::Test {
 protected:
  void SetUp() override {
    Rng rng(8);
    for (int i = 0; i < 300; ++i) texts_.push_back(random_words(rng, 1 + static_cast<int>(rng.below(60))));
    std::string long_one;
    for (int i = 0; i < 9000; ++i) long_one += random_words(rng, 30) + ". <\uff5cUser\uff5c>\n\n";
    texts_.push_back(long_one.substr(0, long_one.size() - 2));  // comes in parts
    std::string content;
    for (const std::string& text : texts_) content += text + "\n<|endoftext|>\n";
    data_ = folder_.file("data.txt");
    ASSERT_TRUE(write_file(data_, content).ok());
  }
  Result<TokenStore> open(const Tokenizer& tokenizer, int threads = 2) {
    ThreadPool pool(threads);
    made_ = false;
    return open_tokens(pool, tokenizer, {data_}, folder_.file("cache"), [&](uint64_t done, uint64_t total, int64_t) {
      EXPECT_LE(done, total);
      return made_ = true;
    });
  }
  std::vector<int32_t> expected(const Tokenizer& tokenizer, const std::string& text) {
    EncodeOptions plain;
    plain.parse_added_tokens = false;
    std::vector<int32_t> ids;
    if (tokenizer.adds_bos()) ids.push_back(tokenizer.bos_id());
    tokenizer.encode(text, plain, ids);
    ids.push_back(tokenizer.eos_id());
    return ids;
  }

  TempFolder folder_;
  std::vector<std::string> texts_;
  std::string data_;
  bool made_ = false;
};

TEST_F(TokenCache, holds_each_document_with_its_ends) {
  const Tokenizer tokenizer = small_tokenizer();
  const auto store = open(tokenizer);
  ASSERT_TRUE(store.ok()) << store.error().message;
  EXPECT_TRUE(made_);
  ASSERT_EQ(store->documents(), static_cast<int64_t>(texts_.size()));
  EXPECT_EQ(store->vocab_size(), tokenizer.vocab_size());
  EXPECT_EQ(store->document_start(store->documents()), store->tokens());
  for (int64_t d = 0; d < store->documents(); ++d) {
    const int64_t begin = store->document_start(d), end = store->document_start(d + 1);
    std::vector<int32_t> ids(static_cast<size_t>(end - begin));
    store->copy(begin, ids);
    ASSERT_EQ(ids, expected(tokenizer, texts_[static_cast<size_t>(d)])) << d;
    EXPECT_EQ(store->token(begin), ids[0]);
  }
}

TEST_F(TokenCache, wide_ids) {
  // A vocabulary of more than 65536: the same one with an added token far up.
  std::string json = small_tokenizer().to_json();
  std::string many;
  for (int i = 0; i < 66000; ++i)
    many += fmt::format(",{{\"id\":{},\"content\":\"<extra{}>\",\"special\":true,\"normalized\":false}}", 300 + i, i);
  json.insert(json.find("],\"normalizer\""), many);
  Tokenizer tokenizer = Tokenizer::from_json(json, "wide").value();
  tokenizer.apply_config(read_tokenizer_config("{\"eos_token\": \"<extra65900>\"}", "config").value());
  ASSERT_GT(tokenizer.eos_id(), 0x10000);
  const auto store = open(tokenizer);
  ASSERT_TRUE(store.ok()) << store.error().message;
  std::vector<int32_t> ids(static_cast<size_t>(store->document_start(1)));
  store->copy(0, ids);
  EXPECT_EQ(ids, expected(tokenizer, texts_[0]));
}

TEST_F(TokenCache, is_found_again_and_not_confused) {
  const Tokenizer tokenizer = small_tokenizer();
  const std::string first = open(tokenizer, 1).value().path();
  const std::string bytes = read_whole(first);
  EXPECT_EQ(open(tokenizer, 3).value().path(), first);
  EXPECT_FALSE(made_);  // mapped, not made
  // The same bytes under another path are the same data.
  const std::string moved = folder_.file("elsewhere.txt");
  fs::rename(data_, moved);
  data_ = moved;
  EXPECT_EQ(open(tokenizer).value().path(), first);
  EXPECT_FALSE(made_);
  // Another number of threads writes the same bytes.
  fs::remove(first);
  EXPECT_EQ(open(tokenizer, 3).value().path(), first);
  EXPECT_TRUE(made_);
  EXPECT_TRUE(read_whole(first) == bytes);
  // Another tokenizer, other ends, or other data: another file.
  std::set<std::string> paths = {first};
  paths.insert(open(small_tokenizer(310)).value().path());
  Tokenizer other_ends = tokenizer;
  other_ends.apply_config(read_tokenizer_config("{\"add_bos_token\": false}", "config").value());
  const TokenStore without_bos = open(other_ends).value();
  EXPECT_NE(without_bos.token(0), tokenizer.bos_id());
  paths.insert(without_bos.path());
  ASSERT_TRUE(write_file(data_, read_whole(data_) + "x").ok());
  paths.insert(open(tokenizer).value().path());
  EXPECT_EQ(paths.size(), 4u);
}

TEST_F(TokenCache, a_damaged_file_is_refused_and_made_again) {
  const Tokenizer tokenizer = small_tokenizer();
  ASSERT_TRUE(write_file(data_, "abc abd\n<|endoftext|>\nbcd\n").ok());
  const std::string path = open(tokenizer).value().path(), good = read_whole(path);
  const auto put = [&](const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; };
  for (size_t at = 0; at < good.size(); ++at) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 0x11);
    put(bad);
    expect_error(TokenStore::open(path), Code::kCorrupt, {path, "Hint"});
    if (at % 16 != 0) continue;  // making it anew waits for the disk
    EXPECT_TRUE(open(tokenizer).ok());
    EXPECT_TRUE(made_) << "byte " << at;
    EXPECT_TRUE(read_whole(path) == good);
  }
  for (size_t size = 0; size < good.size(); size += 5) {
    put(good.substr(0, size));
    EXPECT_FALSE(TokenStore::open(path).ok()) << size;
  }
}

TEST_F(TokenCache, errors) {
  ThreadPool pool(1);
  const Tokenizer tokenizer = small_tokenizer();
  const std::string cache = folder_.file("cache");
  ASSERT_TRUE(write_file(folder_.file("empty.txt"), "\n").ok());
  expect_error(open_tokens(pool, tokenizer, {folder_.file("empty.txt")}, cache), Code::kInvalidArgument, {"no text"});
  expect_error(open_tokens(pool, tokenizer, {folder_.file("gone.txt")}, cache), Code::kNotFound, {"gone.txt"});
  expect_error(open_tokens(pool, tokenizer, {data_}, data_ + "/cache"), Code::kIo, {"cache folder"});
  expect_error(open_tokens(pool, tokenizer, {data_}, cache, [](uint64_t, uint64_t, int64_t) { return false; }),
               Code::kCancelled, {"stopped"});
  EXPECT_TRUE(fs::is_empty(cache));  // no half file stays
  GgufVocab bare = tokenizer.to_gguf_vocab().value();
  bare.eos_id = -1;
  expect_error(open_tokens(pool, Tokenizer::from_gguf(bare, "bare").value(), {data_}, cache), Code::kInvalidArgument,
               {"end token", "eos_token"});
  // Data that changes while it is read.
  expect_error(open_tokens(pool, tokenizer, {data_}, cache,
                           [&](uint64_t, uint64_t, int64_t) { return write_file(data_, "other").ok(); }),
               Code::kIo, {"data.txt", "changed"});
}

TEST_F(TokenCache, standard_input_is_named_by_what_came) {
  const Tokenizer tokenizer = small_tokenizer();
  ThreadPool pool(2);
  std::set<std::string> paths;
  for (int round = 0; round < 2; ++round) {
    const int saved = dup(STDIN_FILENO);
    ASSERT_NE(std::freopen(data_.c_str(), "r", stdin), nullptr);
    const auto store = open_tokens(pool, tokenizer, {"-"}, folder_.file("cache"));
    dup2(saved, STDIN_FILENO);
    close(saved);
    ASSERT_TRUE(store.ok()) << store.error().message;
    EXPECT_EQ(store->documents(), static_cast<int64_t>(texts_.size()));
    EXPECT_NE(store->path().find(store->key()), std::string::npos);
    paths.insert(store->path());
  }
  EXPECT_EQ(paths.size(), 1u);
}

}  // namespace
}  // namespace westlake
