// The count of bytes and operations against counts by hand and by the profile of a real pass.
#include <gtest/gtest.h>

#include "model/checkpoint.h"
#include "plan/cost.h"
#include "plan/predict.h"

namespace westlake {
namespace {

const std::string kModels = WESTLAKE_SOURCE_DIR "/tests/golden/models/";

struct Opened {
  explicit Opened(const std::string& name) {
    checkpoint = std::make_unique<Checkpoint>(Checkpoint::open(kModels + name).value());
    model = std::make_unique<Model>(Model::bind(*checkpoint).value());
  }
  std::unique_ptr<Checkpoint> checkpoint;
  std::unique_ptr<Model> model;
  ThreadPool pool{1};
  Context ctx{*kernels_by_name(""), pool};
};

TEST(Cost, ExpectedExperts) {
  EXPECT_DOUBLE_EQ(expected_experts(64, 6, 1), 6);
  EXPECT_NEAR(expected_experts(64, 6, 2), 6 + 6 * (1 - 6.0 / 64), 1e-12);
  EXPECT_NEAR(expected_experts(64, 6, 10000), 64, 1e-9);
}

TEST(Cost, ADenseTokenReadsEachMatrixOnce) {
  const Opened m("qwen3");
  const Weights& w = m.model->weights();
  int64_t bytes = w.lm_head.bytes() + w.embed_tokens.row_bytes, numbers = w.lm_head.rows * w.lm_head.cols;
  for (const LayerWeights& l : w.layers) {
    for (const Mat* mat : {&l.gqa.q_proj, &l.gqa.k_proj, &l.gqa.v_proj, &l.gqa.o_proj, &l.mlp.gate_proj, &l.mlp.up_proj,
                           &l.mlp.down_proj}) {
      bytes += mat->bytes();
      numbers += mat->rows * mat->cols;
    }
  }
  const StepCost one = step_cost(*m.model, {.start = 9}, false);
  EXPECT_EQ(one.weight_bytes, bytes);
  EXPECT_EQ(one.int8_ops + one.float_ops, 2 * numbers);
  const ModelConfig& c = m.model->config();
  EXPECT_EQ(one.cache_bytes, 10 * c.num_hidden_layers * c.kv_width() * 4);
  EXPECT_EQ(one.attention_ops, 2 * 10 * c.num_hidden_layers * c.num_attention_heads * 2 * c.head_dim);

  // Eight sequences: the weights once, the rest eight times.
  const StepCost eight = step_cost(*m.model, {.sequences = 8, .start = 9, .logits_rows = 8}, false);
  EXPECT_EQ(eight.weight_bytes, bytes + 7 * w.embed_tokens.row_bytes);
  EXPECT_EQ(eight.cache_bytes, 8 * one.cache_bytes);
  EXPECT_EQ(eight.ops(), 8 * one.ops());
  int64_t of_products = 0;
  for (const ProductCost& p : eight.products) of_products += p.ops;
  EXPECT_EQ(of_products, eight.int8_ops + eight.float_ops);
}

// What the timers in the layers count is what cost.h counts.
TEST(Cost, EqualsTheProfileOfARealPass) {
  for (const char* name : {"qwen3", "qwen3_moe", "deepseek_v2_lite", "deepseek_v3_mtp"}) {
    Opened m(name);
    const CacheShape shape = m.model->cache_shape(64);
    std::vector<float> cache(shape.page_floats()), logits(m.model->config().vocab_size);
    float* page = cache.data();
    const std::vector<int32_t> tokens = {1, 2, 3, 4, 5};
    Segment prompt{.tokens = tokens, .pages = &page, .logits_from = 4};
    m.model->forward(m.ctx, {&prompt, 1}, 64, logits.data());
    Profile profile;
    m.ctx.profile = &profile;
    Segment next{.tokens = std::span(tokens).first(1), .start = 5, .form = MlaForm::kAbsorbed, .pages = &page};
    m.model->forward(m.ctx, {&next, 1}, 64, logits.data());
    int64_t bytes = 0, ops = 0;
    for (const Profile::Entry& e : profile.entries()) {
      EXPECT_GE(e.ns, 0) << e.name;
      bytes += e.work.bytes;
      ops += e.work.int8_ops + e.work.float_ops;
    }
    const StepCost cost = step_cost(*m.model, {.start = 5}, m.ctx.exact);
    EXPECT_EQ(ops, cost.ops()) << name;
    EXPECT_EQ(bytes + m.model->weights().embed_tokens.row_bytes, cost.bytes()) << name;
  }
}

TEST(Cost, RoofIsTheSlowerOfMemoryAndArithmetic) {
  StepCost cost;
  cost.weight_bytes = 40'000'000'000;
  cost.int8_ops = 1'000'000'000'000;
  Roof roof{.read_gb_s = 40, .f32_gflop_s = 100, .int8_gop_s = 500, .bf16_gflop_s = 200};
  EXPECT_NEAR(roof_seconds(cost, roof, false), 2, 1e-9);
  roof.read_gb_s = 10;
  EXPECT_NEAR(roof_seconds(cost, roof, false), 4, 1e-9);
}

TEST(Predict, IsBelowTheRoofAndAboveZero) {
  Opened m("deepseek_v2_lite");
  const Prediction p = predict(m.ctx, *m.model, {30, 200, 400, 0}, 32, 16, 8);
  EXPECT_GT(p.prefill_tok_s, 0);
  EXPECT_GT(p.decode_tok_s, 0);
  EXPECT_LT(p.decode_tok_s, p.decode_roof_tok_s);
}

}  // namespace
}  // namespace westlake
