#include "model/layer_options.h"

namespace westlake {

GqaOptions gqa_options(const ModelConfig& c, bool rope_interleaved) {
  GqaOptions o;
  o.hidden_size = c.hidden_size;
  o.num_attention_heads = c.num_attention_heads;
  o.num_key_value_heads = c.num_key_value_heads;
  o.head_dim = c.head_dim;
  o.scale = static_cast<float>(attention_scale(c));
  o.rms_norm_eps = c.rms_norm_eps;
  o.rope_interleaved = rope_interleaved;
  return o;
}

MlaOptions mla_options(const ModelConfig& c) {
  MlaOptions o;
  o.hidden_size = c.hidden_size;
  o.num_attention_heads = c.num_attention_heads;
  o.kv_lora_rank = c.kv_lora_rank;
  o.qk_nope_head_dim = c.qk_nope_head_dim;
  o.qk_rope_head_dim = c.qk_rope_head_dim;
  o.v_head_dim = c.v_head_dim;
  o.scale = static_cast<float>(attention_scale(c));
  return o;
}

RouterOptions router_options(const ModelConfig& c) {
  RouterOptions o;
  o.n_routed_experts = c.n_routed_experts;
  o.num_experts_per_tok = c.num_experts_per_tok;
  o.n_group = c.n_group;
  o.topk_group = c.topk_group;
  o.score = c.scoring_func == "sigmoid" ? RouterScore::kSigmoid : RouterScore::kSoftmax;
  o.groups = c.topk_method == "noaux_tc"               ? RouterGroups::kBestTwo
             : c.topk_method == "group_limited_greedy" ? RouterGroups::kBestExpert
                                                       : RouterGroups::kNone;
  o.norm_topk_prob = c.norm_topk_prob;
  o.norm_epsilon = c.mla() ? 1e-20f : 0.0f;
  o.routed_scaling_factor = static_cast<float>(c.routed_scaling_factor);
  return o;
}

}  // namespace westlake
