// The same text, bit for bit: alone or in company, in any pieces, on any number of threads, with drafts or without.
#include <gtest/gtest.h>

#include "base/rng.h"
#include "infer/engine.h"
#include "infer/test_support.h"

namespace westlake {
namespace {

constexpr int64_t kAnswer = 24;

// A text and everything it was sampled from.
struct Trace {
  std::vector<int32_t> ids;
  std::vector<float> logits;  // [ids, V]
  int64_t drafted = 0, accepted = 0;
};

struct Setting {
  std::string name;
  bool company = false;
  EngineOptions engine;
};

// Seven others; some are there before, some come later, some leave early, one is cancelled.
class Company {
 public:
  Company(const Opened& m, Engine& engine) : m_(m), engine_(engine), rng_(5) {
    for (int i = 0; i < 3; ++i) join(i);
  }
  void before_step(int step) {
    if (step == 2) cancelled_ = join(3);
    if (step == 3) join(4);
    EXPECT_TRUE(step != 7 || engine_.cancel(cancelled_));
    if (step == 9 || step == 12) join(step);
  }

 private:
  SequenceId join(int i) {
    const size_t n = 1 + rng_.below(m_.tokens.size());
    std::vector<int32_t> prompt(m_.tokens.end() - static_cast<ptrdiff_t>(n), m_.tokens.end());
    for (int32_t& id : prompt) id = (id + i) % static_cast<int32_t>(m_.model->config().vocab_size);
    GenerateOptions options;
    options.max_tokens = 8 + 2 * i;
    options.sampler.temperature = i % 2;
    options.sampler.seed = static_cast<uint64_t>(i);
    return m_.value(engine_.submit(prompt, options));
  }
  const Opened& m_;
  Engine& engine_;
  Rng rng_;
  SequenceId cancelled_ = 0;
};

Trace trace(const Opened& m, const Setting& setting, const SamplerOptions& sampler) {
  Trace out;
  SequenceId target = 0;
  EngineOptions engine_options = setting.engine;
  engine_options.on_logits = [&](SequenceId id, int64_t, std::span<const float> logits) {
    if (id == target) out.logits.insert(out.logits.end(), logits.begin(), logits.end());
  };
  Engine engine = m.value(Engine::create(*m.context, *m.model, engine_options));
  std::optional<Company> company;
  if (setting.company) company.emplace(m, engine);
  GenerateOptions options;
  options.max_tokens = kAnswer;
  options.sampler = sampler;
  target = m.value(engine.submit(m.tokens, options));
  for (int step = 0; !engine.idle(); ++step) {
    if (company) company->before_step(step);
    for (const SequenceEvent& event : engine.step().events) {
      if (event.id != target) continue;
      EXPECT_FALSE(event.error) << event.error->message;
      if (event.token >= 0) out.ids.push_back(event.token);
      out.drafted += event.stats.drafted_tokens;
      out.accepted += event.stats.accepted_tokens;
    }
  }
  EXPECT_EQ(engine.pools().model->used_pages(), 0);
  return out;
}

SpeculationOptions forced(Speculation kind, int64_t most) {
  return {.kind = kind, .most_drafts = most, .always = true};
}

std::vector<Setting> settings(const Model& model) {
  std::vector<Setting> all;
  all.push_back({"in company", true, {}});
  for (int64_t piece : {1, 3, 64}) {
    all.push_back({fmt::format("pieces of {}", piece), false, {.prompt_tokens = piece}});
    all.push_back({fmt::format("pieces of {} in company", piece),
                   true,
                   {.prompt_tokens = piece, .prompt_tokens_beside_answers = piece}});
  }
  for (int64_t most : {1, 5}) {
    all.push_back({fmt::format("lookup of {}", most), false, {.speculation = forced(Speculation::kLookup, most)}});
    all.push_back(
        {fmt::format("lookup of {} in company", most), true, {.speculation = forced(Speculation::kLookup, most)}});
    if (model.weights().mtp.empty()) continue;
    all.push_back({fmt::format("MTP of {}", most), false, {.speculation = forced(Speculation::kMtp, most)}});
    all.push_back({fmt::format("MTP of {} in company", most),
                   true,
                   {.prompt_tokens_beside_answers = 7, .speculation = forced(Speculation::kMtp, most)}});
  }
  all.push_back({"lookup as it pays", true, {.speculation = {.kind = Speculation::kLookup}}});
  return all;
}

struct Case {
  const char* model;
  std::optional<DType> quant;
};

class Determinism : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Models, Determinism,
                         ::testing::Values(Case{"qwen3", {}}, Case{"deepseek_v3_mtp", {}}, Case{"deepseek_v2_lite", {}},
                                           Case{"qwen3", DType::kQ4_0}, Case{"qwen3_moe", DType::kQ8_0},
                                           Case{"deepseek_v3_mtp", DType::kQ4_0}, Case{"qwen3", DType::kBF16},
                                           Case{"deepseek_v3_mtp", DType::kBF16}),
                         [](const auto& info) {
                           std::string name = info.param.model;
                           return name + "_" + std::string(info.param.quant ? dtype_name(*info.param.quant) : "F32");
                         });

// Greedy and sampled.
constexpr double kTemperatures[] = {0, 1};

SamplerOptions sampler_at(double temperature) {
  return {.temperature = temperature, .top_p = 0.9, .seed = 17};
}

// Holds settings against the sequence alone: every `stride`-th, at one temperature after the other.
void expect_same(const Opened& m, const std::vector<Trace>& expected, size_t stride, const std::string& where) {
  const std::vector<Setting> all = settings(*m.model);
  for (size_t i = 0; i < all.size(); i += stride) {
    const size_t which = i / stride % 2;
    const Trace t = trace(m, all[i], sampler_at(kTemperatures[which]));
    EXPECT_EQ(t.ids, expected[which].ids) << where << all[i].name;
    EXPECT_TRUE(same_bits(t.logits, expected[which].logits)) << where << all[i].name;
    EXPECT_TRUE(all[i].engine.speculation.kind != Speculation::kMtp || t.drafted > 0) << all[i].name;
  }
}

TEST_P(Determinism, SameTextAndLogits) {
  for (const KernelTable* kernels : available_kernels()) {
    std::vector<Trace> expected;
    for (int threads : {1, 2, 3}) {
      const bool fastest = kernels == available_kernels().back();
      if (threads > 1 && !fastest) continue;
      const Opened m(GetParam().model, kernels->name, threads, GetParam().quant);
      if (threads == 1) {
        for (double temperature : kTemperatures) expected.push_back(trace(m, {}, sampler_at(temperature)));
        ASSERT_EQ(expected[0].ids.size(), static_cast<size_t>(kAnswer));
      }
      expect_same(m, expected, threads == 1 ? 1 : 3, fmt::format("{}, {} threads: ", kernels->name, threads));
    }
  }
}

// Where keys and values are kept in int8: a text longer than a piece of keys that threads share.
TEST(DeterminismInt8Cache, SameTextAndLogits) {
  for (const char* preset : {"tiny-deepseek-v3", "tiny-llama"}) {
    ModelConfig config = synth_config(preset).value();
    config.hidden_size = 1088;  // narrower models keep float32
    config.num_hidden_layers = 2;
    if (config.mla()) {
      config.kv_lora_rank = 128;
      config.qk_rope_head_dim = 64;
      config.qk_nope_head_dim = config.v_head_dim = 64;
    } else {
      config.head_dim = 64;
    }
    std::vector<Trace> expected;
    for (int threads : {1, 2, 3}) {
      const Opened m(config, 540, available_kernels().back()->name, threads);
      for (double temperature : kTemperatures) {
        if (threads == 1) expected.push_back(trace(m, {}, sampler_at(temperature)));
      }
      expect_same(m, expected, threads == 1 ? 2 : 5, fmt::format("{}, {} threads: ", preset, threads));
    }
  }
}

// One sequence in a session is that sequence in an engine.
TEST_P(Determinism, SessionEqualsEngine) {
  const Opened m(GetParam().model, available_kernels().back()->name, 2, GetParam().quant);
  const Trace expected = trace(m, {}, {.temperature = 0});
  Session session = m.session({.chunk = 11});
  std::vector<float> logits = m.copy(session.sync(m.tokens));
  std::vector<float> all = logits;
  for (size_t i = 0; i + 1 < expected.ids.size(); ++i) {
    logits = m.copy(session.decode(expected.ids[i]));
    all.insert(all.end(), logits.begin(), logits.end());
  }
  EXPECT_TRUE(same_bits(all, expected.logits));
  for (const Setting& setting : settings(*m.model)) {
    Session other = m.session({.speculation = setting.engine.speculation});
    GenerateOptions options;
    options.max_tokens = kAnswer;
    options.sampler.temperature = 0;
    for (int turn = 0; turn < 2; ++turn) {  // the second finds the prompt in the cache
      const Generated out = m.value(other.generate(m.tokens, options, nullptr, [](int32_t, auto) {}));
      EXPECT_EQ(out.ids, expected.ids) << setting.name << ", turn " << turn;
    }
  }
}

}  // namespace
}  // namespace westlake
