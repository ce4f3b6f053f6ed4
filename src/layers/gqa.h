// Grouped-query attention: H query heads share KVH key and value heads.
//   q = rope(norm(x Wq + bq)), k = rope(norm(x Wk + bk)), v = x Wv + bv
//   out = concat_h softmax(scale q_h K_g(h)^T) V_g(h)  Wo + bo
// Source: Ainslie et al., "GQA", 2023; the q and k norms are Qwen3's.
// Cost a token: weights 2 D hd (H + KVH) FLOPs x 2; attention 4 H hd S FLOPs over 8 KVH hd S bytes of cache.
#pragma once

#include <span>

#include "layers/attention.h"

namespace westlake {

struct GqaOptions {
  int64_t hidden_size = 0;          // D
  int64_t num_attention_heads = 0;  // H
  int64_t num_key_value_heads = 0;  // KVH
  int64_t head_dim = 0;             // hd
  float scale = 1;                  // of the scores
  double rms_norm_eps = 1e-6;       // of the q and k norms
  // Pairs of RoPE: (i, i + hd/2), or (2i, 2i+1) where a GGUF has the rows of q and k reordered (llama).
  bool rope_interleaved = false;
};

struct GqaParams {
  Mat q_proj;  // [H*hd, D]
  Mat k_proj;  // [KVH*hd, D]
  Mat v_proj;  // [KVH*hd, D]
  Mat o_proj;  // [D, H*hd]
  // Null where the model has none.
  const float* q_bias = nullptr;  // [H*hd]
  const float* k_bias = nullptr;  // [KVH*hd]
  const float* v_bias = nullptr;  // [KVH*hd]
  const float* o_bias = nullptr;  // [D]
  const float* q_norm = nullptr;  // [hd]
  const float* k_norm = nullptr;  // [hd]
};

// x: [T, D], normed. out: [T, D]. Writes the new keys and values into the caches: a row is [K heads | V heads].
void gqa_forward(Context& ctx, const GqaOptions& options, const GqaParams& params, const RopeAngles& angles,
                 std::span<const AttentionSegment> segments, const float* x, int64_t T, float* out);

}  // namespace westlake
