// A GGUF's metadata -> ModelConfig: general.architecture llama, qwen2, qwen3, qwen3moe, deepseek2.
// Idea: every key under the architecture's prefix is read, known to be harmless, or neutral at its value; anything else
// is refused by name, because a key nobody looked at may change the mathematics. Numbers that files keep as float32 are
// taken as the decimal they were written from (1e-06, not 9.99999997e-07), so that a config is the same whether it came
// from JSON or from here.
// Source: keys as llama.cpp's converters write them and its loaders read them (src/llama-arch.cpp, src/models/*.cpp).
// Files of its older versions are known too: DeepSeek with attn_kv_b whole (no *_length_mla), without expert groups and
// without expert_gating_func.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "formats/gguf.h"
#include "model/config.h"
#include "tensor/codec.h"

namespace westlake {
namespace {

struct GgufArchitecture {
  std::string_view name;
  Architecture architecture;
  std::string_view model_type;
};
constexpr GgufArchitecture kArchitectures[] = {
    {"llama", Architecture::kLlama, "llama"},
    {"qwen2", Architecture::kQwen2, "qwen2"},
    {"qwen3", Architecture::kQwen3, "qwen3"},
    {"qwen3moe", Architecture::kQwen3Moe, "qwen3_moe"},
    {"deepseek2", Architecture::kDeepseekV2, "deepseek_v2"},  // or V3: expert_gating_func decides
};

// Keys that this file reads.
constexpr std::string_view kRead[] = {"vocab_size",
                                      "context_length",
                                      "embedding_length",
                                      "block_count",
                                      "feed_forward_length",
                                      "attention.head_count",
                                      "attention.head_count_kv",
                                      "attention.key_length",
                                      "attention.value_length",
                                      "attention.layer_norm_rms_epsilon",
                                      "rope.dimension_count",
                                      "rope.freq_base",
                                      "rope.scaling.type",
                                      "rope.scaling.factor",
                                      "rope.scale_linear",
                                      "rope.scaling.original_context_length",
                                      "rope.scaling.attn_factor",
                                      "rope.scaling.yarn_beta_fast",
                                      "rope.scaling.yarn_beta_slow",
                                      "rope.scaling.yarn_attn_factor",
                                      "rope.scaling.yarn_log_multiplier"};
constexpr std::string_view kReadExperts[] = {
    "expert_count",         "expert_used_count",   "expert_feed_forward_length",
    "expert_weights_scale", "expert_weights_norm", "expert_gating_func"};
constexpr std::string_view kReadDeepseek[] = {
    "attention.q_lora_rank",      "attention.kv_lora_rank",    "attention.key_length_mla",
    "attention.value_length_mla", "leading_dense_block_count", "expert_shared_count",
    "expert_group_count",         "expert_group_used_count",   "nextn_predict_layers"};

// Keys that say nothing about the forward pass.
constexpr std::string_view kHarmless[] = {
    "rope.scaling.finetuned",        // was the model trained with the scaling
    "tensor_data_layout",            // old llama files; the layout is the one of all llama files
    "attention.layer_norm_epsilon",  // of a norm that these architectures do not have
    "decoder_start_token_id",
};

// Keys that say nothing at this value: written by converters for every model.
struct Neutral {
  std::string_view key;
  double value, other;  // both are neutral
};
constexpr Neutral kNeutral[] = {
    {"expert_count", 0, 0},
    {"expert_used_count", 0, 0},
    {"expert_shared_count", 0, 0},
    {"expert_group_count", 0, 1},
    {"expert_group_used_count", 0, 1},
    {"expert_weights_scale", 0, 1},
    {"leading_dense_block_count", 0, 0},
    {"nextn_predict_layers", 0, 0},
    {"logit_scale", 0, 1},
    {"residual_scale", 0, 1},
    {"embedding_scale", 0, 1},
    {"attention.scale", 0, 0},
    {"attention.clamp_kqv", 0, 0},
    {"attention.max_alibi_bias", 0, 0},
    {"attention.sliding_window", 0, 0},
    {"attention.temperature_scale", 0, 0},
    {"attn_logit_softcapping", 0, 0},
    {"final_logit_softcapping", 0, 0},
    {"pooling_type", 0, 0},
    {"rope.scaling.alpha", 0, 0},
    {"rope.scaling.yarn_ext_factor", 1, -1},
};

template <size_t N>
bool listed(const std::string_view (&keys)[N], std::string_view key) {
  return std::find(std::begin(keys), std::end(keys), key) != std::end(keys);
}

std::string supported_architectures() {
  std::string names;
  for (const GgufArchitecture& a : kArchitectures) names += (names.empty() ? "" : ", ") + std::string(a.name);
  return names;
}

// The shortest decimal that is the same float32.
double published_number(double stored) {
  const float narrow = static_cast<float>(stored);
  if (static_cast<double>(narrow) != stored) return stored;
  return std::strtod(fmt::format("{}", narrow).c_str(), nullptr);
}

// Reads keys under the architecture's prefix.
class Keys {
 public:
  Keys(const Gguf& gguf, std::string_view architecture, std::string_view place)
      : gguf_(gguf), prefix_(std::string(architecture) + "."), place_(place) {}

  std::string name(std::string_view key) const { return prefix_ + std::string(key); }
  bool has(std::string_view key) const { return gguf_.has(name(key)); }
  const Gguf& gguf() const { return gguf_; }
  const std::string& prefix() const { return prefix_; }
  std::string_view place() const { return place_; }

  // An integer, or an array of one integer a layer that are all the same. Absent: `out` stays.
  Status read(std::string_view key, int64_t* out) const {
    const GgufValue* value = gguf_.find_metadata(name(key));
    if (value == nullptr || value->type != GgufType::kArray) return gguf_.read(name(key), out);
    TRY_ASSIGN(const std::vector<int64_t> values, gguf_.get_ints(name(key)));
    if (values.empty()) return make_error(Code::kCorrupt, "{}: metadata '{}' is an empty array", place_, name(key));
    for (int64_t v : values) {
      if (v == values[0]) continue;
      return make_error(Code::kUnsupported,
                        "{}: metadata '{}' differs between layers ({} and {}), supported is one value for all", place_,
                        name(key), values[0], v);
    }
    *out = values[0];
    return {};
  }
  Status read(std::string_view key, double* out) const {
    TRY(gguf_.read(name(key), out));
    if (has(key)) *out = published_number(*out);
    return {};
  }
  Status read(std::string_view key, bool* out) const { return gguf_.read(name(key), out); }
  template <typename T>
  Status need(std::string_view key, T* out) const {
    if (!has(key)) return make_error(Code::kCorrupt, "{}: metadata '{}' is missing", place_, name(key));
    return read(key, out);
  }
  Error unsupported(std::string_view key, std::string_view supported) const {
    return make_error(Code::kUnsupported, "{}: metadata '{}' is {}, supported is {}", place_, name(key),
                      gguf_preview(*gguf_.find_metadata(name(key))), supported);
  }

 private:
  const Gguf& gguf_;
  std::string prefix_;
  std::string_view place_;
};

bool is_neutral(const Keys& in, std::string_view key, int64_t context) {
  const std::string name = in.name(key);
  if (key == "attention.causal" || key == "use_parallel_residual") {
    const Result<bool> flag = in.gguf().get_bool(name);
    return flag.ok() && *flag == (key == "attention.causal");
  }
  const Result<double> value = in.gguf().get_f64(name);
  if (!value.ok()) return false;
  // A window that no position leaves is none.
  if (key == "attention.sliding_window" && *value >= static_cast<double>(context)) return true;
  const Neutral* row =
      std::find_if(std::begin(kNeutral), std::end(kNeutral), [&](const Neutral& n) { return n.key == key; });
  return row != std::end(kNeutral) && (*value == row->value || *value == row->other);
}

Status refuse_unknown_keys(const Keys& in, const ModelConfig& c, bool deepseek) {
  const bool experts = deepseek || c.architecture == Architecture::kQwen3Moe;
  for (const GgufEntry& entry : in.gguf().metadata()) {
    if (!entry.key.starts_with(in.prefix())) continue;
    const std::string_view key = entry.key.substr(in.prefix().size());
    if (listed(kRead, key) || listed(kHarmless, key)) continue;
    if (experts && listed(kReadExperts, key)) continue;
    if (deepseek && listed(kReadDeepseek, key)) continue;
    if (is_neutral(in, key, c.max_position_embeddings)) continue;
    return make_error(Code::kUnsupported,
                      "{}: metadata {} = {} is not supported: it may change what the model computes. Hint: a variant "
                      "of the architecture?",
                      in.place(), quote_name(entry.key), gguf_preview(entry.value));
  }
  return {};
}

// V from the key, from the embedding's rows, or from the list of tokens.
Status read_vocab_size(const Keys& in, ModelConfig& c) {
  if (in.has("vocab_size")) return in.read("vocab_size", &c.vocab_size);
  if (const TensorView* embedding = in.gguf().find("token_embd.weight");
      embedding != nullptr && embedding->shape.size() == 2) {
    c.vocab_size = embedding->shape[0];
    return {};
  }
  TRY_ASSIGN(const GgufArray tokens, in.gguf().get_array("tokenizer.ggml.tokens"));
  c.vocab_size = static_cast<int64_t>(tokens.count);
  return {};
}

Status read_gqa(const Keys& in, ModelConfig& c) {
  c.head_dim = c.hidden_size / c.num_attention_heads;
  TRY(in.read("attention.key_length", &c.head_dim));
  int64_t value_length = c.head_dim, rotated = c.head_dim;
  TRY(in.read("attention.value_length", &value_length));
  TRY(in.read("rope.dimension_count", &rotated));
  if (value_length != c.head_dim)
    return in.unsupported("attention.value_length", fmt::format("the key length, {}", c.head_dim));
  if (rotated != c.head_dim)
    return in.unsupported("rope.dimension_count", fmt::format("the whole head, {}", c.head_dim));
  c.qkv_bias = in.gguf().find("blk.0.attn_q.bias") != nullptr;
  c.o_bias = in.gguf().find("blk.0.attn_output.bias") != nullptr;
  c.qk_norm = c.architecture == Architecture::kQwen3 || c.architecture == Architecture::kQwen3Moe;
  return {};
}

Status read_mla(const Keys& in, ModelConfig& c) {
  TRY(in.read("attention.q_lora_rank", &c.q_lora_rank));
  TRY(in.need("attention.kv_lora_rank", &c.kv_lora_rank));
  TRY(in.need("rope.dimension_count", &c.qk_rope_head_dim));
  int64_t key_length = 0;
  const bool absorbed = in.has("attention.key_length_mla");  // then key_length and value_length are the latent's
  TRY(in.need(absorbed ? "attention.key_length_mla" : "attention.key_length", &key_length));
  TRY(in.need(absorbed ? "attention.value_length_mla" : "attention.value_length", &c.v_head_dim));
  if (key_length <= c.qk_rope_head_dim || c.qk_rope_head_dim < 0)
    return make_error(Code::kCorrupt, "{}: metadata '{}' is {}, expected more than rope.dimension_count = {}",
                      in.place(), in.name("attention.key_length"), key_length, c.qk_rope_head_dim);
  c.qk_nope_head_dim = key_length - c.qk_rope_head_dim;
  c.num_key_value_heads = c.num_attention_heads;  // files say 1: the heads share the latent
  return {};
}

// Does any layer have the router's correction bias?
bool has_correction_bias(const Gguf& gguf, int64_t layers) {
  for (int64_t i = 0; i < std::min<int64_t>(layers, 4096); ++i) {
    if (gguf.find(fmt::format("blk.{}.exp_probs_b.bias", i)) != nullptr) return true;
  }
  return false;
}

// Files from before expert_group_count say nothing of groups. The published models of these two shapes all have them;
// no other shape is known to.
void fill_published_groups(ModelConfig& c) {
  if (c.n_routed_experts == 256 && c.num_experts_per_tok == 8 && c.scoring_func == "sigmoid") {
    c.n_group = 8, c.topk_group = 4;  // V3, R1
  } else if (c.n_routed_experts == 160 && c.num_experts_per_tok == 6 && c.scoring_func == "softmax") {
    c.n_group = 8, c.topk_group = 3;  // V2, V2.5, Coder-V2
  }
}

Status read_deepseek_experts(const Keys& in, ModelConfig& c, int64_t blocks) {
  int64_t gating = 0;
  TRY(in.read("expert_gating_func", &gating));
  if (gating == 0) gating = has_correction_bias(in.gguf(), blocks) ? 2 : 1;
  if (gating != 1 && gating != 2) return in.unsupported("expert_gating_func", "1 (softmax) or 2 (sigmoid)");
  const bool v3 = gating == 2;
  c.architecture = v3 ? Architecture::kDeepseekV3 : Architecture::kDeepseekV2;
  c.model_type = v3 ? "deepseek_v3" : "deepseek_v2";
  c.scoring_func = v3 ? "sigmoid" : "softmax";
  c.topk_method = v3 ? "noaux_tc" : "greedy";
  TRY(in.read("expert_count", &c.n_routed_experts));
  if (c.n_routed_experts == 0) {
    c.norm_topk_prob = v3;
    return {};
  }
  TRY(in.need("expert_used_count", &c.num_experts_per_tok));
  TRY(in.need("expert_feed_forward_length", &c.moe_intermediate_size));
  TRY(in.read("expert_shared_count", &c.n_shared_experts));
  TRY(in.read("leading_dense_block_count", &c.first_k_dense_replace));
  TRY(in.read("expert_weights_norm", &c.norm_topk_prob));
  TRY(in.read("expert_weights_scale", &c.routed_scaling_factor));
  if (c.routed_scaling_factor == 0) c.routed_scaling_factor = 1;
  if (in.has("expert_group_count")) {
    TRY(in.read("expert_group_count", &c.n_group));
    TRY(in.need("expert_group_used_count", &c.topk_group));
    if (c.n_group == 0) c.n_group = c.topk_group = 1;
  } else {
    fill_published_groups(c);
  }
  if (!v3 && c.n_group > 1) c.topk_method = "group_limited_greedy";
  if (!v3 && c.norm_topk_prob)
    return in.unsupported("expert_weights_norm",
                          "false with softmax gating: published implementations disagree on what true means");
  return {};
}

Status read_qwen_experts(const Keys& in, ModelConfig& c) {
  TRY(in.need("expert_count", &c.n_routed_experts));
  TRY(in.need("expert_used_count", &c.num_experts_per_tok));
  if (in.has("expert_feed_forward_length")) {
    TRY(in.read("expert_feed_forward_length", &c.moe_intermediate_size));
  } else if (c.num_experts_per_tok > 0) {
    c.moe_intermediate_size = c.intermediate_size / c.num_experts_per_tok;
  }
  int64_t gating = 1;
  TRY(in.read("expert_gating_func", &gating));
  if (gating > 1) return in.unsupported("expert_gating_func", "1 (softmax)");
  c.norm_topk_prob = true;
  TRY(in.read("expert_weights_norm", &c.norm_topk_prob));
  double scale = 1;
  TRY(in.read("expert_weights_scale", &scale));
  if (scale != 0 && scale != 1) return in.unsupported("expert_weights_scale", "1");
  return {};
}

Status read_yarn(const Keys& in, ModelConfig& c) {
  RopeScaling& s = c.rope_scaling;
  s.original_max_position_embeddings = static_cast<double>(c.max_position_embeddings);
  TRY(in.read("rope.scaling.original_context_length", &s.original_max_position_embeddings));
  TRY(in.read("rope.scaling.yarn_beta_fast", &s.beta_fast));
  TRY(in.read("rope.scaling.yarn_beta_slow", &s.beta_slow));
  const bool whole = in.has("rope.scaling.yarn_attn_factor"), times = in.has("rope.scaling.attn_factor");
  if (c.mla()) {
    if (!in.has("rope.scaling.yarn_log_multiplier"))
      return make_error(Code::kUnsupported,
                        "{}: metadata '{}' is missing: without it the scale of attention is unknown", in.place(),
                        in.name("rope.scaling.yarn_log_multiplier"));
    if (whole) return in.unsupported("rope.scaling.yarn_attn_factor", "its absence with deepseek2");
    double multiplier = 0;
    TRY(in.read("rope.scaling.yarn_log_multiplier", &multiplier));
    s.mscale = s.mscale_all_dim = published_number(static_cast<float>(10 * multiplier));
    if (!times) return {};
    // Rotated channels times A, scores times (A g(L))^2 (see set_mla_yarn, which writes them).
    TRY(in.read("rope.scaling.attn_factor", &s.attention_factor));
    const double scores = s.attention_factor * yarn_get_mscale(s.factor, s.mscale_all_dim);
    s.mscale = 0;
    s.mscale_all_dim = s.factor > 1 ? (scores - 1) / (0.1 * std::log(s.factor)) : 0;
    return {};
  }
  if (in.has("rope.scaling.yarn_log_multiplier"))
    return in.unsupported("rope.scaling.yarn_log_multiplier", "only known for deepseek2");
  if (whole && times) return in.unsupported("rope.scaling.attn_factor", "its absence next to yarn_attn_factor");
  if (whole) return in.read("rope.scaling.yarn_attn_factor", &s.attention_factor);
  if (times) {
    double factor = 1;
    TRY(in.read("rope.scaling.attn_factor", &factor));
    s.attention_factor = factor * yarn_get_mscale(s.factor, 1);
  }
  return {};
}

// rope_freqs.weight: what Llama 3's rule makes of each frequency.
Status read_rope_factors(const Keys& in, ModelConfig& c) {
  const TensorView* factors = in.gguf().find("rope_freqs.weight");
  if (factors == nullptr) return {};
  if (c.architecture != Architecture::kLlama || c.rope_scaling.type != RopeScaling::Type::kNone)
    return make_error(Code::kUnsupported,
                      "{}: tensor 'rope_freqs.weight' is supported only for llama without another "
                      "rope scaling",
                      in.place());
  if (factors->dtype != DType::kF32 || factors->elements() * 2 != c.head_dim)
    return make_error(Code::kCorrupt, "{}: tensor 'rope_freqs.weight' is {} {}, expected f32 [{}]", in.place(),
                      dtype_name(factors->dtype), shape_text(factors->shape), c.head_dim / 2);
  std::vector<float> values(factors->elements());
  dequantise_row(DType::kF32, factors->data, factors->elements(), values.data());
  if (std::all_of(values.begin(), values.end(), [](float f) { return f == 1; })) return {};
  c.rope_scaling.type = RopeScaling::Type::kFactors;
  c.rope_scaling.factors = std::move(values);
  return {};
}

Status read_rope(const Keys& in, ModelConfig& c) {
  TRY(in.read("rope.freq_base", &c.rope_theta));
  std::string type;
  TRY(in.gguf().read(in.name("rope.scaling.type"), &type));
  double factor = 0;
  TRY(in.read("rope.scale_linear", &factor));
  TRY(in.read("rope.scaling.factor", &factor));
  RopeScaling& s = c.rope_scaling;
  if (type == "yarn") {
    if (factor == 0) factor = 1;
    s.type = RopeScaling::Type::kYarn;
    s.factor = factor;
    TRY(read_yarn(in, c));
  } else if (type.empty() || type == "linear") {
    if (factor != 0 && factor != 1) {
      s.type = RopeScaling::Type::kLinear;
      s.factor = factor;
    }
  } else if (type != "none") {
    return in.unsupported("rope.scaling.type", "none, linear, yarn");
  }
  if (s.type != RopeScaling::Type::kYarn) {
    for (std::string_view key : {"rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor"}) {
      double value = 1;
      TRY(in.read(key, &value));
      if (value != 1) return in.unsupported(key, "1 without yarn");
    }
  }
  return read_rope_factors(in, c);
}

}  // namespace

Result<ModelConfig> ModelConfig::from_gguf(const Gguf& gguf, std::string_view place) {
  std::string name;
  TRY(gguf.read("general.architecture", &name));
  const GgufArchitecture* known = std::find_if(std::begin(kArchitectures), std::end(kArchitectures),
                                               [&](const GgufArchitecture& a) { return a.name == name; });
  if (known == std::end(kArchitectures)) {
    return make_error(Code::kUnsupported, "{}: general.architecture {} is not supported. Supported: {}", place,
                      quote_name(name), supported_architectures());
  }
  const bool deepseek = name == "deepseek2";
  const Keys in(gguf, name, place);
  ModelConfig c;
  c.architecture = known->architecture;
  c.model_type = known->model_type;
  int64_t blocks = 0;
  TRY(in.need("block_count", &blocks));
  TRY(in.read("nextn_predict_layers", &c.num_nextn_predict_layers));
  c.num_hidden_layers = blocks - c.num_nextn_predict_layers;  // block_count counts the MTP modules too
  TRY(in.need("embedding_length", &c.hidden_size));
  TRY(in.need("feed_forward_length", &c.intermediate_size));
  TRY(in.need("context_length", &c.max_position_embeddings));
  TRY(in.need("attention.head_count", &c.num_attention_heads));
  if (c.num_attention_heads < 1)
    return make_error(Code::kCorrupt, "{}: metadata '{}' is {}, expected 1 or more", place,
                      in.name("attention.head_count"), c.num_attention_heads);
  c.num_key_value_heads = c.num_attention_heads;
  TRY(in.read("attention.head_count_kv", &c.num_key_value_heads));
  TRY(in.need("attention.layer_norm_rms_epsilon", &c.rms_norm_eps));
  TRY(read_vocab_size(in, c));
  c.tie_word_embeddings = gguf.find("output.weight") == nullptr;
  TRY(deepseek ? read_mla(in, c) : read_gqa(in, c));
  if (deepseek) TRY(read_deepseek_experts(in, c, blocks));
  if (c.architecture == Architecture::kQwen3Moe) TRY(read_qwen_experts(in, c));
  TRY(read_rope(in, c));
  TRY(refuse_unknown_keys(in, c, deepseek));
  TRY(c.validate(place));
  return c;
}

}  // namespace westlake
