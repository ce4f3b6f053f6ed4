// The stream of batches against its definition, token by token; going on from any position; epochs.
#include "train/batches.h"

#include <gtest/gtest.h>

#include <map>
#include <optional>

#include "train/test_support.h"

namespace westlake {
namespace {

class Batches : public testing::Test {
 protected:
  void SetUp() override {
    Rng rng(4);
    std::string content;
    for (int i = 0; i < 40; ++i)
      content += random_words(rng, 1 + static_cast<int>(rng.below(i == 7 ? 900 : 30))) + "\n<|endoftext|>\n";
    ASSERT_TRUE(write_file(folder_.file("data.txt"), content).ok());
    ThreadPool pool(1);
    const Tokenizer tokenizer = small_tokenizer();
    eos_ = tokenizer.eos_id();
    store_.emplace(open_tokens(pool, tokenizer, {folder_.file("data.txt")}, folder_.path()).value());
  }
  BatchStream stream(BatchOptions options = {}) { return BatchStream::create(*store_, options).value(); }

  TempFolder folder_;
  std::optional<TokenStore> store_;
  int32_t eos_ = 0;
};

// Rows joined are documents of the store, each token once an epoch; targets follow; borders are where documents begin.
TEST_F(Batches, rows_are_documents_one_after_the_other) {
  BatchOptions options;
  options.document_tokens = 0;
  for (const int64_t T : {1, 2, 7, 64}) {
    BatchStream batches = stream(options);
    std::map<std::vector<int32_t>, int> left;
    for (int64_t d = 0; d < store_->documents(); ++d) {
      std::vector<int32_t> ids(static_cast<size_t>(store_->document_start(d + 1) - store_->document_start(d)));
      store_->copy(store_->document_start(d), ids);
      ++left[ids];
    }
    std::vector<int32_t> document;
    int32_t want = -1;  // target of the token before
    for (int64_t tokens = 0; tokens + 3 * T <= batches.tokens_per_epoch(); tokens += 3 * T) {
      const Batch batch = batches.next(3, T).value();
      ASSERT_EQ(batch.B, 3);
      ASSERT_EQ(batch.T, T);
      ASSERT_EQ(batch.inputs.size(), static_cast<size_t>(3 * T));
      int32_t start = 0;
      for (int64_t i = 0; i < 3 * T; ++i) {
        const auto at = static_cast<int32_t>(i % T);
        if (at == 0 || document.empty()) start = at;
        ASSERT_EQ(batch.doc_start[i], start);
        ASSERT_TRUE(document.empty() || batch.inputs[i] == want);
        document.push_back(batch.inputs[i]);
        want = batch.targets[i];
        ASSERT_EQ(want == -1, batch.inputs[i] == eos_);
        if (want != -1) continue;
        ASSERT_GE(--left[document], 0);
        document.clear();
      }
    }
  }
}

TEST_F(Batches, an_epoch_has_every_token_once) {
  BatchStream batches = stream();
  EXPECT_EQ(batches.epochs(), 0.0);
  std::vector<int64_t> seen(300), expected(300);
  for (int64_t i = 0; i < store_->tokens(); ++i) ++expected[static_cast<size_t>(store_->token(i))];
  for (int epoch = 1; epoch <= 3; ++epoch) {
    for (int64_t i = 0; i < store_->tokens(); ++i) ++seen[static_cast<size_t>(batches.next(1, 1).value().inputs[0])];
    EXPECT_EQ(batches.position(), (BatchPosition{epoch, 0, 0}));
    EXPECT_EQ(batches.epochs(), epoch);
    for (size_t id = 0; id < seen.size(); ++id) EXPECT_EQ(seen[id], epoch * expected[id]) << id;
  }
}

TEST_F(Batches, goes_on_from_any_position) {
  for (const int64_t limit : {0, 16, 2048}) {
    BatchOptions options;
    options.seed = 9;
    options.document_tokens = limit;
    BatchStream whole = stream(options);
    const int steps = static_cast<int>(2 * store_->tokens() / (2 * 33)) + 3;  // into the third epoch
    for (int step = 0; step < steps; ++step) {
      const BatchPosition saved = whole.position();
      BatchStream again = stream(options);
      ASSERT_TRUE(again.seek(saved).ok());
      EXPECT_EQ(again.position(), saved);
      EXPECT_EQ(again.epochs(), whole.epochs());
      const Batch a = whole.next(2, 33).value(), b = again.next(2, 33).value();
      ASSERT_EQ(a.inputs, b.inputs) << step;
      ASSERT_EQ(a.targets, b.targets) << step;
      ASSERT_EQ(a.doc_start, b.doc_start) << step;
      EXPECT_EQ(again.position(), whole.position());
    }
    EXPECT_GE(whole.position().epoch, 2);
  }
}

TEST_F(Batches, seed_and_epoch_give_the_order) {
  BatchOptions options;
  const auto epoch = [&](BatchStream& batches) { return batches.next(1, store_->tokens()).value().inputs; };
  BatchStream first = stream(options);
  const auto a = epoch(first), b = epoch(first);
  EXPECT_NE(a, b);
  options.seed = 1;
  BatchStream other = stream(options);
  EXPECT_NE(epoch(other), a);
  options.shuffle = false;
  BatchStream plain = stream(options);
  std::vector<int32_t> all(static_cast<size_t>(store_->tokens()));
  store_->copy(0, all);
  EXPECT_EQ(epoch(plain), all);
  EXPECT_EQ(epoch(plain), all);
}

// No document is longer than asked, pieces of one are of even size, and at a cut there is no loss.
TEST_F(Batches, long_documents_are_cut) {
  BatchOptions options;
  options.document_tokens = 16;
  options.shuffle = false;
  BatchStream batches = stream(options);
  EXPECT_GT(batches.documents(), store_->documents() + 20);
  const Batch batch = batches.next(1, store_->tokens()).value();
  int64_t cuts = 0;
  for (int64_t i = 0; i < batch.T; ++i) {
    EXPECT_LT(i - batch.doc_start[i], 16);
    if (batch.targets[i] == -1 && batch.inputs[i] != eos_) ++cuts;
    EXPECT_TRUE(batch.targets[i] == -1 || batch.targets[i] == batch.inputs[i + 1]);
  }
  EXPECT_EQ(cuts, batches.documents() - store_->documents());
}

// Rows of whole documents, in the order of the permutation, each as many as fit; the rest of a row is padding apart.
TEST_F(Batches, whole_documents_are_packed_greedily) {
  BatchOptions options;
  options.whole_documents = true;
  options.padding_id = eos_;
  options.shuffle = false;
  for (const int64_t T : {1, 16, 40, 64, 500}) {
    BatchStream batches = stream(options);
    ASSERT_EQ(batches.documents(), store_->documents());
    int64_t d = 0, rows = 0;
    for (; batches.position().epoch == 0; ++rows) {
      const Batch row = batches.next(1, T).value();
      int64_t at = 0;
      while (at < T) {
        const int64_t begin = store_->document_start(d), size = store_->document_start(d + 1) - begin;
        const int64_t n = std::min(size, T);
        if (at + n > T) break;
        for (int64_t i = 0; i < n; ++i) {
          ASSERT_EQ(row.inputs[at + i], store_->token(begin + i));
          ASSERT_EQ(row.targets[at + i], i + 1 < size ? store_->token(begin + i + 1) : -1);
          ASSERT_EQ(row.doc_start[at + i], at);
        }
        at += n;
        d = (d + 1) % store_->documents();
      }
      for (int64_t i = at; i < T; ++i) {
        ASSERT_EQ(row.inputs[i], eos_);
        ASSERT_EQ(row.targets[i], -1);
        ASSERT_EQ(row.doc_start[i], at);
      }
    }
    EXPECT_EQ(stream(options).rows_of(1, T), rows);
    EXPECT_EQ(batches.position().offset, 0);
  }
}

TEST_F(Batches, whole_documents_go_on_from_any_position) {
  BatchOptions options;
  options.whole_documents = true;
  options.seed = 5;
  BatchStream whole = stream(options);
  while (whole.position().epoch < 2) {
    const BatchPosition saved = whole.position();
    BatchStream again = stream(options);
    ASSERT_TRUE(again.seek(saved).ok());
    EXPECT_EQ(again.epochs(), whole.epochs());
    const Batch a = whole.next(2, 50).value(), b = again.next(2, 50).value();
    ASSERT_EQ(a.inputs, b.inputs);
    ASSERT_EQ(a.targets, b.targets);
    ASSERT_EQ(a.doc_start, b.doc_start);
    ASSERT_EQ(again.position(), whole.position());
  }
  expect_error(whole.seek({0, 1, 1}), Code::kInvalidArgument, {"offset", "Hint"});
}

TEST_F(Batches, rows_of_epochs) {
  EXPECT_EQ(stream().rows_of(1, store_->tokens()), 1);
  EXPECT_EQ(stream().rows_of(2, 1), 2 * store_->tokens());
  EXPECT_EQ(stream().rows_of(0.5, 1), (store_->tokens() + 1) / 2);
  BatchStream moved = stream();
  (void)moved.next(3, 33).value();
  EXPECT_EQ(moved.rows_of(1, 33), (store_->tokens() + 32) / 33);
}

TEST_F(Batches, refuses_a_position_of_other_data) {
  BatchStream batches = stream();
  const BatchPosition before = batches.position();
  for (const BatchPosition& bad : {BatchPosition{-1, 0, 0}, BatchPosition{0, batches.documents(), 0},
                                   BatchPosition{0, -1, 0}, BatchPosition{0, 0, 1 << 20}, BatchPosition{0, 0, -1}}) {
    expect_error(batches.seek(bad), Code::kInvalidArgument, {"position", "Hint"});
    EXPECT_EQ(batches.position(), before);
  }
  BatchStream untouched = stream();
  EXPECT_EQ(batches.next(1, 50).value().inputs, untouched.next(1, 50).value().inputs);
}

}  // namespace
}  // namespace westlake
