// ModelConfig -> config.json, the keys under which the families publish it.
// Idea: what from_json reads is written, whole, so that from_json(to_json(c)) == c; beside it the few keys that
// transformers wants of every checkpoint. rope_scaling carries both spellings of its type, the published "type" and the
// newer "rope_type".
#include "base/json.h"
#include "model/config.h"

namespace westlake {
namespace {

std::string_view class_name(Architecture architecture) {
  switch (architecture) {
    case Architecture::kDeepseekV2:
      return "DeepseekV2ForCausalLM";
    case Architecture::kDeepseekV3:
      return "DeepseekV3ForCausalLM";
    case Architecture::kLlama:
      return "LlamaForCausalLM";
    case Architecture::kQwen2:
      return "Qwen2ForCausalLM";
    case Architecture::kQwen3:
      return "Qwen3ForCausalLM";
    case Architecture::kQwen3Moe:
      return "Qwen3MoeForCausalLM";
  }
  CHECK(false, "architecture {}", static_cast<int>(architecture));
}

// A number as published files have it: whole ones without a fraction ("rope_theta": 10000).
void write_number(JsonWriter& json, std::string_view key, double value) {
  json.key(key);
  if (value == static_cast<double>(static_cast<int64_t>(value))) {
    json.value(static_cast<int64_t>(value));
  } else {
    json.value(value);
  }
}

// A number where transformers insists on a float: with a fraction, though it be zero.
void write_float(JsonWriter& json, std::string_view key, double value) {
  std::string text = fmt::format("{}", value);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  json.key(key).raw(text);
}

void write_type(JsonWriter& json, std::string_view type) {
  json.key("type").value(type).key("rope_type").value(type);
}

void write_rope_scaling(JsonWriter& json, const RopeScaling& s) {
  using Type = RopeScaling::Type;
  CHECK(s.type != Type::kFactors, "frequency factors have no published form");
  json.key("rope_scaling");
  if (s.type == Type::kNone) {
    json.null();
    return;
  }
  json.begin_object();
  write_type(json, s.type == Type::kLinear ? "linear" : s.type == Type::kYarn ? "yarn" : "llama3");
  write_number(json, "factor", s.factor);
  if (s.type != Type::kLinear)
    write_number(json, "original_max_position_embeddings", s.original_max_position_embeddings);
  if (s.type == Type::kYarn) {
    write_number(json, "beta_fast", s.beta_fast);
    write_number(json, "beta_slow", s.beta_slow);
    if (s.mscale != 0) write_number(json, "mscale", s.mscale);
    if (s.mscale_all_dim != 0) write_number(json, "mscale_all_dim", s.mscale_all_dim);
    if (s.attention_factor != 0) write_number(json, "attention_factor", s.attention_factor);
    if (!s.truncate) json.key("truncate").value(false);
  } else if (s.type == Type::kLlama3) {
    write_number(json, "low_freq_factor", s.low_freq_factor);
    write_number(json, "high_freq_factor", s.high_freq_factor);
  }
  json.end_object();
}

void write_mla(JsonWriter& json, const ModelConfig& c) {
  json.key("q_lora_rank");
  if (c.q_lora_rank > 0) {
    json.value(c.q_lora_rank);
  } else {
    json.null();
  }
  json.key("kv_lora_rank").value(c.kv_lora_rank);
  json.key("qk_nope_head_dim").value(c.qk_nope_head_dim);
  json.key("qk_rope_head_dim").value(c.qk_rope_head_dim);
  json.key("v_head_dim").value(c.v_head_dim);
}

void write_deepseek_experts(JsonWriter& json, const ModelConfig& c) {
  json.key("n_routed_experts");
  if (c.n_routed_experts == 0) {
    json.null();
    return;
  }
  json.value(c.n_routed_experts).key("n_shared_experts").value(c.n_shared_experts);
  json.key("num_experts_per_tok").value(c.num_experts_per_tok);
  json.key("moe_intermediate_size").value(c.moe_intermediate_size);
  json.key("first_k_dense_replace").value(c.first_k_dense_replace);
  json.key("moe_layer_freq").value(c.moe_layer_freq);
  json.key("n_group").value(c.n_group).key("topk_group").value(c.topk_group);
  json.key("topk_method").value(c.topk_method).key("scoring_func").value(c.scoring_func);
  json.key("norm_topk_prob").value(c.norm_topk_prob);
  write_float(json, "routed_scaling_factor", c.routed_scaling_factor);
}

void write_qwen_experts(JsonWriter& json, const ModelConfig& c) {
  json.key("num_experts").value(c.n_routed_experts);
  json.key("num_experts_per_tok").value(c.num_experts_per_tok);
  json.key("moe_intermediate_size").value(c.moe_intermediate_size);
  json.key("norm_topk_prob").value(c.norm_topk_prob);
  json.key("decoder_sparse_step").value(c.decoder_sparse_step);
  json.key("mlp_only_layers").begin_array();
  for (int64_t layer : c.mlp_only_layers) json.value(layer);
  json.end_array();
}

}  // namespace

std::string ModelConfig::to_json() const {
  const bool deepseek = architecture == Architecture::kDeepseekV2 || architecture == Architecture::kDeepseekV3;
  JsonWriter json;
  json.begin_object();
  json.key("architectures").begin_array().value(class_name(architecture)).end_array();
  json.key("model_type").value(model_type);
  json.key("vocab_size").value(vocab_size).key("hidden_size").value(hidden_size);
  json.key("intermediate_size").value(intermediate_size).key("num_hidden_layers").value(num_hidden_layers);
  json.key("num_attention_heads").value(num_attention_heads);
  json.key("num_key_value_heads").value(num_key_value_heads);
  json.key("max_position_embeddings").value(max_position_embeddings);
  json.key("hidden_act").value("silu");
  write_float(json, "rms_norm_eps", rms_norm_eps);
  write_number(json, "rope_theta", rope_theta);
  write_rope_scaling(json, rope_scaling);
  json.key("tie_word_embeddings").value(tie_word_embeddings);
  write_float(json, "attention_dropout", 0);
  write_float(json, "initializer_range", 0.02);
  json.key("use_cache").value(true);
  if (deepseek) {
    json.key("attention_bias").value(false);
    write_mla(json, *this);
    write_deepseek_experts(json, *this);
    json.key("num_nextn_predict_layers").value(num_nextn_predict_layers);
  } else {
    json.key("head_dim").value(head_dim);
    if (architecture != Architecture::kQwen2) json.key("attention_bias").value(o_bias);
    if (architecture == Architecture::kLlama) {
      json.key("mlp_bias").value(false);
    } else {
      json.key("use_sliding_window").value(false);
    }
    if (architecture == Architecture::kQwen3Moe) write_qwen_experts(json, *this);
  }
  if (fp8) {
    json.key("quantization_config").begin_object().key("quant_method").value("fp8").key("fmt").value("e4m3");
    json.key("activation_scheme").value("dynamic").key("weight_block_size").begin_array().value(128).value(128);
    json.end_array().end_object();
  }
  json.end_object();
  return json.text();
}

}  // namespace westlake
