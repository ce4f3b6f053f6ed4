// config.json -> ModelConfig. One section a family of keys; every refusal names the key.
#include "model/config.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/json.h"
#include "tensor/view.h"

namespace westlake {
namespace {

struct TypeName {
  std::string_view model_type;
  Architecture architecture;
};
constexpr TypeName kTypes[] = {
    {"deepseek_v2", Architecture::kDeepseekV2},
    {"deepseek_v3", Architecture::kDeepseekV3},
    {"kimi_k2", Architecture::kDeepseekV3},
    {"llama", Architecture::kLlama},
    {"qwen2", Architecture::kQwen2},
    {"qwen3", Architecture::kQwen3},
    {"qwen3_moe", Architecture::kQwen3Moe},
};

// The reader of one object: the first error sticks, so that the fields can be listed without a test each.
class Reader {
 public:
  Reader(JsonObject object, std::string_view place) : object_(object), place_(place) {}

  template <typename T>
  void get(std::string_view key, T* out) {
    if (status_.ok()) status_ = json_read(object_, key, place_, out);
  }
  template <typename T>
  void need(std::string_view key, T* out) {
    if (status_.ok() && !json_has(object_, key))
      status_ = make_error(Code::kCorrupt, "{}: key '{}' is missing", place_, key);
    get(key, out);
  }
  // A key whose only supported value is `expected` (or absence).
  template <typename T>
  void only(std::string_view key, T expected) {
    T seen = expected;
    get(key, &seen);
    if (status_.ok() && seen != expected) {
      status_ = make_error(Code::kUnsupported, "{}: '{}' is {}, supported is only {}", place_, key, seen, expected);
    }
  }
  bool has(std::string_view key) const { return json_has(object_, key); }
  JsonElement element(std::string_view key) const {
    JsonElement element;
    CHECK(object_.at_key(key).get(element) == simdjson::SUCCESS, "key '{}' was there", key);
    return element;
  }
  void fail(Error error) {
    if (status_.ok()) status_ = std::move(error);
  }
  const Status& status() const { return status_; }
  std::string_view place() const { return place_; }

 private:
  JsonObject object_;
  std::string_view place_;
  Status status_;
};

// rope_scaling (or, in newer files, rope_parameters with rope_theta inside).
void read_rope(Reader& in, ModelConfig& config) {
  in.get("rope_theta", &config.rope_theta);
  in.only("partial_rotary_factor", 1.0);
  const std::string_view key = in.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  if (!in.has(key) || !in.status().ok()) return;
  JsonObject object;
  if (in.element(key).get(object) != simdjson::SUCCESS) {
    return in.fail(make_error(Code::kCorrupt, "{}: '{}' is {}, expected an object or null", in.place(), key,
                              json_preview(in.element(key))));
  }
  const std::string place = fmt::format("{}: {}", in.place(), key);
  Reader rope(object, place);
  RopeScaling& s = config.rope_scaling;
  std::string type = "default";
  rope.get("type", &type);
  rope.get("rope_type", &type);
  rope.get("rope_theta", &config.rope_theta);
  rope.only("partial_rotary_factor", 1.0);
  using Type = RopeScaling::Type;
  if (type == "default") {
    s.type = Type::kNone;
  } else if (type == "linear") {
    s.type = Type::kLinear;
    rope.need("factor", &s.factor);
  } else if (type == "yarn") {
    s.type = Type::kYarn;
    rope.get("factor", &s.factor);
    rope.need("original_max_position_embeddings", &s.original_max_position_embeddings);
    if (!rope.has("factor") && s.original_max_position_embeddings > 0)
      s.factor = static_cast<double>(config.max_position_embeddings) / s.original_max_position_embeddings;
    rope.get("beta_fast", &s.beta_fast);
    rope.get("beta_slow", &s.beta_slow);
    rope.get("mscale", &s.mscale);
    rope.get("mscale_all_dim", &s.mscale_all_dim);
    rope.get("attention_factor", &s.attention_factor);
    rope.get("truncate", &s.truncate);
  } else if (type == "llama3") {
    s.type = Type::kLlama3;
    rope.need("factor", &s.factor);
    rope.need("low_freq_factor", &s.low_freq_factor);
    rope.need("high_freq_factor", &s.high_freq_factor);
    rope.need("original_max_position_embeddings", &s.original_max_position_embeddings);
  } else {
    rope.fail(
        make_error(Code::kUnsupported, "{}: type '{}', supported are default, linear, yarn, llama3", place, type));
  }
  if (!rope.status().ok()) in.fail(rope.status().error());
}

void read_mla(Reader& in, ModelConfig& c) {
  in.get("q_lora_rank", &c.q_lora_rank);
  in.need("kv_lora_rank", &c.kv_lora_rank);
  in.need("qk_nope_head_dim", &c.qk_nope_head_dim);
  in.need("qk_rope_head_dim", &c.qk_rope_head_dim);
  in.need("v_head_dim", &c.v_head_dim);
  in.only("attention_bias", false);
  in.only("rope_interleave", true);
}

void read_deepseek_moe(Reader& in, ModelConfig& c) {
  const bool v3 = c.architecture == Architecture::kDeepseekV3;
  c.topk_method = v3 ? "noaux_tc" : "greedy";
  c.scoring_func = v3 ? "sigmoid" : "softmax";
  c.norm_topk_prob = v3;
  in.get("n_routed_experts", &c.n_routed_experts);
  if (c.n_routed_experts == 0) return;
  in.need("num_experts_per_tok", &c.num_experts_per_tok);
  in.need("moe_intermediate_size", &c.moe_intermediate_size);
  in.get("n_shared_experts", &c.n_shared_experts);
  in.get("first_k_dense_replace", &c.first_k_dense_replace);
  in.get("moe_layer_freq", &c.moe_layer_freq);
  in.get("n_group", &c.n_group);
  in.get("topk_group", &c.topk_group);
  in.get("topk_method", &c.topk_method);
  in.get("scoring_func", &c.scoring_func);
  in.get("norm_topk_prob", &c.norm_topk_prob);
  in.get("routed_scaling_factor", &c.routed_scaling_factor);
  const bool known =
      v3 ? c.topk_method == "noaux_tc" && c.scoring_func == "sigmoid"
         : (c.topk_method == "greedy" || c.topk_method == "group_limited_greedy") && c.scoring_func == "softmax";
  if (!known) {
    in.fail(make_error(Code::kUnsupported, "{}: topk_method '{}' with scoring_func '{}', supported for {} is {}",
                       in.place(), c.topk_method, c.scoring_func, c.model_type,
                       v3 ? "noaux_tc with sigmoid" : "greedy or group_limited_greedy with softmax"));
  }
  if (!v3 && c.norm_topk_prob) {
    in.fail(make_error(Code::kUnsupported,
                       "{}: 'norm_topk_prob' is true: the two published implementations of deepseek_v2 disagree on "
                       "what that means. Supported is false, as in every published V2 checkpoint",
                       in.place()));
  }
}

void read_qwen_moe(Reader& in, ModelConfig& c) {
  in.get("num_local_experts", &c.n_routed_experts);  // as transformers 5 saves it
  if (c.n_routed_experts == 0) in.need("num_experts", &c.n_routed_experts);
  in.need("num_experts_per_tok", &c.num_experts_per_tok);
  in.need("moe_intermediate_size", &c.moe_intermediate_size);
  in.get("norm_topk_prob", &c.norm_topk_prob);
  in.get("decoder_sparse_step", &c.decoder_sparse_step);
  if (!in.has("mlp_only_layers")) return;
  JsonArray layers;
  if (in.element("mlp_only_layers").get(layers) != simdjson::SUCCESS)
    return in.fail(make_error(Code::kCorrupt, "{}: 'mlp_only_layers' is no list", in.place()));
  for (JsonElement element : layers) {
    int64_t layer = 0;
    if (element.get(layer) != simdjson::SUCCESS)
      return in.fail(make_error(Code::kCorrupt, "{}: 'mlp_only_layers' holds {}", in.place(), json_preview(element)));
    c.mlp_only_layers.push_back(layer);
  }
}

void read_quantization(Reader& in, ModelConfig& c) {
  if (!in.has("quantization_config")) return;
  JsonObject object;
  if (in.element("quantization_config").get(object) != simdjson::SUCCESS)
    return in.fail(make_error(Code::kCorrupt, "{}: 'quantization_config' is no object", in.place()));
  const std::string place = fmt::format("{}: quantization_config", in.place());
  Reader q(object, place);
  q.only<std::string>("quant_method", "fp8");
  q.only<std::string>("fmt", "e4m3");
  JsonArray block;
  if (q.has("weight_block_size")) {
    bool good = q.element("weight_block_size").get(block) == simdjson::SUCCESS && block.size() == 2;
    if (good) {
      for (JsonElement element : block) good = good && element.is_int64() && int64_t(element) == Mat::kScaleBlock;
    }
    if (!good) {
      q.fail(make_error(Code::kUnsupported, "{}: 'weight_block_size' is {}, supported is only [128, 128]", place,
                        json_preview(q.element("weight_block_size"))));
    }
  }
  if (!q.status().ok()) return in.fail(q.status().error());
  c.fp8 = true;
}

}  // namespace

std::string_view supported_model_types() {
  return "deepseek_v2, deepseek_v3, kimi_k2, llama, qwen2, qwen3, qwen3_moe";
}

bool ModelConfig::is_moe_layer(int64_t layer) const {
  if (n_routed_experts == 0) return false;
  if (architecture == Architecture::kQwen3Moe) {
    return (layer + 1) % decoder_sparse_step == 0 &&
           std::find(mlp_only_layers.begin(), mlp_only_layers.end(), layer) == mlp_only_layers.end();
  }
  // MTP layers (behind the last) are MoE layers as published.
  return layer >= first_k_dense_replace && (layer >= num_hidden_layers || layer % moe_layer_freq == 0);
}

double attention_scale(const ModelConfig& config) {
  double scale = 1 / std::sqrt(static_cast<double>(config.qk_head_dim()));
  const RopeScaling& s = config.rope_scaling;
  if (config.mla() && s.type == RopeScaling::Type::kYarn && s.mscale_all_dim != 0) {
    const double m = yarn_get_mscale(s.factor, s.mscale_all_dim);
    scale *= m * m;
  }
  return scale;
}

Result<ModelConfig> ModelConfig::from_json(std::string_view text, std::string_view place) {
  TRY_ASSIGN(JsonDocument document, JsonDocument::parse(text, place));
  JsonObject object;
  if (document.root().get(object) != simdjson::SUCCESS)
    return make_error(Code::kCorrupt, "{}: is no JSON object", place);
  Reader in(object, place);
  ModelConfig c;
  in.need("model_type", &c.model_type);
  if (!in.status().ok()) return in.status().error();
  const TypeName* type = std::find_if(std::begin(kTypes), std::end(kTypes),
                                      [&](const TypeName& t) { return t.model_type == c.model_type; });
  if (type == std::end(kTypes)) {
    return make_error(Code::kUnsupported, "{}: model_type '{}' is not supported. Supported: {}", place, c.model_type,
                      supported_model_types());
  }
  c.architecture = type->architecture;
  const bool deepseek = c.architecture == Architecture::kDeepseekV2 || c.architecture == Architecture::kDeepseekV3;

  in.need("vocab_size", &c.vocab_size);
  in.need("hidden_size", &c.hidden_size);
  in.need("intermediate_size", &c.intermediate_size);
  in.need("num_hidden_layers", &c.num_hidden_layers);
  in.need("num_attention_heads", &c.num_attention_heads);
  c.num_key_value_heads = c.num_attention_heads;
  in.get("num_key_value_heads", &c.num_key_value_heads);
  c.max_position_embeddings = 2048;
  in.get("max_position_embeddings", &c.max_position_embeddings);
  in.get("rms_norm_eps", &c.rms_norm_eps);
  in.get("tie_word_embeddings", &c.tie_word_embeddings);
  in.only<std::string>("hidden_act", "silu");
  in.only("use_sliding_window", false);
  in.only("mlp_bias", false);
  if (deepseek) {
    read_mla(in, c);
    read_deepseek_moe(in, c);
    in.get("num_nextn_predict_layers", &c.num_nextn_predict_layers);
  } else {
    if (c.num_attention_heads > 0) c.head_dim = c.hidden_size / c.num_attention_heads;
    in.get("head_dim", &c.head_dim);
    c.qk_norm = c.architecture == Architecture::kQwen3 || c.architecture == Architecture::kQwen3Moe;
    c.qkv_bias = c.architecture == Architecture::kQwen2;
    bool attention_bias = false;
    in.get("attention_bias", &attention_bias);
    if (attention_bias) c.qkv_bias = true;
    if (attention_bias && c.architecture != Architecture::kQwen2) c.o_bias = true;
    if (c.architecture == Architecture::kQwen3Moe) read_qwen_moe(in, c);
  }
  read_rope(in, c);
  read_quantization(in, c);
  if (!in.status().ok()) return in.status().error();
  TRY(c.validate(place));
  return c;
}

Status ModelConfig::validate(std::string_view place) const {
  auto bad = [&](std::string_view key, auto seen, std::string_view expected) -> Status {
    return make_error(Code::kCorrupt, "{}: '{}' is {}, expected {}", place, key, seen, expected);
  };
  // Far above any published model and far below what could overflow a product of three.
  constexpr int64_t kMost = int64_t{1} << 20;
  constexpr int64_t kMostLayers = 4096, kMostVocab = int64_t{1} << 24;
  struct Bound {
    std::string_view key;
    int64_t value, least, most;
  };
  const Bound bounds[] = {
      {"vocab_size", vocab_size, 1, kMostVocab},
      {"hidden_size", hidden_size, 1, kMost},
      {"intermediate_size", intermediate_size, 1, kMost},
      {"num_hidden_layers", num_hidden_layers, 1, kMostLayers},
      {"num_attention_heads", num_attention_heads, 1, kMost},
      {"num_key_value_heads", num_key_value_heads, 1, num_attention_heads},
      {"max_position_embeddings", max_position_embeddings, 1, int64_t{1} << 31},
      {"head_dim", mla() ? 2 : head_dim, 2, kMost},
      {"q_lora_rank", q_lora_rank, 0, kMost},
      {"kv_lora_rank", kv_lora_rank, 0, kMost},
      {"qk_nope_head_dim", mla() ? qk_nope_head_dim : 1, 1, kMost},
      {"qk_rope_head_dim", mla() ? qk_rope_head_dim : 2, 2, kMost},
      {"v_head_dim", mla() ? v_head_dim : 1, 1, kMost},
      {"n_routed_experts", n_routed_experts, 0, 65536},
      {"n_shared_experts", n_shared_experts, 0, 1024},
      {"num_experts_per_tok", num_experts_per_tok, n_routed_experts > 0 ? 1 : 0, n_routed_experts},
      {"moe_intermediate_size", moe_intermediate_size, n_routed_experts > 0 ? 1 : 0, kMost},
      {"first_k_dense_replace", first_k_dense_replace, 0, num_hidden_layers},
      {"moe_layer_freq", moe_layer_freq, 1, kMostLayers},
      {"decoder_sparse_step", decoder_sparse_step, 1, kMostLayers},
      {"n_group", n_group, 1, std::max<int64_t>(1, n_routed_experts)},
      {"topk_group", topk_group, 1, n_group},
      {"num_nextn_predict_layers", num_nextn_predict_layers, 0, 16},
  };
  for (const Bound& b : bounds) {
    if (b.value < b.least || b.value > b.most) return bad(b.key, b.value, fmt::format("{} to {}", b.least, b.most));
  }
  if (!mla() && num_attention_heads % num_key_value_heads != 0)
    return bad("num_key_value_heads", num_key_value_heads, fmt::format("a divisor of {}", num_attention_heads));
  if (qk_head_dim() * num_attention_heads > kMost * 64) return bad("num_attention_heads", num_attention_heads, "less");
  if ((mla() ? qk_rope_head_dim : head_dim) % 2 != 0)
    return bad(mla() ? "qk_rope_head_dim" : "head_dim", mla() ? qk_rope_head_dim : head_dim, "an even number");
  const bool grouped = topk_method == "noaux_tc" || topk_method == "group_limited_greedy";
  if (n_routed_experts > 0 && grouped) {
    const int64_t group_size = n_routed_experts / n_group;
    if (n_routed_experts % n_group != 0)
      return bad("n_group", n_group, fmt::format("a divisor of n_routed_experts = {}", n_routed_experts));
    if (topk_group * group_size < num_experts_per_tok)
      return bad("topk_group", topk_group,
                 fmt::format("room for {} experts of {} a group", num_experts_per_tok, group_size));
    if (topk_method == "noaux_tc" && group_size < 2)
      return bad("n_group", n_group, "groups of two experts or more: their score is the sum of the best two");
  }
  auto positive = [&](std::string_view key, double value) -> Status {
    return std::isfinite(value) && value > 0 ? Status() : bad(key, value, "a positive number");
  };
  TRY(positive("rms_norm_eps", rms_norm_eps));
  TRY(positive("rope_theta", rope_theta));
  TRY(positive("rope_scaling.factor", rope_scaling.factor));
  if (!std::isfinite(routed_scaling_factor)) return bad("routed_scaling_factor", routed_scaling_factor, "a number");
  using Type = RopeScaling::Type;
  if (rope_scaling.type == Type::kYarn || rope_scaling.type == Type::kLlama3)
    TRY(positive("rope_scaling.original_max_position_embeddings", rope_scaling.original_max_position_embeddings));
  if (rope_scaling.type == Type::kYarn) {
    TRY(positive("rope_scaling.beta_fast", rope_scaling.beta_fast));
    TRY(positive("rope_scaling.beta_slow", rope_scaling.beta_slow));
    if (rope_theta == 1) return bad("rope_theta", rope_theta, "another base than 1 with yarn");
  }
  if (rope_scaling.type == Type::kLlama3) {
    TRY(positive("rope_scaling.low_freq_factor", rope_scaling.low_freq_factor));
    TRY(positive("rope_scaling.high_freq_factor", rope_scaling.high_freq_factor));
    if (rope_scaling.high_freq_factor == rope_scaling.low_freq_factor)
      return bad("rope_scaling.high_freq_factor", rope_scaling.high_freq_factor, "more than low_freq_factor");
  }
  if (rope_scaling.type == Type::kFactors &&
      static_cast<int64_t>(rope_scaling.factors.size()) * 2 != (mla() ? qk_rope_head_dim : head_dim))
    return bad("rope_freqs", rope_scaling.factors.size(), "half the rotated channels");
  for (float f : rope_scaling.factors) TRY(positive("rope_freqs", f));
  return {};
}

namespace {

int64_t mlp_parameters(const ModelConfig& c, int64_t width) {
  return 3 * c.hidden_size * width;
}

int64_t attention_parameters(const ModelConfig& c) {
  const int64_t D = c.hidden_size, H = c.num_attention_heads;
  if (!c.mla()) return 2 * D * c.head_dim * (H + c.num_key_value_heads);
  const int64_t q = c.q_lora_rank > 0 ? c.q_lora_rank * (D + H * c.qk_head_dim()) : D * H * c.qk_head_dim();
  return q + D * (c.kv_lora_rank + c.qk_rope_head_dim) + c.kv_lora_rank * H * (c.qk_nope_head_dim + c.v_head_dim) +
         H * c.v_head_dim * D;
}

int64_t count_parameters(const ModelConfig& c, int64_t experts, bool whole_embedding) {
  int64_t n = c.vocab_size * c.hidden_size;  // the head
  if (whole_embedding && !c.tie_word_embeddings) n += c.vocab_size * c.hidden_size;
  for (int64_t layer = 0; layer < c.num_hidden_layers; ++layer) {
    n += attention_parameters(c);
    n += c.is_moe_layer(layer) ? c.hidden_size * c.n_routed_experts +
                                     mlp_parameters(c, c.moe_intermediate_size) * (experts + c.n_shared_experts)
                               : mlp_parameters(c, c.intermediate_size);
  }
  return n;
}

}  // namespace

int64_t ModelConfig::parameters() const {
  return count_parameters(*this, n_routed_experts, true);
}
int64_t ModelConfig::active_parameters() const {
  return count_parameters(*this, num_experts_per_tok, false);
}

}  // namespace westlake
