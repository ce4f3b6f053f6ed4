// The sampler against its definition: each filter against a plain full sort, draws against the exact softmax.
#include "infer/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>

namespace westlake {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

Sampler make(const SamplerOptions& options, int64_t vocab) {
  Result<Sampler> sampler = Sampler::create(options, vocab);
  CHECK(sampler.ok(), "{}", sampler.ok() ? "" : sampler.error().message);
  return std::move(sampler).value();
}

std::vector<float> random_logits(int64_t n, uint64_t seed, double spread = 2) {
  Rng rng(seed);
  std::vector<float> logits(n);
  for (float& x : logits) x = static_cast<float>(spread * rng.normal());
  return logits;
}

// The definition in plain words: sort all, keep heads. Returns probabilities by id.
std::map<int32_t, double> expected_distribution(const std::vector<float>& logits, const SamplerOptions& o) {
  std::vector<std::pair<double, int32_t>> all;  // (-logit, id): ascending is best first, lower id first
  for (size_t i = 0; i < logits.size(); ++i) all.emplace_back(-logits[i] / o.temperature, static_cast<int32_t>(i));
  std::sort(all.begin(), all.end());
  if (o.top_k > 0 && o.top_k < static_cast<int64_t>(all.size())) all.resize(o.top_k);
  std::vector<double> p;
  double total = 0;
  for (const auto& [negative, id] : all) total += p.emplace_back(std::exp(all[0].first - negative));
  size_t kept = 0;
  for (double mass = 0; kept < p.size() && mass < o.top_p * total;) mass += p[kept++];
  if (o.top_p < 1) p.resize(kept);
  while (p.back() < o.min_p * p[0]) p.pop_back();
  total = 0;
  for (double x : p) total += x;
  std::map<int32_t, double> out;
  for (size_t i = 0; i < p.size(); ++i) out[all[i].second] = p[i] / total;
  return out;
}

// Draws many and holds them against the expected distribution by a chi-square over all tokens that are expected
// five times or more; no token that is filtered out may ever come.
void expect_distribution(const std::vector<float>& logits, SamplerOptions options) {
  constexpr int kDraws = 10000;
  options.seed = 11;
  const std::map<int32_t, double> expected = expected_distribution(logits, options);
  Sampler sampler = make(options, static_cast<int64_t>(logits.size()));
  std::map<int32_t, int> counts;
  for (int i = 0; i < kDraws; ++i) ++counts[*sampler.sample(logits)];
  for (const auto& [id, count] : counts) ASSERT_TRUE(expected.contains(id)) << "token " << id << " was filtered out";
  double chi = 0, freedom = -1;
  double rest_expected = 0, rest_count = 0;
  for (const auto& [id, p] : expected) {
    const double e = p * kDraws, n = counts.contains(id) ? counts[id] : 0;
    if (e < 5) {
      rest_expected += e;
      rest_count += n;
      continue;
    }
    chi += (n - e) * (n - e) / e;
    freedom += 1;
  }
  if (rest_expected >= 5) {
    chi += (rest_count - rest_expected) * (rest_count - rest_expected) / rest_expected;
    freedom += 1;
  }
  // Five standard deviations of the chi-square distribution; with the fixed seed a fixed number.
  EXPECT_LT(chi, freedom + 5 * std::sqrt(2 * std::max(freedom, 1.0))) << "degrees of freedom " << freedom;
}

TEST(Sampler, DrawsTheSoftmax) {
  for (double temperature : {0.5, 1.0, 2.0}) {
    expect_distribution(random_logits(40, 1), {.temperature = temperature});
    expect_distribution(random_logits(400, 2), {.temperature = temperature});
  }
}

TEST(Sampler, DrawsTheFilteredSoftmax) {
  for (uint64_t seed : {3, 4}) {
    const std::vector<float> logits = random_logits(300, seed);
    expect_distribution(logits, {.top_k = 7});
    expect_distribution(logits, {.top_k = 299});
    expect_distribution(logits, {.top_k = 1000});
    expect_distribution(logits, {.top_p = 0.3});
    expect_distribution(logits, {.top_p = 0.9});  // beyond the first sorted head of 64
    expect_distribution(logits, {.top_p = 0.999});
    expect_distribution(logits, {.min_p = 0.1});
    expect_distribution(logits, {.temperature = 0.7, .top_k = 50, .top_p = 0.8});
    expect_distribution(logits, {.temperature = 1.3, .top_k = 100, .top_p = 0.95, .min_p = 0.05});
  }
}

TEST(Sampler, TopPOfTheRenormalisedTopK) {
  // Probabilities 0.4 0.3 0.2 0.1; top_k 2 leaves 0.57 0.43, of which top_p 0.5 keeps the first alone.
  const std::vector<float> logits = {std::log(0.1f), std::log(0.4f), std::log(0.2f), std::log(0.3f)};
  Sampler sampler = make({.top_k = 2, .top_p = 0.5}, 4);
  for (int i = 0; i < 200; ++i) EXPECT_EQ(*sampler.sample(logits), 1);
  // Without top-k, 0.5 needs two tokens.
  Sampler both = make({.top_p = 0.5}, 4);
  std::set<int32_t> seen;
  for (int i = 0; i < 200; ++i) seen.insert(*both.sample(logits));
  EXPECT_EQ(seen, (std::set<int32_t>{1, 3}));
}

TEST(Sampler, GreedyTakesTheLowerOfEquals) {
  Sampler greedy = make({.temperature = 0}, 5);
  EXPECT_EQ(*greedy.sample(std::vector<float>{1, 3, 3, 2, 3}), 1);
  EXPECT_EQ(*greedy.sample(std::vector<float>{-kInfinity, -5, -kInfinity, -5, -6}), 1);
  Sampler top1 = make({.top_k = 1}, 5);
  EXPECT_EQ(*top1.sample(std::vector<float>{1, 3, 3, 2, 3}), 1);
  // top_k 2 of three equals keeps the two lower ids.
  Sampler top2 = make({.top_k = 2}, 5);
  std::set<int32_t> seen;
  for (int i = 0; i < 200; ++i) seen.insert(*top2.sample(std::vector<float>{1, 3, 3, 2, 3}));
  EXPECT_EQ(seen, (std::set<int32_t>{1, 2}));
}

TEST(Sampler, BrokenLogitsAreAnError) {
  for (double temperature : {0.0, 1.0}) {
    Sampler sampler = make({.temperature = temperature}, 3);
    const Result<int32_t> nan = sampler.sample(std::vector<float>{1, NAN, 2});
    ASSERT_FALSE(nan.ok());
    EXPECT_EQ(nan.error().code, Code::kCorrupt);
    EXPECT_NE(nan.error().message.find("token 1"), std::string::npos);
    EXPECT_FALSE(sampler.sample(std::vector<float>{NAN, NAN, NAN}).ok());
    EXPECT_FALSE(sampler.sample(std::vector<float>{1, kInfinity, 2}).ok());
    EXPECT_FALSE(sampler.sample(std::vector<float>{-kInfinity, -kInfinity, -kInfinity}).ok());
    EXPECT_EQ(*sampler.sample(std::vector<float>{-kInfinity, 1, -kInfinity}), 1);
  }
}

TEST(Sampler, SameSeedSameTokens) {
  const std::vector<float> logits = random_logits(300, 5);
  auto draw = [&](uint64_t seed) {
    Sampler sampler = make({.temperature = 0.9, .top_p = 0.95, .seed = seed}, 300);
    std::vector<int32_t> ids;
    for (int i = 0; i < 50; ++i) ids.push_back(*sampler.sample(logits));
    return ids;
  };
  EXPECT_EQ(draw(1), draw(1));
  EXPECT_NE(draw(1), draw(2));
}

TEST(Sampler, ExtremeTemperatures) {
  const std::vector<float> logits = {1, 2, 2.001f, -50};
  for (double temperature : {1e-300, 1e-30, 1e-6}) {
    Sampler cold = make({.temperature = temperature, .top_p = 0.9, .min_p = 0.1}, 4);
    for (int i = 0; i < 20; ++i) EXPECT_EQ(*cold.sample(logits), 2);
  }
  Sampler hot = make({.temperature = 1e9}, 4);
  std::set<int32_t> seen;
  for (int i = 0; i < 200; ++i) seen.insert(*hot.sample(logits));
  EXPECT_EQ(seen.size(), 4u);
}

TEST(Sampler, RepetitionPenalty) {
  // Token 0 leads; seen once, 4 / 2 < 3. A negative logit is multiplied: -1 -> -2.
  const std::vector<float> logits = {4, 3, -1, -1.5f};
  Sampler sampler = make({.temperature = 0, .repetition_penalty = 2}, 4);
  EXPECT_EQ(*sampler.sample(logits), 0);
  sampler.accept_prompt(std::vector<int32_t>{0, 0});
  EXPECT_EQ(*sampler.sample(logits), 1);
  sampler.accept(1);
  EXPECT_EQ(*sampler.sample(logits), 0);  // 2 against 1.5
  Sampler negative = make({.temperature = 0, .repetition_penalty = 2}, 2);
  negative.accept(0);
  EXPECT_EQ(*negative.sample(std::vector<float>{-1, -1.5f}), 1);
}

TEST(Sampler, RepetitionWindow) {
  const std::vector<float> logits = {4, 3, 1};
  Sampler sampler = make({.temperature = 0, .repetition_penalty = 2, .repeat_window = 2}, 3);
  sampler.accept_prompt(std::vector<int32_t>{0});
  EXPECT_EQ(*sampler.sample(logits), 1);
  sampler.accept(2);
  EXPECT_EQ(*sampler.sample(logits), 1);
  sampler.accept(2);  // 0 has left the window
  EXPECT_EQ(*sampler.sample(logits), 0);
}

TEST(Sampler, PresenceAndFrequencyCountTheAnswerOnly) {
  const std::vector<float> logits = {4, 3.5f, 1};
  Sampler presence = make({.temperature = 0, .presence_penalty = 1}, 3);
  presence.accept_prompt(std::vector<int32_t>{0, 0, 0});
  EXPECT_EQ(*presence.sample(logits), 0);
  presence.accept(0);
  EXPECT_EQ(*presence.sample(logits), 1);
  presence.accept(1);
  for (int i = 0; i < 9; ++i) presence.accept(0);  // present is present, however often
  EXPECT_EQ(*presence.sample(logits), 0);
  Sampler frequency = make({.temperature = 0, .frequency_penalty = 0.3}, 3);
  frequency.accept(0);
  EXPECT_EQ(*frequency.sample(logits), 0);  // 3.7
  frequency.accept(0);
  EXPECT_EQ(*frequency.sample(logits), 1);  // 3.4
}

TEST(Sampler, LogitBias) {
  const std::vector<float> logits = {4, 3, 1};
  Sampler forced = make({.temperature = 0, .logit_bias = {{2, 100.0f}}}, 3);
  EXPECT_EQ(*forced.sample(logits), 2);
  Sampler banned = make({.temperature = 1, .logit_bias = {{0, -kInfinity}}}, 3);
  for (int i = 0; i < 100; ++i) EXPECT_NE(*banned.sample(logits), 0);
}

TEST(Sampler, Refuses) {
  const SamplerOptions bad[] = {{.temperature = -1},
                                {.temperature = NAN},
                                {.temperature = std::numeric_limits<double>::infinity()},
                                {.top_k = -1},
                                {.top_p = 0},
                                {.top_p = 1.1},
                                {.min_p = -0.1},
                                {.min_p = 2},
                                {.repetition_penalty = 0},
                                {.repeat_window = -1},
                                {.presence_penalty = NAN},
                                {.logit_bias = {{10, 1.0f}}},
                                {.logit_bias = {{-1, 1.0f}}},
                                {.logit_bias = {{1, NAN}}}};
  for (const SamplerOptions& options : bad) {
    const Result<Sampler> sampler = Sampler::create(options, 10);
    ASSERT_FALSE(sampler.ok());
    EXPECT_EQ(sampler.error().code, Code::kInvalidArgument);
  }
}

}  // namespace
}  // namespace westlake
