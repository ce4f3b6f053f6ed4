// The engine as a service sees it: who waits for whom, what is freed when, what an event says.
#include "infer/engine.h"

#include <gtest/gtest.h>

#include <map>

#include "base/rng.h"
#include "infer/test_support.h"

namespace westlake {
namespace {

using Ids = std::vector<int32_t>;

GenerateOptions greedy(int64_t max_tokens) {
  GenerateOptions options;
  options.max_tokens = max_tokens;
  options.sampler.temperature = 0;
  return options;
}

// A prompt of n tokens: the model's known one, again and again.
Ids prompt_of(const Opened& m, int64_t n) {
  Ids ids;
  for (int64_t i = 0; i < n; ++i) ids.push_back(m.tokens[static_cast<size_t>(i) % m.tokens.size()]);
  return ids;
}

// What came for each sequence.
struct Seen {
  Ids ids;
  std::string text;
  int ends = 0;
  std::optional<FinishReason> finish;
  std::optional<Error> error;
  GenerateStats stats;
};

class Driver {
 public:
  Driver(const Opened& m, EngineOptions options, std::unique_ptr<Scheduler> scheduler = nullptr)
      : engine(Opened::value(Engine::create(*m.context, *m.model, std::move(options), std::move(scheduler)))) {}
  StepCost step() {
    StepResult result = engine.step();
    for (const SequenceEvent& e : result.events) {
      Seen& s = seen[e.id];
      EXPECT_EQ(s.ends, 0) << "an event after the end";
      if (e.token >= 0) s.ids.push_back(e.token);
      s.text += e.text;
      EXPECT_FALSE(e.finish && e.error);
      s.ends += e.finish || e.error;
      s.finish = e.finish;
      s.error = e.error;
      s.stats = e.stats;
    }
    return result.cost;
  }
  void run() {
    for (int i = 0; !engine.idle(); ++i) {
      step();
      ASSERT_LT(i, 10000) << "does not come to an end";
    }
  }
  Engine engine;
  std::map<SequenceId, Seen> seen;
};

TEST(Engine, WritesWhatASessionWrites) {
  const Opened m("llama_rope_tied");
  const Tokenizer tokenizer = byte_tokenizer();
  GenerateOptions options = greedy(30);
  for (int32_t id = kUser; id < 288; ++id) options.sampler.logit_bias.emplace_back(id, -1000.0f);
  Session session = m.session();
  const Generated plain = m.value(session.generate(m.tokens, options, &tokenizer, [](int32_t, auto) {}));
  GenerateOptions stopped = options;
  stopped.stop = {plain.text.substr(plain.text.size() / 2, 3)};
  const Generated cut = m.value(session.generate(m.tokens, stopped, &tokenizer, [](int32_t, auto) {}));
  ASSERT_EQ(cut.finish_reason, FinishReason::kStopString);
  GenerateOptions ended = options;
  ended.stop_ids = {plain.ids[9]};

  Driver d(m, {});
  const SequenceId a = m.value(d.engine.submit(m.tokens, options, &tokenizer));
  const SequenceId b = m.value(d.engine.submit(m.tokens, stopped, &tokenizer));
  const SequenceId c = m.value(d.engine.submit(m.tokens, ended, &tokenizer));
  const SequenceId none = m.value(d.engine.submit(m.tokens, greedy(0)));
  d.run();
  EXPECT_EQ(d.seen[a].ids, plain.ids);
  EXPECT_EQ(d.seen[a].text, plain.text);
  EXPECT_EQ(d.seen[a].finish, FinishReason::kLength);
  EXPECT_EQ(d.seen[a].stats.prompt_tokens, static_cast<int64_t>(m.tokens.size()));
  EXPECT_GT(d.seen[a].stats.prefill_s, 0);
  EXPECT_GT(d.seen[a].stats.decode_s, 0);
  EXPECT_EQ(d.seen[b].text, cut.text);
  EXPECT_EQ(d.seen[b].ids, cut.ids);
  EXPECT_EQ(d.seen[b].finish, FinishReason::kStopString);
  EXPECT_EQ(d.seen[c].ids.back(), plain.ids[9]);
  EXPECT_EQ(d.seen[c].finish, FinishReason::kStop);
  EXPECT_EQ(d.seen[none].finish, FinishReason::kLength);
  EXPECT_TRUE(d.seen[none].ids.empty());
  EXPECT_EQ(d.seen.size(), 4u);
}

TEST(Engine, AnIdleStepDoesNothing) {
  const Opened m("qwen3");
  Driver d(m, {});
  EXPECT_TRUE(d.engine.idle());
  const StepCost cost = d.step();
  EXPECT_EQ(cost.prompt_tokens + cost.decode_tokens + cost.running + cost.waiting + cost.used_pages, 0);
  EXPECT_EQ(cost.free_pages, -1);
}

TEST(Engine, ALongPromptMakesNobodyWaitForMoreThanItsPiece) {
  const Opened m("qwen3");
  Driver d(m, {.prompt_tokens = 100, .prompt_tokens_beside_answers = 16});
  const SequenceId writer = m.value(d.engine.submit(prompt_of(m, 20), greedy(60)));
  EXPECT_EQ(d.step().prompt_tokens, 20);
  const SequenceId reader = m.value(d.engine.submit(prompt_of(m, 500), greedy(3)));
  const SequenceId second = m.value(d.engine.submit(prompt_of(m, 30), greedy(3)));
  for (size_t i = 2; i < 30; ++i) {
    const StepCost cost = d.step();
    EXPECT_EQ(d.seen[writer].ids.size(), i);
    EXPECT_EQ(cost.prompt_tokens, 16);
    EXPECT_EQ(cost.decode_tokens, 1 + (d.seen[second].ids.size() > 1));
    EXPECT_EQ(cost.used_pages, d.engine.pools().model->used_pages());
    EXPECT_EQ(cost.kv_bytes, cost.used_pages * d.engine.pools().page_bytes());
    if (d.seen[second].ends > 0) break;
  }
  EXPECT_EQ(d.seen[second].ids.size(), 3u);  // though it came after the long one
  EXPECT_TRUE(d.seen[reader].ids.empty());
  d.run();
  EXPECT_EQ(d.seen[reader].ids.size(), 3u);
  EXPECT_EQ(d.engine.pools().model->used_pages(), 0);
}

TEST(Engine, WaitsForPagesInTurn) {
  const Opened m("qwen3");
  const int64_t page = CachePools(*m.model, false, 0).page_bytes();
  Driver d(m, {.cache_limit_bytes = 4 * page + 5});
  // 64 + 64 positions are two pages, and so on; the last token needs no place.
  const SequenceId a = m.value(d.engine.submit(prompt_of(m, 64), greedy(65)));
  const SequenceId b = m.value(d.engine.submit(prompt_of(m, 150), greedy(30)));
  const SequenceId c = m.value(d.engine.submit(prompt_of(m, 10), greedy(5)));  // would fit, but came later
  StepCost cost = d.step();
  EXPECT_EQ(cost.running, 1);
  EXPECT_EQ(cost.waiting, 2);
  EXPECT_EQ(cost.used_pages, 1);
  EXPECT_EQ(cost.free_pages, 3);
  while (d.seen[a].ends == 0) {
    cost = d.step();
    EXPECT_LE(cost.used_pages, 2);
    EXPECT_TRUE(d.seen[b].ids.empty() && d.seen[c].ids.empty());
  }
  EXPECT_EQ(d.step().running, 2);
  d.run();
  for (SequenceId id : {a, b, c}) EXPECT_EQ(d.seen[id].finish, FinishReason::kLength);

  const Result<SequenceId> never = d.engine.submit(prompt_of(m, 200), greedy(58));
  ASSERT_FALSE(never.ok());
  EXPECT_EQ(never.error().code, Code::kExhausted);
  EXPECT_NE(never.error().message.find("257 positions of cache, there are 256"), std::string::npos)
      << never.error().message;
  EXPECT_TRUE(d.engine.submit(prompt_of(m, 200), greedy(57)).ok());
  EXPECT_EQ(d.engine.submit(prompt_of(m, 10), greedy(-1)).error().code, Code::kExhausted);
}

TEST(Engine, AtMostSoManyAtOnce) {
  const Opened m("qwen3");
  Driver d(m, {.max_sequences = 2});
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(d.engine.submit(prompt_of(m, 5 + i), greedy(4)).ok());
  while (!d.engine.idle()) EXPECT_LE(d.step().running, 2);
  EXPECT_EQ(d.seen.size(), 5u);
}

TEST(Engine, CancelFreesAtOnce) {
  const Opened m("deepseek_v3_mtp");
  Driver d(m, {.max_sequences = 2, .speculation = {.kind = Speculation::kMtp, .always = true}});
  const SequenceId a = m.value(d.engine.submit(prompt_of(m, 100), greedy(50)));
  const SequenceId b = m.value(d.engine.submit(prompt_of(m, 70), greedy(50)));
  const SequenceId waits = m.value(d.engine.submit(prompt_of(m, 7), greedy(50)));
  d.step();
  const int64_t used = d.step().used_pages;
  EXPECT_TRUE(d.engine.cancel(a));
  EXPECT_EQ(d.engine.pools().model->used_pages(), used - 2);
  EXPECT_FALSE(d.engine.cancel(a));
  EXPECT_TRUE(d.engine.cancel(waits));
  EXPECT_TRUE(d.engine.cancel(b));
  EXPECT_TRUE(d.engine.idle());
  EXPECT_EQ(d.engine.pools().model->used_pages(), 0);
  EXPECT_EQ(d.engine.pools().mtp->used_pages(), 0);
  for (const auto& [id, s] : d.seen) EXPECT_EQ(s.ends, 0);
}

TEST(Engine, ARaisedFlagIsHeardAtTheNextStep) {
  const Opened m("qwen3");
  Driver d(m, {.max_sequences = 1});
  std::atomic<bool> cancel{false};
  GenerateOptions options = greedy(50);
  options.cancel = &cancel;
  const SequenceId a = m.value(d.engine.submit(prompt_of(m, 10), options));
  const SequenceId waits = m.value(d.engine.submit(prompt_of(m, 10), options));
  for (int i = 0; i < 4; ++i) d.step();
  cancel = true;
  const StepCost cost = d.step();
  EXPECT_EQ(cost.used_pages, 0);
  for (SequenceId id : {a, waits}) EXPECT_EQ(d.seen[id].finish, FinishReason::kCancelled);
  EXPECT_EQ(d.seen[a].ids.size(), 4u);
  EXPECT_TRUE(d.engine.idle());
}

TEST(Engine, AnErrorEndsItsOwnSequenceAlone) {
  const Opened m("qwen3");
  Driver d(m, {});
  GenerateOptions impossible = greedy(5);
  for (int32_t id = 0; id < m.model->config().vocab_size; ++id)
    impossible.sampler.logit_bias.emplace_back(id, -std::numeric_limits<float>::infinity());
  const SequenceId bad = m.value(d.engine.submit(prompt_of(m, 10), impossible));
  const SequenceId good = m.value(d.engine.submit(m.tokens, greedy(10)));
  d.run();
  ASSERT_TRUE(d.seen[bad].error);
  EXPECT_EQ(d.seen[bad].error->code, Code::kCorrupt);
  EXPECT_EQ(d.seen[good].ids, Ids(m.greedy.begin(), m.greedy.begin() + 10));
}

TEST(Engine, AnotherPolicy) {
  // Lets the last in first, and those with tag 1 sit out every second step.
  class Odd : public FairScheduler {
   public:
    size_t next(std::span<const SequenceLoad> waiting) override { return waiting.size() - 1; }
    void share(std::span<const SequenceLoad> running, int64_t budget, std::span<int64_t> shares) override {
      FairScheduler::share(running, budget, shares);
      ++step_;
      for (size_t i = 0; i < running.size(); ++i) {
        if (running[i].tag == 1 && step_ % 2 == 0) shares[i] = 0;
      }
    }
    int step_ = 0;
  };
  const Opened m("qwen3");
  Driver d(m, {.max_sequences = 2}, std::make_unique<Odd>());
  const SequenceId late = m.value(d.engine.submit(m.tokens, greedy(8)));
  const SequenceId fast = m.value(d.engine.submit(m.tokens, greedy(8), nullptr, 0));
  const SequenceId slow = m.value(d.engine.submit(m.tokens, greedy(8), nullptr, 1));
  for (int i = 0; i < 8; ++i) d.step();
  EXPECT_EQ(d.seen[fast].ids.size(), 8u);
  EXPECT_EQ(d.seen[slow].ids.size(), 4u);
  EXPECT_TRUE(d.seen[late].ids.empty());
  d.run();
  EXPECT_EQ(d.seen[slow].ids, d.seen[fast].ids);
  EXPECT_EQ(d.seen[late].ids, d.seen[fast].ids);
}

TEST(Engine, ReportsDrafts) {
  for (const Speculation kind : {Speculation::kLookup, Speculation::kMtp}) {
    const Opened m("deepseek_v3_mtp");
    Driver d(m, {.speculation = {.kind = kind, .most_drafts = 3, .always = true}});
    const SequenceId id = m.value(d.engine.submit(prompt_of(m, 130), greedy(60)));
    int64_t drafted = 0, accepted = 0, rows = 0, steps = 0;
    while (!d.engine.idle()) {
      const StepCost cost = d.step();
      drafted += cost.drafted_tokens;
      accepted += cost.accepted_tokens;
      rows += cost.decode_tokens;
      steps += cost.decode_tokens > 0;
    }
    EXPECT_EQ(d.seen[id].ids.size(), 60u);
    EXPECT_EQ(d.seen[id].stats.drafted_tokens, drafted);
    EXPECT_EQ(d.seen[id].stats.accepted_tokens, accepted);
    EXPECT_EQ(rows, steps + drafted);
    EXPECT_EQ(steps, 59 - accepted);  // the first comes with the prompt, each other from a step or a draft
    EXPECT_GT(drafted, 0);
  }
}

TEST(Engine, Refuses) {
  const Opened m("qwen3");
  const auto create = [&](EngineOptions options) {
    const Result<Engine> engine = Engine::create(*m.context, *m.model, options);
    return engine.ok() ? Code::kCancelled : engine.error().code;
  };
  EXPECT_EQ(create({.context = 50000}), Code::kInvalidArgument);
  EXPECT_EQ(create({.cache_limit_bytes = -1}), Code::kInvalidArgument);
  EXPECT_EQ(create({.max_sequences = 0}), Code::kInvalidArgument);
  EXPECT_EQ(create({.prompt_tokens = 0}), Code::kInvalidArgument);
  EXPECT_EQ(create({.prompt_tokens_beside_answers = 0}), Code::kInvalidArgument);
  EXPECT_EQ(create({.speculation = {.kind = Speculation::kMtp}}), Code::kUnsupported);
  Engine engine = m.value(Engine::create(*m.context, *m.model, {.context = 20}));
  EXPECT_EQ(engine.submit({}, greedy(1)).error().code, Code::kInvalidArgument);
  EXPECT_EQ(engine.submit(Ids{1, 256}, greedy(1)).error().code, Code::kInvalidArgument);
  EXPECT_EQ(engine.submit(prompt_of(m, 21), greedy(1)).error().message, "prompt is 21 tokens, context 20");
  GenerateOptions bad = greedy(1);
  bad.stop = {"x"};
  EXPECT_EQ(engine.submit(Ids{1}, bad).error().code, Code::kInvalidArgument);
  bad = greedy(1);
  bad.sampler.temperature = -1;
  EXPECT_EQ(engine.submit(Ids{1}, bad).error().code, Code::kInvalidArgument);
  EXPECT_TRUE(engine.idle());
}

// Requests of all kinds come and go for a while in a small cache. Each that is not cancelled ends once, with the text
// that it has alone.
TEST(Engine, Crowd) {
  const Opened m("deepseek_v3_mtp", available_kernels().back()->name, 2);
  const int64_t page = CachePools(*m.model, true, 0).page_bytes();
  for (const Speculation kind : {Speculation::kOff, Speculation::kLookup, Speculation::kMtp}) {
    Driver d(m, {.context = 300,
                 .cache_limit_bytes = 9 * page,
                 .max_sequences = 5,
                 .prompt_tokens = 50,
                 .prompt_tokens_beside_answers = 20,
                 .speculation = {.kind = kind, .most_drafts = 3, .always = true}});
    Rng rng(8);
    std::map<SequenceId, std::pair<Ids, GenerateOptions>> asked;
    for (int step = 0; step < 120 || !d.engine.idle(); ++step) {
      ASSERT_LT(step, 5000);
      if (step < 120 && rng.below(3) == 0) {
        GenerateOptions options = greedy(static_cast<int64_t>(rng.below(40)));
        options.sampler.temperature = static_cast<double>(rng.below(2));
        options.sampler.seed = rng.next();
        const Ids prompt = prompt_of(m, 1 + static_cast<int64_t>(rng.below(120)));
        asked[m.value(d.engine.submit(prompt, options))] = {prompt, options};
      }
      if (!asked.empty() && rng.below(12) == 0) {
        const auto one = std::next(asked.begin(), static_cast<ptrdiff_t>(rng.below(asked.size())));
        if (d.engine.cancel(one->first)) {
          EXPECT_EQ(d.seen[one->first].ends, 0);
          asked.erase(one);
        }
      }
      const StepCost cost = d.step();
      ASSERT_LE(cost.used_pages, 9);
      ASSERT_LE(d.engine.pools().allocated_bytes(), 9 * page);
    }
    EXPECT_EQ(d.engine.pools().model->used_pages(), 0);
    EXPECT_GT(asked.size(), 20u);
    Session session = m.session();
    for (const auto& [id, request] : asked) {
      ASSERT_EQ(d.seen[id].ends, 1) << id;
      EXPECT_FALSE(d.seen[id].error) << d.seen[id].error->message;
      session.truncate(0);
      const Generated alone = m.value(session.generate(request.first, request.second, nullptr, [](int32_t, auto) {}));
      EXPECT_EQ(d.seen[id].ids, alone.ids) << id;
    }
  }
}

}  // namespace
}  // namespace westlake
