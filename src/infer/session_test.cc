// A session on tiny checkpoints with known logits: chunks, decode, reuse and truncation all give what one forward pass
// over the whole text gives.
#include "infer/session.h"

#include <gtest/gtest.h>

#include "infer/test_support.h"

namespace westlake {
namespace {

// The two forms of MLA round differently; logits of these checkpoints are about 2 wide.
constexpr float kMlaFormsBound = 1e-4f;

class SessionOn : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Models, SessionOn,
                         ::testing::Values("deepseek_v2_lite", "deepseek_v3_mtp", "deepseek_v3_t130", "llama_rope_tied",
                                           "qwen3", "qwen3_moe"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(SessionOn, ChunksOfAnySizeGiveTheSameBits) {
  for (const KernelTable* kernels : available_kernels()) {
    const Opened m(GetParam(), kernels->name);
    const std::vector<float> whole = m.fresh(m.tokens);
    EXPECT_LE(max_difference(whole, m.golden_last_logits()), 1e-3f) << kernels->name;
    for (int64_t chunk : {1, 2, 3, 7, 64}) {
      Session s = m.session({.chunk = chunk});
      EXPECT_TRUE(same_bits(m.copy(s.sync(m.tokens)), whole)) << kernels->name << ", chunks of " << chunk;
    }
  }
}

TEST_P(SessionOn, DecodeEqualsPrefill) {
  for (const KernelTable* kernels : available_kernels()) {
    const Opened m(GetParam(), kernels->name);
    Session s = m.session();
    std::vector<float> logits;
    for (int32_t token : m.tokens) logits = m.copy(s.decode(token));
    const std::vector<float> whole = m.fresh(m.tokens);
    if (m.model->config().mla()) {
      EXPECT_LE(max_difference(logits, whole), kMlaFormsBound) << kernels->name;
    } else {
      EXPECT_TRUE(same_bits(logits, whole)) << kernels->name << ": " << max_difference(logits, whole);
    }
  }
}

TEST_P(SessionOn, GreedyText) {
  for (const KernelTable* kernels : available_kernels()) {
    const Opened m(GetParam(), kernels->name, 2);
    Session s = m.session();
    GenerateOptions options;
    options.max_tokens = static_cast<int64_t>(m.greedy.size());
    options.sampler.temperature = 0;
    std::vector<int32_t> streamed;
    const Result<Generated> out =
        s.generate(m.tokens, options, nullptr, [&](int32_t token, std::string_view) { streamed.push_back(token); });
    ASSERT_TRUE(out.ok()) << out.error().message;
    EXPECT_EQ(out->ids, m.greedy) << kernels->name;
    EXPECT_EQ(streamed, m.greedy);
    EXPECT_EQ(out->finish_reason, FinishReason::kLength);
    EXPECT_EQ(out->stats.prompt_tokens, static_cast<int64_t>(m.tokens.size()));
    EXPECT_EQ(out->stats.cached_tokens, 0);
    // The last token was not needed in the cache.
    EXPECT_EQ(s.length(), static_cast<int64_t>(m.tokens.size() + m.greedy.size()) - 1);
  }
}

TEST_P(SessionOn, SyncReusesAndRecomputes) {
  const Opened m(GetParam());
  Session s = m.session({.chunk = 5});
  ASSERT_TRUE(s.sync(m.tokens).ok());
  // Another ending from position 20 on.
  std::vector<int32_t> other(m.tokens.begin(), m.tokens.begin() + 20);
  for (int32_t i = 0; i < 9; ++i) other.push_back((m.tokens[20] + 1 + i) % 200);
  EXPECT_EQ(s.common_prefix(other), 20);
  EXPECT_TRUE(same_bits(m.copy(s.sync(other)), m.fresh(other)));
  EXPECT_EQ(s.length(), 29);
  // The same again: one token is computed, the logits are there.
  EXPECT_TRUE(same_bits(m.copy(s.sync(other)), m.fresh(other)));
  // A beginning of what is there.
  const std::span<const int32_t> head(other.data(), 11);
  EXPECT_TRUE(same_bits(m.copy(s.sync(head)), m.fresh(head)));
  EXPECT_EQ(s.length(), 11);
  // Nothing in common.
  const std::vector<int32_t> alien = {static_cast<int32_t>((other[0] + 1) % 200), 5, 6};
  EXPECT_TRUE(same_bits(m.copy(s.sync(alien)), m.fresh(alien)));
}

TEST_P(SessionOn, TruncateAndGoOn) {
  const Opened m(GetParam());
  Session s = m.session();
  ASSERT_TRUE(s.sync(m.tokens).ok());
  for (int64_t n : {40, 17, 1, 0}) {
    s.truncate(n);
    EXPECT_EQ(s.length(), n);
    const std::span<const int32_t> rest = std::span(m.tokens).subspan(static_cast<size_t>(n));
    EXPECT_TRUE(same_bits(m.copy(s.append(rest)), m.fresh(m.tokens))) << n;
  }
}

TEST(Session, PagesFollowTheText) {
  const Opened m("deepseek_v3_t130");
  Session s = m.session();
  EXPECT_EQ(s.pool().used_pages(), 0);
  ASSERT_TRUE(s.sync(m.tokens).ok());
  EXPECT_EQ(s.pool().used_pages(), 3);  // 130 positions in pages of 64
  s.truncate(64);
  EXPECT_EQ(s.pool().used_pages(), 1);
}

TEST(Session, ContextLimitNamesBothNumbers) {
  const Opened m("qwen3");
  Session s = m.session({.context = 20});
  ASSERT_TRUE(s.sync(std::span(m.tokens).first(15)).ok());
  const Result<std::span<const float>> too_long = s.sync(m.tokens);
  ASSERT_FALSE(too_long.ok());
  EXPECT_EQ(too_long.error().code, Code::kExhausted);
  EXPECT_EQ(too_long.error().message, "prompt is 64 tokens, context 20");
  EXPECT_EQ(s.length(), 15);  // untouched
  EXPECT_EQ(s.append(std::span(m.tokens).first(6)).error().code, Code::kExhausted);
  EXPECT_TRUE(s.append(std::span(m.tokens).first(5)).ok());

  // An answer ends with the context: the token after the last position needs no place.
  GenerateOptions options;
  options.sampler.temperature = 0;
  const Result<Generated> out = s.generate(std::span(m.tokens).first(15), options, nullptr, [](int32_t, auto) {});
  ASSERT_TRUE(out.ok());
  EXPECT_EQ(out->finish_reason, FinishReason::kLength);
  EXPECT_EQ(out->ids.size(), 6u);
  EXPECT_EQ(s.length(), 20);
}

TEST(Session, CacheLimit) {
  const Opened m("qwen3");
  const int64_t page_bytes = m.session().pool().page_bytes();
  Session s = m.session({.cache_limit_bytes = page_bytes});
  ASSERT_TRUE(s.sync(std::span(m.tokens).first(64)).ok());
  EXPECT_EQ(s.decode(3).error().code, Code::kExhausted);
  EXPECT_EQ(s.length(), 64);
  EXPECT_TRUE(same_bits(m.copy(s.sync(std::span(m.tokens).first(30))), m.fresh(std::span(m.tokens).first(30))));
}

TEST(Session, CancelledBetweenChunksAndGoesOn) {
  const Opened m("llama_rope_tied");
  Session s = m.session({.chunk = 8});
  std::atomic<bool> cancel{true};
  ASSERT_TRUE(s.sync(std::span(m.tokens).first(8)).ok());
  EXPECT_EQ(s.sync(m.tokens, &cancel).error().code, Code::kCancelled);
  EXPECT_EQ(s.length(), 8);
  cancel = false;
  EXPECT_TRUE(same_bits(m.copy(s.sync(m.tokens, &cancel)), m.fresh(m.tokens)));

  GenerateOptions options;
  options.sampler.temperature = 0;
  options.cancel = &cancel;
  int seen = 0;
  const Result<Generated> out = s.generate(m.tokens, options, nullptr, [&](int32_t, std::string_view) {
    if (++seen == 5) cancel = true;
  });
  ASSERT_TRUE(out.ok());
  EXPECT_EQ(out->finish_reason, FinishReason::kCancelled);
  EXPECT_EQ(out->ids, std::vector<int32_t>(m.greedy.begin(), m.greedy.begin() + 5));
  EXPECT_EQ(out->stats.cached_tokens, static_cast<int64_t>(m.tokens.size()) - 1);
}

TEST(Session, StopIds) {
  const Opened m("qwen3");
  Session s = m.session();
  GenerateOptions options;
  options.sampler.temperature = 0;
  options.max_tokens = 24;
  options.stop_ids = {m.greedy[6]};
  size_t first = 0;
  while (m.greedy[first] != m.greedy[6]) ++first;
  Result<Generated> out = s.generate(m.tokens, options, nullptr, [](int32_t, auto) {});
  ASSERT_TRUE(out.ok());
  EXPECT_EQ(out->finish_reason, FinishReason::kStop);
  EXPECT_EQ(out->ids, std::vector<int32_t>(m.greedy.begin(), m.greedy.begin() + static_cast<ptrdiff_t>(first) + 1));
  options.ignore_eos = true;
  out = s.generate(m.tokens, options, nullptr, [](int32_t, auto) {});
  ASSERT_TRUE(out.ok());
  EXPECT_EQ(out->ids, m.greedy);
}

TEST(Session, SeedDecidesTheText) {
  const Opened m("qwen3");
  auto run = [&](uint64_t seed) {
    Session s = m.session();
    GenerateOptions options;
    options.max_tokens = 24;
    options.sampler = {.temperature = 1, .top_p = 0.95, .seed = seed};
    return m.value(s.generate(m.tokens, options, nullptr, [](int32_t, auto) {})).ids;
  };
  EXPECT_EQ(run(1), run(1));
  EXPECT_NE(run(1), run(2));
}

TEST(Session, Refuses) {
  const Opened m("qwen3");
  Session s = m.session();
  EXPECT_EQ(s.sync({}).error().code, Code::kInvalidArgument);
  EXPECT_EQ(s.sync(std::vector<int32_t>{1, 256}).error().code, Code::kInvalidArgument);
  EXPECT_EQ(s.sync(std::vector<int32_t>{-1}).error().code, Code::kInvalidArgument);
  EXPECT_EQ(s.decode(1000).error().code, Code::kInvalidArgument);
  EXPECT_EQ(Session::create(*m.context, *m.model, {.context = -1}).error().code, Code::kInvalidArgument);
  EXPECT_EQ(Session::create(*m.context, *m.model, {.context = 50000}).error().code, Code::kInvalidArgument);
  EXPECT_EQ(Session::create(*m.context, *m.model, {.chunk = 0}).error().code, Code::kInvalidArgument);
  GenerateOptions options;
  options.stop = {"x"};
  EXPECT_EQ(s.generate(m.tokens, options, nullptr, [](int32_t, auto) {}).error().code, Code::kInvalidArgument);
  options = {};
  options.sampler.temperature = -1;
  EXPECT_EQ(s.generate(m.tokens, options, nullptr, [](int32_t, auto) {}).error().code, Code::kInvalidArgument);
}

}  // namespace
}  // namespace westlake
