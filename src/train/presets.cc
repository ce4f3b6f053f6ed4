#include "train/presets.h"

namespace westlake {
namespace {

// One rung: what differs between sizes; the rest follows from the rules below.
struct Rung {
  TrainPreset preset;
  int64_t hidden_size, layers, heads, head_dim;
  int64_t experts, chosen, shared, expert_width;  // experts 0: dense
  int64_t intermediate_size;
  int64_t kv_lora_rank, rope_dim;  // kv_lora_rank 0: grouped-query attention (llama)
  int64_t mtp;
};

constexpr Rung kRungs[] = {
    {{"story-1m", "deepseek_v3, for tests and first steps"}, 96, 4, 4, 24, 4, 2, 1, 64, 256, 48, 8, 0},
    {{"story-3m", "deepseek_v3"}, 160, 6, 4, 40, 8, 2, 1, 96, 432, 64, 16, 0},
    {{"story-10m", "deepseek_v3"}, 256, 8, 4, 64, 8, 2, 1, 176, 704, 96, 16, 0},
    {{"story-30m", "deepseek_v3"}, 384, 8, 6, 64, 16, 2, 1, 256, 1024, 128, 32, 1},
    {{"story-100m", "deepseek_v3"}, 512, 10, 8, 64, 32, 3, 1, 352, 1408, 192, 32, 1},
    {{"dense-3m", "llama"}, 160, 6, 4, 40, 0, 0, 0, 0, 432, 0, 0, 0},
    {{"dense-10m", "llama"}, 320, 6, 5, 64, 0, 0, 0, 0, 864, 0, 0, 0},
    {{"dense-30m", "llama"}, 512, 8, 8, 64, 0, 0, 0, 0, 1376, 0, 0, 0},
    {{"gpt2-124m", "llama in the shape of GPT-2 small"}, 768, 12, 12, 64, 0, 0, 0, 0, 2048, 0, 0, 0},
};

ModelConfig config_of(const Rung& r) {
  ModelConfig c;
  const bool deepseek = r.kv_lora_rank > 0;
  c.architecture = deepseek ? Architecture::kDeepseekV3 : Architecture::kLlama;
  c.model_type = deepseek ? "deepseek_v3" : "llama";
  c.hidden_size = r.hidden_size;
  c.num_hidden_layers = r.layers;
  c.num_attention_heads = c.num_key_value_heads = r.heads;
  c.intermediate_size = r.intermediate_size;
  c.rms_norm_eps = 1e-6;
  c.rope_theta = 10000;
  c.tie_word_embeddings = true;
  if (!deepseek) {
    c.head_dim = r.head_dim;
    return c;
  }
  c.kv_lora_rank = r.kv_lora_rank;
  c.qk_rope_head_dim = r.rope_dim;
  c.qk_nope_head_dim = r.head_dim - r.rope_dim;
  c.v_head_dim = r.head_dim;
  c.n_routed_experts = r.experts;
  c.num_experts_per_tok = r.chosen;
  c.n_shared_experts = r.shared;
  c.moe_intermediate_size = r.expert_width;
  c.first_k_dense_replace = 1;
  c.topk_method = "noaux_tc";
  c.scoring_func = "sigmoid";
  c.norm_topk_prob = true;
  c.routed_scaling_factor = 1;
  c.num_nextn_predict_layers = r.mtp;
  return c;
}

}  // namespace

std::span<const TrainPreset> train_presets() {
  static const std::vector<TrainPreset> presets = [] {
    std::vector<TrainPreset> all;
    for (const Rung& r : kRungs) all.push_back(r.preset);
    return all;
  }();
  return presets;
}

Result<ModelConfig> train_config(std::string_view preset, int64_t vocab_size, int64_t max_position_embeddings) {
  std::string names;
  for (const Rung& r : kRungs) {
    if (r.preset.name == preset) {
      ModelConfig config = config_of(r);
      config.vocab_size = vocab_size;
      config.max_position_embeddings = max_position_embeddings;
      TRY(config.validate(preset));
      return config;
    }
    names += names.empty() ? "" : ", ";
    names += r.preset.name;
  }
  return make_error(Code::kNotFound, "model '{}' is no preset and no config.json. Presets: {}", preset, names);
}

}  // namespace westlake
