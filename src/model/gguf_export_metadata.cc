#include "model/gguf_export_metadata.h"

#include <algorithm>
#include <cmath>

namespace westlake {
namespace {

std::string_view gguf_architecture(Architecture architecture) {
  switch (architecture) {
    case Architecture::kDeepseekV2:
    case Architecture::kDeepseekV3:
      return "deepseek2";
    case Architecture::kLlama:
      return "llama";
    case Architecture::kQwen2:
      return "qwen2";
    case Architecture::kQwen3:
      return "qwen3";
    case Architecture::kQwen3Moe:
      return "qwen3moe";
  }
  CHECK(false, "architecture {}", static_cast<int>(architecture));
}

// Sets keys under the architecture's prefix.
class Keys {
 public:
  Keys(std::string_view architecture, GgufMetadata* out) : prefix_(std::string(architecture) + "."), out_(out) {}
  void u32(std::string_view key, int64_t value) {
    CHECK(value >= 0 && value <= UINT32_MAX, "{} is {}", key, value);
    out_->set_u32(prefix_ + std::string(key), static_cast<uint32_t>(value));
  }
  void f32(std::string_view key, double value) { out_->set_f32(prefix_ + std::string(key), static_cast<float>(value)); }
  void flag(std::string_view key, bool value) { out_->set_bool(prefix_ + std::string(key), value); }
  void string(std::string_view key, std::string_view value) { out_->set_string(prefix_ + std::string(key), value); }

 private:
  std::string prefix_;
  GgufMetadata* out_;
};

Error no_key_for(std::string_view place, std::string_view what) {
  return make_error(Code::kUnsupported,
                    "{}: {} has no key in GGUF; leaving it out would give wrong output. Hint: a model folder can hold "
                    "it (name a folder instead of OUT.gguf)",
                    place, what);
}

// Readers of deepseek2 take two numbers, A (attn_factor) and L (ten times yarn_log_multiplier), and with
// g(m) = 0.1 m ln(factor) + 1 compute: rotated channels of q and k times A, all scores times (A g(L))^2. The published
// code has r = g(mscale) / g(mscale_all_dim) on the rotated channels and s^2 = g(mscale_all_dim)^2 on the scores. So
// A = r and g(L) = s / r; where the two mscales agree, as in every published DeepSeek, L is their value and A is 1.
void set_mla_yarn(const ModelConfig& c, Keys& keys) {
  const RopeScaling& s = c.rope_scaling;
  const double r = Rope(c.qk_rope_head_dim, c.rope_theta, s).attention_factor();
  double log_multiplier = s.mscale_all_dim;
  if (r != 1) {
    const double scores = s.mscale_all_dim == 0 ? 1 : yarn_get_mscale(s.factor, s.mscale_all_dim);
    log_multiplier = (scores / r - 1) / (0.1 * std::log(s.factor));
    keys.f32("rope.scaling.attn_factor", r);
  }
  constexpr double kAlmostNone = 1e-6;  // 0 is read as the key's absence, which means something else
  keys.f32("rope.scaling.yarn_log_multiplier", 0.1 * (log_multiplier == 0 ? kAlmostNone : log_multiplier));
}

Status set_yarn(const ModelConfig& c, std::string_view place, Keys& keys, ExportNotes* notes) {
  const RopeScaling& s = c.rope_scaling;
  if (!s.truncate) return no_key_for(place, "rope_scaling.truncate = false");
  keys.string("rope.scaling.type", "yarn");
  keys.f32("rope.scaling.factor", s.factor);
  keys.u32("rope.scaling.original_context_length", std::llround(s.original_max_position_embeddings));
  keys.f32("rope.scaling.yarn_beta_fast", s.beta_fast);
  keys.f32("rope.scaling.yarn_beta_slow", s.beta_slow);
  if (s.beta_fast != 32 || s.beta_slow != 1)
    notes->add(
        fmt::format("YaRN's beta_fast {} and beta_slow {} are written, but llama.cpp takes 32 and 1 for this "
                    "architecture: its output will differ a little",
                    s.beta_fast, s.beta_slow));
  if (c.mla()) {
    set_mla_yarn(c, keys);
    return {};
  }
  // Readers multiply this with YaRN's own 0.1 ln(factor) + 1.
  const double factor = Rope(c.head_dim, c.rope_theta, s).attention_factor() / yarn_get_mscale(s.factor, 1);
  if (std::fabs(factor - 1) > 1e-6) keys.f32("rope.scaling.attn_factor", factor);
  return {};
}

Status set_rope(const ModelConfig& c, std::string_view place, Keys& keys, ExportNotes* notes) {
  using Type = RopeScaling::Type;
  const RopeScaling& s = c.rope_scaling;
  keys.u32("rope.dimension_count", c.mla() ? c.qk_rope_head_dim : c.head_dim);
  keys.f32("rope.freq_base", c.rope_theta);
  switch (s.type) {
    case Type::kNone:
      return {};
    case Type::kLinear:
      if (c.mla()) return no_key_for(place, "linear rope scaling of MLA");
      keys.string("rope.scaling.type", "linear");
      keys.f32("rope.scaling.factor", s.factor);
      return {};
    case Type::kYarn:
      return set_yarn(c, place, keys, notes);
    case Type::kLlama3:
    case Type::kFactors:  // a tensor, rope_freqs.weight, which only the llama architecture has
      if (c.architecture != Architecture::kLlama)
        return no_key_for(place, fmt::format("llama3 rope scaling of a {} model", c.model_type));
      return {};
  }
  CHECK(false, "rope scaling {}", static_cast<int>(s.type));
}

void set_mla(const ModelConfig& c, Keys& keys) {
  keys.u32("attention.head_count_kv", 1);            // all heads share the latent
  keys.u32("attention.q_lora_rank", c.q_lora_rank);  // 0 too: llama.cpp guesses by the number of layers without it
  keys.u32("attention.kv_lora_rank", c.kv_lora_rank);
  keys.u32("attention.key_length", c.kv_lora_rank + c.qk_rope_head_dim);
  keys.u32("attention.value_length", c.kv_lora_rank);
  keys.u32("attention.key_length_mla", c.qk_head_dim());
  keys.u32("attention.value_length_mla", c.v_head_dim);
}

Status set_deepseek_experts(const ModelConfig& c, std::string_view place, Keys& keys, ExportNotes* notes) {
  const bool sigmoid = c.scoring_func == "sigmoid";
  const int64_t blocks = c.num_hidden_layers + c.num_nextn_predict_layers;
  keys.u32("leading_dense_block_count", c.n_routed_experts > 0 ? c.first_k_dense_replace : blocks);
  keys.u32("expert_shared_count", c.n_routed_experts > 0 ? c.n_shared_experts : 0);
  keys.u32("expert_feed_forward_length", c.n_routed_experts > 0 ? c.moe_intermediate_size : c.intermediate_size);
  keys.u32("expert_gating_func", sigmoid ? 2 : 1);
  if (c.num_nextn_predict_layers > 0) keys.u32("nextn_predict_layers", c.num_nextn_predict_layers);
  if (c.n_routed_experts == 0) return {};
  if (c.moe_layer_freq != 1) return no_key_for(place, fmt::format("moe_layer_freq = {}", c.moe_layer_freq));
  keys.u32("expert_count", c.n_routed_experts);
  keys.u32("expert_used_count", c.num_experts_per_tok);
  keys.f32("expert_weights_scale", c.routed_scaling_factor);
  if (c.norm_topk_prob) keys.flag("expert_weights_norm", true);
  // Where every group is chosen, or each holds one expert, groups change nothing; llama.cpp refuses such counts.
  const bool grouped = c.topk_method != "greedy" && c.topk_group < c.n_group && c.n_group < c.n_routed_experts;
  keys.u32("expert_group_count", grouped ? c.n_group : 1);
  keys.u32("expert_group_used_count", grouped ? c.topk_group : 1);
  if (grouped && !sigmoid)
    notes->add(
        "llama.cpp scores a group of experts by the sum of its best two, this model's group_limited_greedy by "
        "its best one: its output will differ");
  return {};
}

Status set_qwen_experts(const ModelConfig& c, std::string_view place, Keys& keys, ExportNotes* notes) {
  if (c.decoder_sparse_step != 1)
    return no_key_for(place, fmt::format("decoder_sparse_step = {}", c.decoder_sparse_step));
  if (!c.mlp_only_layers.empty()) return no_key_for(place, "mlp_only_layers");
  keys.u32("expert_count", c.n_routed_experts);
  keys.u32("expert_used_count", c.num_experts_per_tok);
  keys.u32("expert_feed_forward_length", c.moe_intermediate_size);
  keys.flag("expert_weights_norm", c.norm_topk_prob);
  if (!c.norm_topk_prob)
    notes->add(
        "norm_topk_prob = false is written as expert_weights_norm, but llama.cpp always normalises the weights "
        "of qwen3moe: its output will differ");
  return {};
}

constexpr int32_t kNormal = 1, kUnused = 5;  // tokenizer.ggml.token_type

struct FileType {
  DType quant;
  uint32_t number;  // llama_ftype
};
constexpr FileType kFileTypes[] = {{DType::kF32, 0},     {DType::kF16, 1},     {DType::kQ4_0, 2},  {DType::kQ4_1, 3},
                                   {DType::kQ8_0, 7},    {DType::kQ5_0, 8},    {DType::kQ5_1, 9},  {DType::kQ2_K, 10},
                                   {DType::kQ3_K, 12},   {DType::kQ4_K, 14},   {DType::kQ5_K, 16}, {DType::kQ6_K, 18},
                                   {DType::kIQ4_NL, 25}, {DType::kIQ4_XS, 30}, {DType::kBF16, 32}};

// The format with smaller blocks that comes nearest, as llama.cpp falls back.
DType smaller_blocks(DType dtype) {
  switch (dtype) {
    case DType::kQ2_K:
    case DType::kQ3_K:
    case DType::kIQ4_XS:
      return DType::kIQ4_NL;
    case DType::kQ4_K:
      return DType::kQ5_0;
    case DType::kQ5_K:
      return DType::kQ5_1;
    case DType::kQ6_K:
      return DType::kQ8_0;
    default:
      return DType::kF16;
  }
}

// Errors of the head go straight into the logits, so it is kept at six bits where the rest has fewer.
DType head_dtype(DType quant) {
  return is_quantised(quant) && quant != DType::kQ8_0 ? DType::kQ6_K : quant;
}

}  // namespace

void ExportNotes::add_fallback(DType wanted, DType kept, std::string_view tensor, int64_t cols) {
  for (Fallback& f : fallbacks_) {
    if (f.wanted == wanted && f.kept == kept) {
      ++f.tensors;
      return;
    }
  }
  fallbacks_.push_back({wanted, kept, std::string(tensor), cols, 1});
}

std::vector<std::string> ExportNotes::all() const {
  std::vector<std::string> notes = notes_;
  for (const Fallback& f : fallbacks_) {
    const std::string whose =
        f.tensors == 1 ? fmt::format("'{}' has rows of {}, which", f.first, f.cols)
                       : fmt::format("{} tensors ('{}' with rows of {} is the first)", f.tensors, f.first, f.cols);
    notes.push_back(fmt::format("{} {} no whole blocks of {}: kept as {}", whose, f.tensors == 1 ? "are" : "have",
                                dtype_name(f.wanted), dtype_name(f.kept)));
  }
  return notes;
}

Status set_architecture_keys(const ModelConfig& c, std::string_view place, GgufMetadata* out, ExportNotes* notes) {
  const std::string_view architecture = gguf_architecture(c.architecture);
  out->set_string("general.architecture", architecture);
  Keys keys(architecture, out);
  keys.u32("block_count", c.num_hidden_layers + c.num_nextn_predict_layers);
  keys.u32("context_length", c.max_position_embeddings);
  keys.u32("embedding_length", c.hidden_size);
  keys.u32("feed_forward_length", c.intermediate_size);
  keys.u32("attention.head_count", c.num_attention_heads);
  keys.f32("attention.layer_norm_rms_epsilon", c.rms_norm_eps);
  keys.u32("vocab_size", c.vocab_size);
  if (c.mla()) {
    set_mla(c, keys);
    TRY(set_deepseek_experts(c, place, keys, notes));
  } else {
    keys.u32("attention.head_count_kv", c.num_key_value_heads);
    keys.u32("attention.key_length", c.head_dim);
    keys.u32("attention.value_length", c.head_dim);
    if (c.architecture == Architecture::kQwen3Moe) TRY(set_qwen_experts(c, place, keys, notes));
    const bool qwen = c.architecture != Architecture::kLlama;
    if (qwen && c.o_bias) notes->add("llama.cpp knows no bias of the output projection here and refuses the file");
    if (c.architecture == Architecture::kQwen2 && c.head_dim * c.num_attention_heads != c.hidden_size)
      notes->add("llama.cpp expects qwen2's heads to add up to hidden_size and refuses the file");
  }
  return set_rope(c, place, keys, notes);
}

std::vector<float> rope_factors(const ModelConfig& c) {
  const RopeScaling& s = c.rope_scaling;
  if (s.type == RopeScaling::Type::kFactors) return s.factors;
  if (s.type != RopeScaling::Type::kLlama3) return {};
  const Rope plain(c.head_dim, c.rope_theta, RopeScaling()), scaled(c.head_dim, c.rope_theta, s);
  std::vector<float> factors(plain.inv_freq().size());
  for (size_t i = 0; i < factors.size(); ++i) factors[i] = plain.inv_freq()[i] / scaled.inv_freq()[i];
  return factors;
}

Status set_tokenizer_keys(const GgufVocab& vocab, int64_t vocab_size, std::span<const int32_t> eos_ids,
                          std::string_view place, GgufMetadata* out) {
  const int64_t known = static_cast<int64_t>(vocab.tokens.size());
  if (known > vocab_size) {
    return make_error(
        Code::kUnsupported,
        "{}: the tokenizer has {} tokens, the model's vocab_size is {}. Hint: --no-tokenizer leaves it out", place,
        known, vocab_size);
  }
  std::vector<std::string> filler;
  filler.reserve(static_cast<size_t>(vocab_size - known));
  for (int64_t i = known; i < vocab_size; ++i) filler.push_back(fmt::format("[PAD{}]", i));
  std::vector<std::string_view> tokens = vocab.tokens;
  tokens.insert(tokens.end(), filler.begin(), filler.end());
  std::vector<int32_t> types = vocab.token_types;
  types.resize(static_cast<size_t>(known), kNormal);
  types.resize(static_cast<size_t>(vocab_size), kUnused);

  out->set_string("tokenizer.ggml.model", vocab.model);
  if (!vocab.pre.empty()) out->set_string("tokenizer.ggml.pre", vocab.pre);
  out->set_strings("tokenizer.ggml.tokens", std::span<const std::string_view>(tokens));
  out->set_i32s("tokenizer.ggml.token_type", types);
  out->set_strings("tokenizer.ggml.merges", std::span<const std::string_view>(vocab.merges));
  int64_t eos = vocab.eos_id, eot = -1;
  for (int32_t id : eos_ids) {
    if (id < 0 || id >= vocab_size) continue;
    if (eos < 0) eos = id;
    if (id != eos && eot < 0) eot = id;
  }
  auto set_id = [&](std::string_view key, int64_t id) {
    if (id >= 0) out->set_u32(key, static_cast<uint32_t>(id));
  };
  set_id("tokenizer.ggml.bos_token_id", vocab.bos_id);
  set_id("tokenizer.ggml.eos_token_id", eos);
  set_id("tokenizer.ggml.eot_token_id", eot);
  set_id("tokenizer.ggml.unknown_token_id", vocab.unk_id);
  set_id("tokenizer.ggml.padding_token_id", vocab.pad_id);
  if (vocab.add_bos) out->set_bool("tokenizer.ggml.add_bos_token", *vocab.add_bos);
  if (vocab.add_eos) out->set_bool("tokenizer.ggml.add_eos_token", *vocab.add_eos);
  out->set_bool("tokenizer.ggml.add_space_prefix", vocab.add_space_prefix);
  return {};
}

void set_no_tokenizer_keys(GgufMetadata* out) {
  out->set_string("tokenizer.ggml.model", "none");
}

void set_file_type_keys(DType quant, GgufMetadata* out) {
  const FileType* type =
      std::find_if(std::begin(kFileTypes), std::end(kFileTypes), [&](const FileType& t) { return t.quant == quant; });
  if (type != std::end(kFileTypes)) out->set_u32("general.file_type", type->number);
  out->set_u32("general.quantization_version", 2);
}

ExportDType gguf_dtypes(const ModelConfig& config, DType quant, ExportNotes* notes) {
  return [tied = config.tie_word_embeddings, quant, notes](const WeightSpec& spec, int64_t cols) {
    if (spec.router || spec.shape.size() == 1) return DType::kF32;
    const bool head = spec.name == "lm_head.weight" || spec.name.ends_with("shared_head.head.weight") ||
                      (tied && spec.name == "model.embed_tokens.weight");
    DType dtype = head ? head_dtype(quant) : quant;
    while (cols % dtype_info(dtype).block_elements != 0) {
      const DType next = smaller_blocks(dtype);
      notes->add_fallback(dtype, next, spec.gguf_name, cols);
      dtype = next;
    }
    return dtype;
  };
}

}  // namespace westlake
