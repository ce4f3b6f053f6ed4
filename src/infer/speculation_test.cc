// Drafts: where they come from, when they pay, and that they change neither a text nor a distribution.
#include "infer/speculation.h"

#include <gtest/gtest.h>

#include <map>

#include "base/rng.h"
#include "infer/mtp_drafts.h"
#include "infer/test_support.h"

namespace westlake {
namespace {

using Ids = std::vector<int32_t>;

TEST(LookupDrafts, WhatFollowedTheLastTime) {
  EXPECT_EQ(lookup_drafts(Ids{1, 2, 3, 4, 9, 1}, 2, 2), (Ids{3, 4}));
  EXPECT_EQ(lookup_drafts(Ids{1, 2, 3, 9, 1, 2, 4, 8, 1}, 2, 1), (Ids{4}));     // the latest of equals
  EXPECT_EQ(lookup_drafts(Ids{7, 1, 2, 3, 9, 1, 2, 4, 7, 1}, 2, 1), (Ids{3}));  // the longest match
  EXPECT_EQ(lookup_drafts(Ids{1, 2, 3}, 3, 4), (Ids{}));                        // one token is no match
  EXPECT_EQ(lookup_drafts(Ids{}, 3, 4), (Ids{}));
  EXPECT_EQ(lookup_drafts(Ids{5}, 5, 3), (Ids{}));
  EXPECT_EQ(lookup_drafts(Ids{5, 5}, 5, 3), (Ids{5, 5, 5}));                       // runs into itself
  EXPECT_EQ(lookup_drafts(Ids{1, 2, 3, 1, 2, 3, 1}, 2, 5), (Ids{3, 1, 2, 3, 1}));  // and goes round
}

TEST(LookupDrafts, AgainstTheDefinition) {
  Rng rng(3);
  for (int round = 0; round < 2000; ++round) {
    Ids text(rng.below(40));
    for (int32_t& id : text) id = static_cast<int32_t>(rng.below(3));
    const auto next = static_cast<int32_t>(rng.below(3));
    Ids all = text;
    all.push_back(next);
    const auto n = static_cast<int64_t>(all.size());
    int64_t best = -1, best_length = 1;
    for (int64_t i = n - 2; i >= 0; --i) {
      int64_t length = 0;
      while (length < 16 && length <= i && all[i - length] == all[n - 1 - length]) ++length;
      if (length > best_length) {
        best = i;
        best_length = length;
      }
    }
    Ids expected;
    for (int64_t i = best + 1; best >= 0 && expected.size() < 7; ++i) {
      expected.push_back(all[i]);
      all.push_back(all[i]);
    }
    ASSERT_EQ(lookup_drafts(text, next, 7), expected) << "round " << round;
  }
}

TEST(StepTimes, FitsALine) {
  StepTimes times;
  EXPECT_EQ(times.seconds(3), 0);
  times.add(1, 0.1);
  EXPECT_NEAR(times.seconds(1), 0.1, 1e-9);
  EXPECT_GT(times.per_row(), 0);
  for (int i = 0; i < 100; ++i) times.add(1 + i % 4, 0.08 + 0.02 * (1 + i % 4));
  EXPECT_NEAR(times.per_row(), 0.02, 0.001);
  EXPECT_NEAR(times.seconds(1), 0.1, 0.002);
  EXPECT_NEAR(times.seconds(6), 0.2, 0.005);
  times.add(1, 1000);  // the machine was busy
  EXPECT_LT(times.seconds(1), 0.2);
  for (int i = 0; i < 200; ++i) times.add(1 + i % 4, 0.3 + 0.1 * (1 + i % 4));  // a longer context
  EXPECT_NEAR(times.per_row(), 0.1, 0.005);
}

// Tokens of 1000 steps where a draft is right with probability p.
struct Outcome {
  int64_t drafted = 0, accepted = 0;
};
Outcome simulate(DraftGovernor& governor, double row_share, double p, int steps, uint64_t seed) {
  StepTimes times;
  for (int i = 0; i < 50; ++i) times.add(1 + i % 3, 1 + row_share * (i % 3));
  Rng rng(seed);
  Outcome out;
  for (int i = 0; i < steps; ++i) {
    StepEstimate step{times.seconds(1), 1};
    const int64_t k = governor.decide(times, {.kind = Speculation::kLookup}, 100, &step);
    int64_t right = 0;
    while (right < k && rng.uniform() < p) ++right;
    governor.add(k, right);
    out.drafted += k;
    out.accepted += right;
  }
  return out;
}

TEST(DraftGovernor, DraftsWhereItPays) {
  DraftGovernor good;
  EXPECT_GT(simulate(good, 0.1, 0.9, 1000, 1).drafted, 4000);
  EXPECT_NEAR(good.chance(), 0.9, 0.2);
  DraftGovernor bad;
  EXPECT_LT(simulate(bad, 0.1, 0.02, 1000, 2).drafted, 100);
  // Right half of the time, but a row costs as much as a step of its own.
  DraftGovernor dear;
  EXPECT_LT(simulate(dear, 1, 0.5, 1000, 3).drafted, 100);
  // A text that begins to repeat itself is noticed.
  EXPECT_GT(simulate(bad, 0.1, 1, 1500, 4).drafted, 4000);
}

TEST(DraftGovernor, Limits) {
  StepTimes times;
  times.add(1, 1);
  DraftGovernor governor;
  StepEstimate step{1, 1};
  EXPECT_EQ(governor.decide(times, {.kind = Speculation::kOff}, 9, &step), 0);
  EXPECT_EQ(governor.decide(times, {.kind = Speculation::kLookup, .most_drafts = 3, .always = true}, 9, &step), 3);
  EXPECT_EQ(governor.decide(times, {.kind = Speculation::kLookup, .most_drafts = 3, .always = true}, 2, &step), 2);
  EXPECT_EQ(governor.decide(times, {.kind = Speculation::kLookup, .always = true}, 0, &step), 0);
  EXPECT_EQ(governor.decide(times, {.kind = Speculation::kLookup, .always = true}, -1, &step), 0);
  // A batch so large that a row brings less than its share.
  StepEstimate full{1, 100};
  EXPECT_EQ(governor.decide(times, {.kind = Speculation::kLookup}, 9, &full), 0);
}

TEST(Speculation, Names) {
  const Opened plain("qwen3"), mtp("deepseek_v3_mtp");
  EXPECT_EQ(speculation_by_name("auto", *plain.model).value(), Speculation::kLookup);
  EXPECT_EQ(speculation_by_name("auto", *mtp.model).value(), Speculation::kMtp);
  EXPECT_EQ(speculation_by_name("off", *mtp.model).value(), Speculation::kOff);
  EXPECT_EQ(speculation_by_name("lookup", *mtp.model).value(), Speculation::kLookup);
  EXPECT_EQ(speculation_by_name("eagle", *mtp.model).error().code, Code::kInvalidArgument);
  SessionOptions options;
  options.speculation.kind = Speculation::kMtp;
  EXPECT_TRUE(Session::create(*mtp.context, *mtp.model, options).ok());
  EXPECT_EQ(Session::create(*plain.context, *plain.model, options).error().code, Code::kUnsupported);
  options.speculation = {.kind = Speculation::kLookup, .most_drafts = 0};
  EXPECT_EQ(Session::create(*plain.context, *plain.model, options).error().code, Code::kInvalidArgument);
}

// The first draft of the module is what forward_mtp over the whole text says, whatever the pieces in which the module
// followed the model.
TEST(MtpDrafts, AreTheModules) {
  const Opened m("deepseek_v3_mtp");
  const auto D = static_cast<size_t>(m.model->config().hidden_size),
             V = static_cast<size_t>(m.model->config().vocab_size);
  const int64_t n = static_cast<int64_t>(m.tokens.size()) - 1;
  CachePools pools(*m.model, true, 0);
  const auto prefill = [&](Sequence& s, int64_t begin, int64_t end) {
    std::vector<float> normed(static_cast<size_t>(end - begin) * D), logits(V);
    const auto rows = std::span(m.tokens).subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
    const Segment segment = s.extend(rows, MlaForm::kExpanded, end - begin).value();
    m.model->forward(*m.context, {&segment, 1}, kPageTokens, logits.data(), normed.data());
    s.keep(end - begin, normed.data());
    return normed;
  };
  Sequence whole(*m.model, pools);
  const std::vector<float> normed = prefill(whole, 0, n);
  SequenceCache cache(*pools.mtp);
  ASSERT_TRUE(cache.ensure(n).ok());
  const Segment segment = {.tokens = std::span(m.tokens).subspan(1), .pages = cache.pages(), .logits_from = n - 1};
  std::vector<float> logits(V);
  m.model->forward_mtp(*m.context, 0, normed.data(), {&segment, 1}, kPageTokens, logits.data());
  const auto expected = static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());

  Sequence pieces(*m.model, pools);
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 35}, {35, 36}, {36, n}}) {
    prefill(pieces, begin, end);
    mtp_follow(*m.context, *m.model, pieces);
  }
  EXPECT_GT(pieces.mtp()->cache.length(), 30);
  std::vector<DraftRequest> requests = {{&whole, m.tokens.back(), 1, {}}, {&pieces, m.tokens.back(), 4, {}}};
  mtp_drafts(*m.context, *m.model, requests);
  ASSERT_EQ(requests[0].drafts.size(), 1u);
  ASSERT_EQ(requests[1].drafts.size(), 4u);
  EXPECT_EQ(requests[0].drafts[0], expected);
  EXPECT_EQ(requests[1].drafts[0], expected);
  EXPECT_EQ(pieces.mtp()->cache.length(), n);  // the drafts' rows are gone
  mtp_drafts(*m.context, *m.model, requests);  // and without a new state there are no more
  EXPECT_TRUE(requests[0].drafts.empty());
}

// The exact distribution of the second token after a prompt, by id: sum over the first.
std::map<int32_t, double> second_token(const Opened& m, std::span<const int32_t> prompt, int64_t top_k) {
  auto best = [&](std::span<const float> logits) {
    std::vector<std::pair<float, int32_t>> all;
    for (size_t i = 0; i < logits.size(); ++i) all.emplace_back(-logits[i], static_cast<int32_t>(i));
    std::sort(all.begin(), all.end());
    all.resize(static_cast<size_t>(top_k));
    std::map<int32_t, double> p;
    double total = 0;
    for (const auto& [negative, id] : all) total += p[id] = std::exp(all[0].first - negative);
    for (auto& [id, x] : p) x /= total;
    return p;
  };
  Session s = m.session();
  std::map<int32_t, double> sum;
  for (const auto& [first, p] : best(m.copy(s.sync(prompt)))) {
    for (const auto& [second, q] : best(m.copy(s.decode(first)))) sum[second] += p * q;
    s.truncate(static_cast<int64_t>(prompt.size()));
  }
  return sum;
}

// Drafts are forced on a sampled text: the second token is drawn from the row that a draft was checked against, and is
// the draft's successor or its replacement. Its distribution must be the model's.
TEST(Speculation, SamplesTheModelsDistribution) {
  constexpr int kDraws = 6000;
  constexpr int64_t kTopK = 6;
  const Opened m("qwen3", available_kernels().back()->name);
  // Every first token that may come has stood behind the prompt's last one, with something after it.
  Session session = m.session({.speculation = {.kind = Speculation::kLookup, .most_drafts = 2, .always = true}});
  Ids prompt;
  for (int32_t id = 0; id < m.model->config().vocab_size; id += 2) prompt.insert(prompt.end(), {7, id, id});
  prompt.push_back(7);
  const std::map<int32_t, double> expected = second_token(m, prompt, kTopK);
  std::map<int32_t, int> counts;
  int64_t drafted = 0, accepted = 0;
  for (int i = 0; i < kDraws; ++i) {
    GenerateOptions options;
    options.max_tokens = 3;
    options.sampler = {.top_k = kTopK, .seed = static_cast<uint64_t>(i)};
    const Generated out = m.value(session.generate(prompt, options, nullptr, [](int32_t, auto) {}));
    ++counts[out.ids[1]];
    drafted += out.stats.drafted_tokens;
    accepted += out.stats.accepted_tokens;
  }
  EXPECT_GT(drafted, kDraws / 4);
  EXPECT_GT(accepted, 0);
  double chi = 0, freedom = -1;
  for (const auto& [id, count] : counts) EXPECT_TRUE(expected.contains(id)) << id;
  for (const auto& [id, p] : expected) {
    const double e = p * kDraws;
    if (e < 5) continue;
    chi += (counts[id] - e) * (counts[id] - e) / e;
    freedom += 1;
  }
  EXPECT_GT(freedom, 4);
  EXPECT_LT(chi, freedom + 5 * std::sqrt(2 * freedom));
}

}  // namespace
}  // namespace westlake
