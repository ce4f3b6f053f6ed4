// The model under training as a whole: against published references, differences, documents, parts of a batch, memory.
#include "model/train_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "base/file.h"
#include "base/rng.h"
#include "formats/npy.h"
#include "model/checkpoint.h"

namespace westlake {
namespace {

const std::string kModels = WESTLAKE_SOURCE_DIR "/tests/golden/models/";

ModelConfig config_of(const std::string& json) {
  auto config = ModelConfig::from_json(json, "test");
  EXPECT_TRUE(config.ok()) << config.error().message;
  return *config;
}

// Small, and with everything: low-rank queries, groups, shared experts, a dense layer, an MTP module.
ModelConfig small_v3() {
  return config_of(R"({"model_type": "deepseek_v3", "vocab_size": 40, "hidden_size": 24, "intermediate_size": 20,
    "moe_intermediate_size": 10, "num_hidden_layers": 2, "num_nextn_predict_layers": 1, "num_attention_heads": 2,
    "q_lora_rank": 12, "kv_lora_rank": 8, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 6,
    "n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 4, "topk_group": 2,
    "norm_topk_prob": true, "routed_scaling_factor": 2.5, "first_k_dense_replace": 1, "rms_norm_eps": 1e-6})");
}

ModelConfig small_qwen3() {
  return config_of(R"({"model_type": "qwen3", "vocab_size": 40, "hidden_size": 24, "intermediate_size": 20,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "tie_word_embeddings": true})");
}

// Tokens in documents of several lengths, and some without a target.
struct TestBatch {
  TestBatch(int64_t B, int64_t T, int64_t V, uint64_t seed) : B(B), T(T) {
    Rng rng(seed);
    for (int64_t i = 0; i < B * T; ++i) {
      inputs.push_back(static_cast<int32_t>(rng.below(V)));
      targets.push_back(rng.below(8) == 0 ? -1 : static_cast<int32_t>(rng.below(V)));
      const int64_t at = i % T;
      doc_start.push_back(static_cast<int32_t>(at == 0 ? 0 : rng.below(5) == 0 ? at : doc_start.back()));
    }
  }
  TrainBatch view(int64_t first = 0, int64_t rows = -1) const {
    const int64_t at = first * T;
    return {rows < 0 ? B : rows, T, inputs.data() + at, targets.data() + at, doc_start.data() + at};
  }
  int64_t B, T;
  std::vector<int32_t> inputs, targets, doc_start;
};

template <typename Real>
struct Trainer {
  Trainer(const TrainModel<Real>& trained, const TrainKernels<Real>& kernels, int64_t B, int64_t T,
          const TrainOptions& options, int threads = 2)
      : model(trained), pool(threads), ctx{kernels, pool, arena} {
    planned_bytes = model.plan(ctx, B, T, options);
    arena.reserve(planned_bytes);
    model.pack_weights(ctx);
    model.zero_grads(ctx);
  }
  TrainModel<Real> model;
  ThreadPool pool;
  Arena arena;
  TrainContext<Real> ctx;
  int64_t planned_bytes = 0;
};

template <typename Real>
TrainModel<Real> random_model(const ModelConfig& config) {
  auto model = TrainModel<Real>::create(config);
  EXPECT_TRUE(model.ok()) << model.error().message;
  model->initialise(7, 0.3);
  return *model;
}

double cross_entropy(const float* logits, int64_t V, int32_t target) {
  const double most = *std::max_element(logits, logits + V);
  double sum = 0;
  for (int64_t v = 0; v < V; ++v) sum += std::exp(logits[v] - most);
  return most + std::log(sum) - logits[target];
}

// Loss and mtp loss from the logits that the independent implementation gives.
TEST(TrainModel, LossOfPublishedArchitectures) {
  int seen = 0;
  for (const auto& entry : std::filesystem::directory_iterator(kModels)) {
    const std::string folder = entry.path().string();
    const auto checkpoint = Checkpoint::open(folder);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
    auto model = TrainModel<float>::create(checkpoint->config());
    if (checkpoint->config().fp8) {
      EXPECT_FALSE(model.ok());
      continue;
    }
    ASSERT_TRUE(model.ok()) << model.error().message;
    const Status loaded = model->load(*checkpoint);
    ASSERT_TRUE(loaded.ok()) << loaded.error().message;
    const auto tokens_file = Npy::open(folder + "/tokens.npy"), logits_file = Npy::open(folder + "/logits.npy");
    const std::vector<int32_t> tokens = *tokens_file->int32s();
    const std::vector<float> logits = *logits_file->floats();
    const int64_t T = static_cast<int64_t>(tokens.size()), V = checkpoint->config().vocab_size;
    std::vector<int32_t> targets(tokens.begin() + 1, tokens.end());
    targets.push_back(-1);
    double expected = 0, expected_mtp = 0;
    for (int64_t t = 0; t + 1 < T; ++t) expected += cross_entropy(logits.data() + t * V, V, targets[t]) / (T - 1);
    const TrainBatch batch = {1, T, tokens.data(), targets.data(), nullptr};
    Trainer<float> trainer(*model, *train_kernels_by_name(""), 1, T, {});
    EXPECT_NEAR(trainer.model.loss(trainer.ctx, batch).main, expected, 1e-4) << folder;
    const TrainLoss loss = trainer.model.loss_and_gradients(trainer.ctx, batch, {});
    EXPECT_NEAR(loss.main, expected, 1e-4) << folder;
    EXPECT_EQ(loss.targets, T - 1);
    if (is_file(folder + "/mtp_logits.npy")) {
      const auto mtp_file = Npy::open(folder + "/mtp_logits.npy");
      const std::vector<float> mtp = *mtp_file->floats();
      for (int64_t t = 0; t + 2 < T; ++t) expected_mtp += cross_entropy(mtp.data() + t * V, V, tokens[t + 2]) / (T - 1);
      EXPECT_NEAR(loss.mtp, expected_mtp, 1e-4) << folder;
      EXPECT_NEAR(loss.loss, expected + 0.3 * expected_mtp, 1e-4) << folder;
    }
    ++seen;
  }
  EXPECT_GE(seen, 9);
}

// Every parameter of the whole, in double.
TEST(TrainModel, GradientsByDifferences) {
  for (const ModelConfig& config : {small_v3(), small_qwen3()}) {
    const TestBatch batch(2, 9, config.vocab_size, 3);
    TrainOptions options;
    options.balance_weight = config.n_routed_experts > 0 ? 0.4 : 0;
    Trainer<double> t(random_model<double>(config), ref_train_kernels_double(), 2, 9, options, 1);
    t.model.loss_and_gradients(t.ctx, batch.view(), options);
    Rng rng(5);
    std::vector<std::vector<double>> grads;
    for (TrainParam<double>& p : t.model.params()) grads.emplace_back(p.grad, p.grad + p.rows * p.cols);
    for (TrainParam<double>& p : t.model.params()) {
      const int64_t n = p.rows * p.cols;
      const std::vector<double>& grad = grads[&p - t.model.params().data()];
      const std::vector<double> start(p.value, p.value + n);
      std::vector<double> u(n);
      for (double& x : u) x = rng.normal();
      double analytic = 0, norm = 0;
      for (int64_t i = 0; i < n; ++i) {
        analytic += grad[i] * u[i];
        norm += grad[i] * grad[i];
      }
      constexpr double kStep = 1e-5;
      const auto moved = [&](double step) {
        for (int64_t i = 0; i < n; ++i) p.value[i] = start[i] + step * u[i];
        t.model.pack_weights(t.ctx);
        return t.model.loss_and_gradients(t.ctx, batch.view(), options).loss;
      };
      const double numeric = (moved(kStep) - moved(-kStep)) / (2 * kStep);
      std::copy(start.begin(), start.end(), p.value);
      EXPECT_LT(std::fabs(numeric - analytic), 1e-6 * std::max({std::fabs(numeric), 0.1 * std::sqrt(norm), 1e-4}))
          << config.model_type << " " << p.name << ": " << analytic << ", by differences " << numeric;
    }
  }
}

// Tokens of another document change nothing, bit for bit; a document alone has the loss that it has among others.
TEST(TrainModel, DocumentsAreApart) {
  for (const ModelConfig& config : {small_v3(), small_qwen3()}) {
    const int64_t T = 20;
    TestBatch batch(1, T, config.vocab_size, 4);
    for (int64_t i = 0; i < T; ++i) {
      batch.doc_start[i] = i < 6 ? 0 : i < 13 ? 6 : 13;
      batch.targets[i] = batch.inputs[(i + 1) % T];
    }
    Trainer<float> t(random_model<float>(config), *train_kernels_by_name(""), 1, T, {});
    std::vector<float> before(T), after(T), alone(7);
    t.model.loss(t.ctx, batch.view(), before.data());
    const TrainBatch middle = {1, 7, batch.inputs.data() + 6, batch.targets.data() + 6, nullptr};
    t.model.loss(t.ctx, middle, alone.data());
    for (const int64_t i : {0, 3, 14, 19}) batch.inputs[i] = (batch.inputs[i] + 1) % config.vocab_size;
    t.model.loss(t.ctx, batch.view(), after.data());
    for (int64_t i = 6; i < 13; ++i) {
      EXPECT_EQ(before[i], after[i]);
      EXPECT_NEAR(before[i], alone[i - 6], 1e-4);
    }
    EXPECT_NE(before[3], after[3]);
  }
}

// The module must not learn to predict across a border: what stands behind it has no part in its loss.
TEST(TrainModel, MtpStaysWithinDocuments) {
  const ModelConfig config = small_v3();
  const int64_t T = 8;
  TestBatch batch(1, T, config.vocab_size, 4);
  for (int64_t i = 0; i < T; ++i) {
    batch.doc_start[i] = i < 5 ? 0 : 5;
    batch.targets[i] = i < 4 ? batch.inputs[i + 1] : -1;  // the second document and the border have no targets
  }
  Trainer<float> t(random_model<float>(config), *train_kernels_by_name(""), 1, T, {});
  const TrainLoss before = t.model.loss_and_gradients(t.ctx, batch.view(), {});
  for (int64_t i = 5; i < T; ++i) batch.inputs[i] = (batch.inputs[i] + 3) % config.vocab_size;
  const TrainLoss after = t.model.loss_and_gradients(t.ctx, batch.view(), {});
  EXPECT_GT(before.mtp, 0);
  EXPECT_EQ(before.mtp, after.mtp);
  EXPECT_EQ(before.main, after.main);
}

// Rows of a batch one after another, with the denominator of the whole, add up to its loss and gradients.
TEST(TrainModel, PartsOfABatchAddUp) {
  const ModelConfig config = small_v3();
  const TestBatch batch(4, 16, config.vocab_size, 9);
  TrainOptions options;
  options.balance_weight = 0.1;
  Trainer<double> whole(random_model<double>(config), ref_train_kernels_double(), 4, 16, options);
  const TrainLoss expected = whole.model.loss_and_gradients(whole.ctx, batch.view(), options);
  options.loss_denominator = expected.targets;
  Trainer<double> parts(random_model<double>(config), ref_train_kernels_double(), 4, 16, options);
  double loss = 0;
  for (int64_t row = 0; row < 4; row += 2)
    loss += parts.model.loss_and_gradients(parts.ctx, batch.view(row, 2), options).loss;
  EXPECT_NEAR(loss, expected.loss, 1e-12);
  for (size_t i = 0; i < whole.model.params().size(); ++i) {
    const TrainParam<double>&a = whole.model.params()[i], &b = parts.model.params()[i];
    for (int64_t j = 0; j < a.rows * a.cols; ++j) ASSERT_NEAR(a.grad[j], b.grad[j], 1e-12) << a.name;
  }
}

TEST(TrainModel, PlanIsWhatAStepTakes) {
  for (const bool recompute : {false, true}) {
    TrainOptions options;
    options.recompute = recompute;
    const TestBatch batch(2, 32, 40, 2);
    Trainer<float> t(random_model<float>(small_v3()), *train_kernels_by_name(""), 2, 32, options);
    t.model.loss_and_gradients(t.ctx, batch.view(), options);
    EXPECT_EQ(t.arena.mark(), 0);
    EXPECT_LE(t.arena.peak_bytes(), t.planned_bytes);
    EXPECT_GE(static_cast<double>(t.arena.peak_bytes()), 0.8 * static_cast<double>(t.planned_bytes));
  }
}

TEST(TrainModel, Initialise) {
  const ModelConfig config = small_v3();
  TrainModel<float> a = random_model<float>(config), b = random_model<float>(config);
  a.initialise(1, 0.02);
  b.initialise(1, 0.02);
  double squares = 0;
  int64_t n = 0;
  for (size_t i = 0; i < a.params().size(); ++i) {
    const TrainParam<float>& p = a.params()[i];
    EXPECT_TRUE(std::equal(p.value, p.value + p.rows * p.cols, b.params()[i].value)) << p.name;
    for (int64_t j = 0; j < p.rows * p.cols; ++j) {
      if (p.kind == ParamKind::kVector) {
        EXPECT_EQ(p.value[j], 1) << p.name;
      }
      if (!p.name.ends_with("up_proj.weight")) continue;
      squares += static_cast<double>(p.value[j]) * p.value[j];
      ++n;
    }
  }
  EXPECT_NEAR(std::sqrt(squares / static_cast<double>(n)), 0.02, 0.001);
  EXPECT_NE(a.params()[3].value[0], a.params()[4].value[0]);
  b.initialise(2, 0.02);
  EXPECT_NE(a.params()[0].value[0], b.params()[0].value[0]);
  EXPECT_EQ(a.parameter_count(), b.parameter_count());
}

TEST(TrainModel, KindsAndBiases) {
  TrainModel<float> model = random_model<float>(small_v3());
  for (const TrainParam<float>& p : model.params()) {
    const ParamKind expected = p.name == "model.embed_tokens.weight" ? ParamKind::kEmbedding
                               : p.name == "lm_head.weight"          ? ParamKind::kHead
                               : p.name.ends_with("mlp.gate.weight") ? ParamKind::kRouter
                               : p.name.find("norm") != p.name.npos  ? ParamKind::kVector
                                                                     : ParamKind::kMatrix;
    EXPECT_EQ(p.kind, expected) << p.name;
    EXPECT_EQ(p.name.find("e_score_correction_bias"), p.name.npos);
  }
  ASSERT_EQ(model.router_biases().size(), 2u);
  EXPECT_EQ(model.router_bias_names()[1], "model.layers.2.mlp.gate.e_score_correction_bias");
  model.move_biases({{4, 0, 2, 2, 2, 2, 2, 2}, {0, 0, 0, 0, 0, 0, 0, 0}}, 0.25);
  const float expected[] = {-0.25f, 0.25f, 0, 0, 0, 0, 0, 0};
  for (int e = 0; e < 8; ++e) {
    EXPECT_EQ(model.router_biases()[0][e], expected[e]);
    EXPECT_EQ(model.router_biases()[1][e], 0);
  }
}

TEST(TrainModel, WhatCannotBeTrainedIsNamed) {
  ModelConfig config = small_v3();
  config.num_nextn_predict_layers = 2;
  const auto two = TrainModel<float>::create(config);
  ASSERT_FALSE(two.ok());
  EXPECT_EQ(two.error().code, Code::kUnsupported);
  EXPECT_NE(two.error().message.find("num_nextn_predict_layers"), std::string::npos);
  config = small_v3();
  config.fp8 = true;
  EXPECT_FALSE(TrainModel<float>::create(config).ok());
}

}  // namespace
}  // namespace westlake
