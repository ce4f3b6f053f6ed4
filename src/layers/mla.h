// Multi-head latent attention: keys and values of all heads live in one small latent a position.
//   c = norm(x Wkv_a [: lora]),  k_rope = rope(x Wkv_a [lora :])         cached: [c | k_rope], lora + rope floats
//   q_h = [q_nope | rope(q_rope)],  k_h = [W_UK_h c | k_rope],  v_h = W_UV_h c
//   out = concat_h softmax(scale q_h k_h^T) v_h  Wo
// Two forms of the same product. Expanded: k_h and v_h are rebuilt for every position. Absorbed: since
// q_nope . (W_UK c) = (W_UK^T q_nope) . c and sum_s p_s (W_UV c_s) = W_UV (sum_s p_s c_s), attention runs over the
// latents: per key 2 lora + rope multiply-adds a head instead of nope + rope + v, but nothing is rebuilt.
// Source: DeepSeek-V2 (arXiv 2405.04434) 2.1 and appendix B; DeepSeek-V3's published inference/model.py.
#pragma once

#include <span>

#include "layers/attention.h"

namespace westlake {

struct MlaOptions {
  int64_t hidden_size = 0;          // D
  int64_t num_attention_heads = 0;  // H
  int64_t kv_lora_rank = 0;         // lora
  int64_t qk_nope_head_dim = 0;     // nope
  int64_t qk_rope_head_dim = 0;     // rope
  int64_t v_head_dim = 0;           // v
  float scale = 1;                  // of the scores, YaRN's mscale inside
  // The published code fixes eps of the two latent norms, whatever rms_norm_eps says.
  double latent_eps = 1e-6;

  int64_t qk_head_dim() const { return qk_nope_head_dim + qk_rope_head_dim; }
  int64_t kv_width() const { return kv_lora_rank + qk_rope_head_dim; }
  // Over an int8 cache: where not, every segment is absorbed.
  bool expands_q8() const {
    return kv_lora_rank % 64 == 0 && qk_nope_head_dim % 64 == 0 && qk_rope_head_dim % 64 == 0 && v_head_dim % 64 == 0;
  }
};

struct MlaParams {
  // Query: either q_proj, or q_a_proj, q_a_layernorm, q_b_proj.
  Mat q_proj;                             // [H*(nope+rope), D]
  Mat q_a_proj;                           // [q_lora, D]
  const float* q_a_layernorm = nullptr;   // [q_lora]
  Mat q_b_proj;                           // [H*(nope+rope), q_lora]
  Mat kv_a_proj_with_mqa;                 // [lora+rope, D]
  const float* kv_a_layernorm = nullptr;  // [lora]
  // Up-projection: either kv_b_proj with rows [W_UK_h; W_UV_h] a head, or split as GGUF files have it.
  Mat kv_b_proj;  // [H*(nope+v), lora]
  Mat k_b_proj;   // [H*lora, nope]: W_UK_h transposed
  Mat v_b_proj;   // [H*v, lora]
  Mat o_proj;     // [D, H*v]
};

// x: [T, D], normed. out: [T, D]. Writes the new latents into the caches. Each segment runs in its own form.
void mla_forward(Context& ctx, const MlaOptions& options, const MlaParams& params, const RopeAngles& angles,
                 std::span<const AttentionSegment> segments, const float* x, int64_t T, float* out);

}  // namespace westlake
