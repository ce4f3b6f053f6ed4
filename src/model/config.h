// ModelConfig: what config.json (or a GGUF's metadata) says a model is. Fields are the keys of the published file.
// Idea: everything later reads this one struct; a key that changes the mathematics and is not supported is an error
// here, so that nothing downstream can be a near miss.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "layers/rope.h"

namespace westlake {

class Gguf;

enum class Architecture { kDeepseekV2, kDeepseekV3, kLlama, kQwen2, kQwen3, kQwen3Moe };

struct ModelConfig {
  Architecture architecture = Architecture::kLlama;
  std::string model_type;  // as published: "deepseek_v3", "kimi_k2", "llama" ...

  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;  // width of dense layers
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;  // GQA only
  int64_t max_position_embeddings = 0;
  double rms_norm_eps = 1e-6;
  double rope_theta = 10000;
  RopeScaling rope_scaling;
  bool tie_word_embeddings = false;
  bool qkv_bias = false;  // biases on q, k, v (Qwen2, attention_bias)
  bool o_bias = false;    // bias on o (Llama's attention_bias)
  bool qk_norm = false;   // RMS norm on every q and k head (Qwen3)

  // MLA (DeepSeek); kv_lora_rank == 0 says GQA.
  int64_t q_lora_rank = 0;  // 0: q_proj without a bottleneck
  int64_t kv_lora_rank = 0;
  int64_t qk_nope_head_dim = 0;
  int64_t qk_rope_head_dim = 0;
  int64_t v_head_dim = 0;

  // Experts; n_routed_experts == 0 says dense everywhere.
  int64_t n_routed_experts = 0;
  int64_t n_shared_experts = 0;
  int64_t num_experts_per_tok = 0;
  int64_t moe_intermediate_size = 0;
  int64_t first_k_dense_replace = 0;
  int64_t moe_layer_freq = 1;       // DeepSeek: layer i >= first_k_dense_replace has experts when i % freq == 0
  int64_t decoder_sparse_step = 1;  // Qwen3-MoE: layer i has experts when (i + 1) % step == 0
  std::vector<int64_t> mlp_only_layers;
  int64_t n_group = 1;
  int64_t topk_group = 1;
  std::string topk_method = "greedy";    // greedy, group_limited_greedy, noaux_tc
  std::string scoring_func = "softmax";  // softmax, sigmoid
  bool norm_topk_prob = false;
  double routed_scaling_factor = 1;

  int64_t num_nextn_predict_layers = 0;  // MTP modules

  bool fp8 = false;  // quantization_config: F8_E4M3 in 128x128 blocks

  bool operator==(const ModelConfig&) const = default;

  bool mla() const { return kv_lora_rank > 0; }
  bool is_moe_layer(int64_t layer) const;
  int64_t qk_head_dim() const { return mla() ? qk_nope_head_dim + qk_rope_head_dim : head_dim; }
  // Floats that attention keeps of one position in one layer: MLA's latent and rope key, or all keys and values.
  int64_t kv_width() const { return mla() ? kv_lora_rank + qk_rope_head_dim : 2 * num_key_value_heads * head_dim; }
  // Parameters, all and those that one token uses (chosen experts only; embedding rows counted as one row).
  int64_t parameters() const;
  int64_t active_parameters() const;

  // Errors: kCorrupt (missing key, wrong type, impossible value), kUnsupported (names key and what is supported).
  static Result<ModelConfig> from_json(std::string_view text, std::string_view place);
  static Result<ModelConfig> from_gguf(const Gguf& gguf, std::string_view place);
  // The published form of this config, readable by from_json and by transformers.
  std::string to_json() const;
  // Every number positive where it must be, divisible where it must be, products without overflow.
  Status validate(std::string_view place) const;
};

// The softmax scale of attention: qk_head_dim^-0.5, times YaRN's mscale_all_dim squared for MLA.
double attention_scale(const ModelConfig& config);

// "deepseek_v2, deepseek_v3, kimi_k2, llama, qwen2, qwen3, qwen3_moe"
std::string_view supported_model_types();

}  // namespace westlake
