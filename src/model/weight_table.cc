// The one table of tensor names: published name | GGUF name | shape | member.
#include <fmt/format.h>

#include "model/weights.h"

namespace westlake {
namespace {

// Collects the rows of one layer: names get their prefixes here.
class Table {
 public:
  Table(std::vector<WeightSpec>* rows, std::string prefix, std::string gguf_prefix, int64_t layer)
      : rows_(rows), prefix_(std::move(prefix)), gguf_prefix_(std::move(gguf_prefix)), layer_(layer) {}

  template <typename Target>
  WeightSpec& add(std::string_view name, std::string_view gguf_name, std::vector<int64_t> shape, Target* target) {
    WeightSpec spec;
    if (!name.empty()) spec.name = prefix_ + std::string(name);
    if (!gguf_name.empty()) spec.gguf_name = gguf_prefix_ + std::string(gguf_name);
    spec.shape = std::move(shape);
    spec.layer = layer_;
    spec.target = target;
    rows_->push_back(std::move(spec));
    return rows_->back();
  }

 private:
  std::vector<WeightSpec>* rows_;
  std::string prefix_, gguf_prefix_;
  int64_t layer_;
};

void add_gqa(const ModelConfig& c, Table& t, GqaParams& p) {
  const int64_t D = c.hidden_size, q = c.num_attention_heads * c.head_dim, kv = c.num_key_value_heads * c.head_dim;
  const GgufLayout layout = c.architecture == Architecture::kLlama ? GgufLayout::kRopePairs : GgufLayout::kSame;
  auto rotated = [&](WeightSpec& spec, int64_t heads) {
    spec.layout = layout;
    spec.heads = heads;
  };
  rotated(t.add("self_attn.q_proj.weight", "attn_q.weight", {q, D}, &p.q_proj), c.num_attention_heads);
  rotated(t.add("self_attn.k_proj.weight", "attn_k.weight", {kv, D}, &p.k_proj), c.num_key_value_heads);
  t.add("self_attn.v_proj.weight", "attn_v.weight", {kv, D}, &p.v_proj);
  t.add("self_attn.o_proj.weight", "attn_output.weight", {D, q}, &p.o_proj);
  if (c.qkv_bias) {
    rotated(t.add("self_attn.q_proj.bias", "attn_q.bias", {q}, &p.q_bias), c.num_attention_heads);
    rotated(t.add("self_attn.k_proj.bias", "attn_k.bias", {kv}, &p.k_bias), c.num_key_value_heads);
    t.add("self_attn.v_proj.bias", "attn_v.bias", {kv}, &p.v_bias);
  }
  if (c.o_bias) t.add("self_attn.o_proj.bias", "attn_output.bias", {D}, &p.o_bias);
  if (c.qk_norm) {
    t.add("self_attn.q_norm.weight", "attn_q_norm.weight", {c.head_dim}, &p.q_norm);
    t.add("self_attn.k_norm.weight", "attn_k_norm.weight", {c.head_dim}, &p.k_norm);
  }
}

void add_mla(const ModelConfig& c, WeightFormat format, Table& t, MlaParams& p) {
  const int64_t D = c.hidden_size, H = c.num_attention_heads, lora = c.kv_lora_rank, q_lora = c.q_lora_rank;
  const int64_t nope = c.qk_nope_head_dim, rope = c.qk_rope_head_dim, v = c.v_head_dim, q = H * (nope + rope);
  if (q_lora > 0) {
    t.add("self_attn.q_a_proj.weight", "attn_q_a.weight", {q_lora, D}, &p.q_a_proj);
    t.add("self_attn.q_a_layernorm.weight", "attn_q_a_norm.weight", {q_lora}, &p.q_a_layernorm);
    t.add("self_attn.q_b_proj.weight", "attn_q_b.weight", {q, q_lora}, &p.q_b_proj);
  } else {
    t.add("self_attn.q_proj.weight", "attn_q.weight", {q, D}, &p.q_proj);
  }
  t.add("self_attn.kv_a_proj_with_mqa.weight", "attn_kv_a_mqa.weight", {lora + rope, D}, &p.kv_a_proj_with_mqa);
  t.add("self_attn.kv_a_layernorm.weight", "attn_kv_a_norm.weight", {lora}, &p.kv_a_layernorm);
  // GGUF files have the up-projection split by use; older ones whole (then k_b and v_b are absent).
  const bool gguf = format == WeightFormat::kGguf;
  t.add("self_attn.kv_b_proj.weight", "attn_kv_b.weight", {H * (nope + v), lora}, &p.kv_b_proj).optional = gguf;
  if (gguf) {
    auto split = [](WeightSpec& spec, GgufLayout layout) {
      spec.layout = layout;
      spec.optional = true;
    };
    split(t.add("", "attn_k_b.weight", {H, lora, nope}, &p.k_b_proj), GgufLayout::kKeyUp);
    split(t.add("", "attn_v_b.weight", {H, v, lora}, &p.v_b_proj), GgufLayout::kValueUp);
  }
  t.add("self_attn.o_proj.weight", "attn_output.weight", {D, H * v}, &p.o_proj);
}

void add_moe(const ModelConfig& c, Table& t, MoeParams& p) {
  const int64_t D = c.hidden_size, E = c.n_routed_experts, F = c.moe_intermediate_size;
  t.add("mlp.gate.weight", "ffn_gate_inp.weight", {E, D}, &p.gate).router = true;
  if (c.topk_method == "noaux_tc") {
    WeightSpec& bias = t.add("mlp.gate.e_score_correction_bias", "exp_probs_b.bias", {E}, &p.e_score_correction_bias);
    bias.router = true;
  }
  p.experts.resize(E);
  for (int64_t e = 0; e < E; ++e) {
    SwigluParams& expert = p.experts[e];
    const std::string name = fmt::format("mlp.experts.{}.", e);
    t.add(name + "gate_proj.weight", "ffn_gate_exps.weight", {F, D}, &expert.gate_proj).expert = e;
    t.add(name + "up_proj.weight", "ffn_up_exps.weight", {F, D}, &expert.up_proj).expert = e;
    t.add(name + "down_proj.weight", "ffn_down_exps.weight", {D, F}, &expert.down_proj).expert = e;
  }
  if (c.n_shared_experts > 0) {
    const int64_t width = F * c.n_shared_experts;
    SwigluParams& shared = p.shared_experts;
    t.add("mlp.shared_experts.gate_proj.weight", "ffn_gate_shexp.weight", {width, D}, &shared.gate_proj);
    t.add("mlp.shared_experts.up_proj.weight", "ffn_up_shexp.weight", {width, D}, &shared.up_proj);
    t.add("mlp.shared_experts.down_proj.weight", "ffn_down_shexp.weight", {D, width}, &shared.down_proj);
  }
}

void add_layer(const ModelConfig& c, WeightFormat format, int64_t layer, Table& t, LayerWeights& w) {
  const int64_t D = c.hidden_size, F = c.intermediate_size;
  t.add("input_layernorm.weight", "attn_norm.weight", {D}, &w.input_layernorm);
  if (c.mla()) {
    add_mla(c, format, t, w.mla);
  } else {
    add_gqa(c, t, w.gqa);
  }
  t.add("post_attention_layernorm.weight", "ffn_norm.weight", {D}, &w.post_attention_layernorm);
  if (c.is_moe_layer(layer)) {
    add_moe(c, t, w.moe);
  } else {
    t.add("mlp.gate_proj.weight", "ffn_gate.weight", {F, D}, &w.mlp.gate_proj);
    t.add("mlp.up_proj.weight", "ffn_up.weight", {F, D}, &w.mlp.up_proj);
    t.add("mlp.down_proj.weight", "ffn_down.weight", {D, F}, &w.mlp.down_proj);
  }
}

}  // namespace

std::vector<WeightSpec> weight_table(const ModelConfig& c, WeightFormat format, bool mtp, Weights* weights) {
  const int64_t D = c.hidden_size, V = c.vocab_size, L = c.num_hidden_layers;
  weights->layers.resize(L);
  weights->mtp.resize(mtp ? c.num_nextn_predict_layers : 0);
  std::vector<WeightSpec> rows;
  Table top(&rows, "", "", -1);
  top.add("model.embed_tokens.weight", "token_embd.weight", {V, D}, &weights->embed_tokens);
  for (int64_t i = 0; i < L; ++i) {
    Table layer(&rows, fmt::format("model.layers.{}.", i), fmt::format("blk.{}.", i), i);
    add_layer(c, format, i, layer, weights->layers[i]);
  }
  for (size_t m = 0; m < weights->mtp.size(); ++m) {
    const int64_t i = L + static_cast<int64_t>(m);
    MtpWeights& w = weights->mtp[m];
    Table layer(&rows, fmt::format("model.layers.{}.", i), fmt::format("blk.{}.", i), i);
    layer.add("embed_tokens.weight", "nextn.embed_tokens.weight", {V, D}, &w.embed_tokens).optional = true;
    layer.add("enorm.weight", "nextn.enorm.weight", {D}, &w.enorm);
    layer.add("hnorm.weight", "nextn.hnorm.weight", {D}, &w.hnorm);
    layer.add("eh_proj.weight", "nextn.eh_proj.weight", {D, 2 * D}, &w.eh_proj);
    add_layer(c, format, i, layer, w.layer);
    layer.add("shared_head.norm.weight", "nextn.shared_head_norm.weight", {D}, &w.shared_head_norm);
    layer.add("shared_head.head.weight", "nextn.shared_head_head.weight", {V, D}, &w.shared_head).optional = true;
  }
  top.add("model.norm.weight", "output_norm.weight", {D}, &weights->norm);
  // A GGUF says "tied" by having no output tensor.
  if (!c.tie_word_embeddings) {
    top.add("lm_head.weight", "output.weight", {V, D}, &weights->lm_head).optional = format == WeightFormat::kGguf;
  }
  return rows;
}

}  // namespace westlake
