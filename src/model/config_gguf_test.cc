// Configs through both forms: what to_json and GGUF metadata write is what from_json and from_gguf read, and what they
// cannot say is refused by name.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "base/file.h"
#include "formats/gguf.h"
#include "formats/gguf_writer.h"
#include "model/config_gguf_fuzz_body.h"
#include "model/gguf_export_metadata.h"
#include "model/hf_export.h"
#include "model/synth.h"

namespace westlake {
namespace {

namespace fs = std::filesystem;

std::vector<ModelConfig> known_configs() {
  std::vector<ModelConfig> configs;
  for (const SynthPreset& preset : synth_presets()) configs.push_back(synth_config(preset.name).value());
  for (const auto& entry : fs::directory_iterator(WESTLAKE_SOURCE_DIR "/tests/golden/models")) {
    const std::string path = entry.path().string() + "/config.json";
    configs.push_back(ModelConfig::from_json(read_file(path).value(), path).value());
  }
  return configs;
}

ModelConfig preset(std::string_view name) {
  return synth_config(name).value();
}

// A file with this metadata and only the tensors that the config is told by.
class MetadataFile {
 public:
  explicit MetadataFile(const GgufMetadata& metadata, const std::vector<TensorSpec>& tensors = {})
      : path_(fmt::format("{}/config_gguf_test.{}.gguf", fs::temp_directory_path().string(), getpid())) {
    GgufWriter writer = GgufWriter::create(path_, metadata, tensors).value();
    for (const TensorSpec& spec : tensors) {
      const std::vector<float> ones(*tensor_bytes(spec.dtype, spec.shape) / 4, 1.5f);
      EXPECT_TRUE(writer.write(std::as_bytes(std::span(ones))).ok());
    }
    EXPECT_TRUE(writer.finish().ok());
  }
  ~MetadataFile() { fs::remove(path_); }
  std::string bytes() const { return read_file(path_).value(); }
  Result<ModelConfig> read() const {
    const Gguf gguf = Gguf::open(path_).value();
    return ModelConfig::from_gguf(gguf, "F");
  }

 private:
  std::string path_;
};

GgufMetadata metadata_of(const ModelConfig& config) {
  GgufMetadata metadata;
  ExportNotes notes;
  const Status status = set_architecture_keys(config, "F", &metadata, &notes);
  EXPECT_TRUE(status.ok()) << status.error().message;
  return metadata;
}

std::vector<TensorSpec> telling_tensors(const ModelConfig& c) {
  std::vector<TensorSpec> tensors;
  if (!c.tie_word_embeddings) tensors.push_back({"output.weight", DType::kF32, {1}});
  if (c.qkv_bias) tensors.push_back({"blk.0.attn_q.bias", DType::kF32, {1}});
  if (c.o_bias) tensors.push_back({"blk.0.attn_output.bias", DType::kF32, {1}});
  return tensors;
}

void expect_refused(const GgufMetadata& metadata, const std::vector<TensorSpec>& tensors, std::string_view words) {
  const auto config = MetadataFile(metadata, tensors).read();
  ASSERT_FALSE(config.ok()) << "expected a refusal that says " << words;
  EXPECT_NE(config.error().message.find(words), std::string::npos) << config.error().message;
}

TEST(ConfigJson, WhatIsWrittenIsRead) {
  for (const ModelConfig& config : known_configs()) {
    const auto back = ModelConfig::from_json(config.to_json(), "config.json");
    ASSERT_TRUE(back.ok()) << back.error().message;
    EXPECT_TRUE(*back == config) << config.to_json();
  }
}

TEST(ConfigJson, EveryFieldTellsConfigsApart) {
  ModelConfig config = preset("llama-3.1-8b");
  config.qkv_bias = config.o_bias = true;
  config.rope_theta = 1234.5;
  config.rope_scaling = RopeScaling();
  config.rope_scaling.type = RopeScaling::Type::kYarn;
  config.rope_scaling.factor = 2.5;
  config.rope_scaling.original_max_position_embeddings = 4096;
  config.rope_scaling.attention_factor = 1.25;
  config.rope_scaling.truncate = false;
  const ModelConfig back = ModelConfig::from_json(config.to_json(), "config.json").value();
  EXPECT_TRUE(back == config);
  config.rope_scaling.attention_factor = 1.3;
  EXPECT_FALSE(back == config);
}

TEST(ConfigJson, BothSpellingsOfTheExpertCount) {
  const ModelConfig config = preset("tiny-qwen3-moe");
  std::string text = config.to_json();
  text.replace(text.find("\"num_experts\""), 13, "\"num_local_experts\"");
  EXPECT_TRUE(ModelConfig::from_json(text, "config.json").value() == config);
}

TEST(ConfigJson, FloatsHaveAFraction) {
  // transformers refuses "attention_dropout": 0.
  const std::string text = preset("tiny-deepseek-v2").to_json();
  EXPECT_NE(text.find("\"attention_dropout\":0.0,"), std::string::npos) << text;
  EXPECT_NE(text.find("\"routed_scaling_factor\":1.0,"), std::string::npos) << text;
}

TEST(ConfigGguf, WhatIsWrittenIsRead) {
  for (const ModelConfig& config : known_configs()) {
    ModelConfig expected = config;
    expected.fp8 = false;
    if (expected.model_type == "kimi_k2") expected.model_type = "deepseek_v3";  // the same mathematics, one name
    expected.rope_scaling.type =
        config.rope_scaling.type == RopeScaling::Type::kLlama3 ? RopeScaling::Type::kNone : config.rope_scaling.type;
    if (expected.rope_scaling.type == RopeScaling::Type::kNone) expected.rope_scaling = RopeScaling();  // a tensor
    const auto back = MetadataFile(metadata_of(config), telling_tensors(config)).read();
    ASSERT_TRUE(back.ok()) << back.error().message;
    EXPECT_TRUE(*back == expected) << back->to_json() << "\n" << expected.to_json();
  }
}

TEST(ConfigGguf, Llama3RuleAsFactorsAndBack) {
  for (std::string_view name : {"llama-3.1-8b", "llama-3.2-1b"}) {
    const ModelConfig config = preset(name);
    ModelConfig factored = config;
    factored.rope_scaling = RopeScaling();
    factored.rope_scaling.type = RopeScaling::Type::kFactors;
    factored.rope_scaling.factors = rope_factors(config);
    const Rope as_rule(config.head_dim, config.rope_theta, config.rope_scaling);
    const Rope as_factors(config.head_dim, config.rope_theta, factored.rope_scaling);
    for (size_t i = 0; i < as_rule.inv_freq().size(); ++i)
      EXPECT_NEAR(as_factors.inv_freq()[i], as_rule.inv_freq()[i], 2e-7 * as_rule.inv_freq()[i]) << i;
    const auto published = published_config(factored, "F");
    ASSERT_TRUE(published.ok()) << published.error().message;
    EXPECT_TRUE(*published == config) << published->to_json();

    factored.rope_scaling.factors[40 % factored.rope_scaling.factors.size()] *= 1.01f;
    EXPECT_FALSE(published_config(factored, "F").ok());
  }
}

TEST(ConfigGguf, RopeFactorsComeFromTheTensor) {
  const ModelConfig config = preset("tiny-llama");
  const auto back =
      MetadataFile(metadata_of(config), {{"output.weight", DType::kF32, {1}}, {"rope_freqs.weight", DType::kF32, {32}}})
          .read();
  ASSERT_TRUE(back.ok()) << back.error().message;
  EXPECT_EQ(back->rope_scaling.type, RopeScaling::Type::kFactors);
  EXPECT_EQ(back->rope_scaling.factors, std::vector<float>(32, 1.5f));
  expect_refused(metadata_of(config), {{"rope_freqs.weight", DType::kF32, {31}}}, "rope_freqs.weight");
  expect_refused(metadata_of(preset("tiny-qwen3")), {{"rope_freqs.weight", DType::kF32, {64}}}, "rope_freqs.weight");
}

TEST(ConfigGguf, OldDeepseekFiles) {
  // Without key_length_mla: key_length is the whole head. Without groups: those of the published shape.
  struct Old {
    std::string_view preset;
    int64_t n_group, topk_group;
  };
  for (const Old& old :
       {Old{"deepseek-v2", 8, 3}, Old{"deepseek-v3", 8, 4}, Old{"deepseek-v2-lite", 1, 1}, Old{"kimi-k2", 1, 1}}) {
    const ModelConfig config = preset(old.preset);
    GgufMetadata metadata = metadata_of(config);
    for (std::string_view key :
         {"deepseek2.attention.key_length_mla", "deepseek2.attention.value_length_mla", "deepseek2.expert_group_count",
          "deepseek2.expert_group_used_count", "deepseek2.expert_gating_func", "deepseek2.vocab_size"})
      metadata.erase(key);
    metadata.set_u32("deepseek2.attention.key_length", static_cast<uint32_t>(config.qk_head_dim()));
    metadata.set_u32("deepseek2.attention.value_length", static_cast<uint32_t>(config.v_head_dim));
    metadata.set_u32("deepseek2.attention.head_count_kv", static_cast<uint32_t>(config.num_attention_heads));
    std::vector<TensorSpec> tensors = {{"output.weight", DType::kF32, {1}},
                                       {"token_embd.weight", DType::kF32, {300, 1}}};
    if (config.scoring_func == "sigmoid") tensors.push_back({"blk.3.exp_probs_b.bias", DType::kF32, {1}});
    const auto back = MetadataFile(metadata, tensors).read();
    ASSERT_TRUE(back.ok()) << back.error().message;
    EXPECT_EQ(back->qk_nope_head_dim, config.qk_nope_head_dim);
    EXPECT_EQ(back->v_head_dim, config.v_head_dim);
    EXPECT_EQ(back->num_key_value_heads, config.num_attention_heads);
    EXPECT_EQ(back->scoring_func, config.scoring_func) << old.preset;
    EXPECT_EQ(back->topk_method, config.topk_method) << old.preset;
    EXPECT_EQ(back->n_group, old.n_group) << old.preset;
    EXPECT_EQ(back->topk_group, old.topk_group) << old.preset;
    EXPECT_EQ(back->vocab_size, 300);
  }
}

TEST(ConfigGguf, ValuesALayerAreOneWhenTheyAgree) {
  const ModelConfig config = preset("tiny-llama");
  GgufMetadata metadata = metadata_of(config);
  metadata.set_i32s("llama.attention.head_count_kv", std::vector<int32_t>{2, 2});
  EXPECT_EQ(MetadataFile(metadata).read().value().num_key_value_heads, 2);
  metadata.set_i32s("llama.attention.head_count_kv", std::vector<int32_t>{2, 1});
  expect_refused(metadata, {}, "llama.attention.head_count_kv");
  metadata.set_i32s("llama.attention.head_count_kv", std::vector<int32_t>{});
  expect_refused(metadata, {}, "empty");
}

TEST(ConfigGguf, NeutralValuesPassOthersAreNamed) {
  const ModelConfig config = preset("tiny-llama");
  GgufMetadata metadata = metadata_of(config);
  metadata.set_u32("llama.expert_count", 0);
  metadata.set_f32("llama.logit_scale", 1);
  metadata.set_bool("llama.attention.causal", true);
  metadata.set_u32("llama.attention.sliding_window", 4096);
  metadata.set_string("llama.tensor_data_layout", "Meta AI original pth");
  metadata.set_bool("llama.rope.scaling.finetuned", true);
  EXPECT_TRUE(MetadataFile(metadata).read().ok()) << MetadataFile(metadata).read().error().message;

  auto refused = [&](auto set, std::string_view key) {
    GgufMetadata changed = metadata;
    set(changed, std::string(key));
    expect_refused(changed, {}, key);
  };
  auto number = [](GgufMetadata& m, const std::string& key) { m.set_f32(key, 3); };
  auto integer = [](GgufMetadata& m, const std::string& key) { m.set_u32(key, 7); };
  auto no = [](GgufMetadata& m, const std::string& key) { m.set_bool(key, false); };
  auto longrope = [](GgufMetadata& m, const std::string& key) { m.set_string(key, "longrope"); };
  refused(number, "llama.logit_scale");
  refused(number, "llama.attention.scale");
  refused(number, "llama.final_logit_softcapping");
  refused(number, "llama.something.new");
  refused(integer, "llama.expert_count");
  refused(integer, "llama.attention.sliding_window");
  refused(integer, "llama.rope.dimension_count");
  refused(integer, "llama.attention.value_length");
  refused(integer, "llama.nextn_predict_layers");
  refused(no, "llama.attention.causal");
  refused(longrope, "llama.rope.scaling.type");
}

TEST(ConfigGguf, MissingAndImpossibleValues) {
  for (std::string_view key : {"block_count", "embedding_length", "feed_forward_length", "context_length",
                               "attention.head_count", "attention.layer_norm_rms_epsilon"}) {
    GgufMetadata metadata = metadata_of(preset("tiny-llama"));
    metadata.erase("llama." + std::string(key));
    expect_refused(metadata, {}, key);
  }
  GgufMetadata metadata = metadata_of(preset("tiny-llama"));
  metadata.set_u32("llama.attention.head_count", 0);
  expect_refused(metadata, {}, "attention.head_count");
  metadata = metadata_of(preset("tiny-llama"));
  metadata.set_string("general.architecture", "gemma4");
  expect_refused(metadata, {}, "Supported: llama, qwen2, qwen3, qwen3moe, deepseek2");
  metadata = metadata_of(preset("tiny-deepseek-v3"));
  metadata.set_u32("deepseek2.expert_gating_func", 4);
  expect_refused(metadata, {}, "expert_gating_func");
  metadata = metadata_of(preset("tiny-deepseek-v3"));
  metadata.erase("deepseek2.rope.scaling.yarn_log_multiplier");
  expect_refused(metadata, {}, "yarn_log_multiplier");
  metadata = metadata_of(preset("tiny-deepseek-v3"));
  metadata.set_u32("deepseek2.nextn_predict_layers", 4);  // all layers
  expect_refused(metadata, {}, "num_hidden_layers");
  metadata = metadata_of(preset("tiny-deepseek-v3"));
  metadata.set_u32("deepseek2.rope.dimension_count", 1000);
  expect_refused(metadata, {}, "rope.dimension_count");
}

TEST(ConfigGguf, WhatTheFormatCannotSayIsNotWritten) {
  auto refused = [](std::string_view name, auto change, std::string_view words) {
    ModelConfig config = preset(name);
    change(config);
    GgufMetadata metadata;
    ExportNotes notes;
    const Status status = set_architecture_keys(config, "F", &metadata, &notes);
    ASSERT_FALSE(status.ok()) << words;
    EXPECT_EQ(status.error().code, Code::kUnsupported);
    EXPECT_NE(status.error().message.find(words), std::string::npos) << status.error().message;
  };
  refused(
      "tiny-deepseek-v3", [](ModelConfig& c) { c.moe_layer_freq = 2; }, "moe_layer_freq");
  refused(
      "tiny-deepseek-v3", [](ModelConfig& c) { c.rope_scaling.truncate = false; }, "truncate");
  refused(
      "tiny-deepseek-v2", [](ModelConfig& c) { c.rope_scaling.type = RopeScaling::Type::kLinear; }, "linear");
  refused(
      "tiny-qwen3-moe", [](ModelConfig& c) { c.decoder_sparse_step = 2; }, "decoder_sparse_step");
  refused(
      "tiny-qwen3-moe", [](ModelConfig& c) { c.mlp_only_layers = {0}; }, "mlp_only_layers");
  refused(
      "tiny-qwen3", [](ModelConfig& c) { c.rope_scaling.type = RopeScaling::Type::kLlama3; }, "llama3");
}

TEST(ConfigGguf, GroupsThatChangeNothingAreWrittenAsNone) {
  // llama.cpp stops at a count of groups where all are chosen, or that is the count of experts.
  ModelConfig config = preset("tiny-deepseek-v3");
  config.topk_group = config.n_group;
  EXPECT_EQ(MetadataFile(metadata_of(config)).read().value().n_group, 1);
  config = preset("tiny-deepseek-v2");
  config.topk_method = "group_limited_greedy";
  config.n_group = config.n_routed_experts;
  config.topk_group = 3;
  const ModelConfig back = MetadataFile(metadata_of(config)).read().value();
  EXPECT_EQ(back.n_group, 1);
  EXPECT_EQ(back.topk_method, "greedy");
}

TEST(ConfigGguf, EveryMscaleOfMlaKeepsItsMathematics) {
  struct Mscales {
    double mscale, all_dim, attention_factor;
  };
  for (const Mscales& m : {Mscales{0.5, 1.2, 0}, Mscales{1, 0, 0}, Mscales{0, 0, 0}, Mscales{0, 0.7, 0},
                           Mscales{1, 1, 1.3}, Mscales{0.707, 0.707, 0}}) {
    ModelConfig config = preset("tiny-deepseek-v3");
    config.rope_scaling.mscale = m.mscale;
    config.rope_scaling.mscale_all_dim = m.all_dim;
    config.rope_scaling.attention_factor = m.attention_factor;
    const GgufMetadata metadata = metadata_of(config);
    const auto back = MetadataFile(metadata).read();
    ASSERT_TRUE(back.ok()) << back.error().message;
    auto rope = [](const ModelConfig& c) { return Rope(c.qk_rope_head_dim, c.rope_theta, c.rope_scaling); };
    EXPECT_NEAR(rope(*back).attention_factor(), rope(config).attention_factor(), 1e-6);
    EXPECT_NEAR(attention_scale(*back), attention_scale(config), 1e-6 * attention_scale(config));
    EXPECT_EQ(rope(*back).inv_freq(), rope(config).inv_freq());
  }
}

TEST(ConfigGguf, YarnOutsideMla) {
  ModelConfig config = preset("tiny-qwen2");
  config.rope_scaling.type = RopeScaling::Type::kYarn;
  config.rope_scaling.factor = 4;
  config.rope_scaling.original_max_position_embeddings = 1024;
  ModelConfig back = MetadataFile(metadata_of(config), {{"blk.0.attn_q.bias", DType::kF32, {1}}}).read().value();
  EXPECT_TRUE(back == config) << back.to_json();
  config.rope_scaling.attention_factor = 1.5;
  back = MetadataFile(metadata_of(config), {{"blk.0.attn_q.bias", DType::kF32, {1}}}).read().value();
  EXPECT_NEAR(back.rope_scaling.attention_factor, 1.5, 1e-6);
  // As other converters write it.
  GgufMetadata metadata = metadata_of(config);
  metadata.erase("qwen2.rope.scaling.attn_factor");
  metadata.set_f32("qwen2.rope.scaling.yarn_attn_factor", 1.75f);
  EXPECT_EQ(MetadataFile(metadata).read().value().rope_scaling.attention_factor, 1.75);
  metadata.set_f32("qwen2.rope.scaling.yarn_ext_factor", 0.5f);
  expect_refused(metadata, {}, "yarn_ext_factor");
}

// Seeds: the metadata of every known config, whole and cut and with one byte changed in many places.
TEST(ConfigGguf, ReplaysFuzzInputs) {
  const auto run = [](std::string_view bytes) {
    // A heap block of exactly that size, so that a sanitizer sees a read behind its end.
    const std::vector<char> exact(bytes.begin(), bytes.end());
    fuzz_config_gguf(std::as_bytes(std::span(exact)));
  };
  int seeds = 0;
  for (const ModelConfig& config : known_configs()) {
    GgufMetadata metadata;
    ExportNotes notes;
    if (!set_architecture_keys(config, "F", &metadata, &notes).ok()) continue;
    std::string bytes = MetadataFile(metadata).bytes();
    run(bytes);
    for (size_t cut = 0; cut < bytes.size(); cut += 37) run(std::string_view(bytes).substr(0, cut));
    for (size_t at = 0; at < bytes.size(); at += 7) {
      const char was = bytes[at];
      bytes[at] = static_cast<char>(was ^ (1 << at % 8));
      run(bytes);
      bytes[at] = was;
    }
    ++seeds;
  }
  EXPECT_GT(seeds, 10);
}

}  // namespace
}  // namespace westlake
