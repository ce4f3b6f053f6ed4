// Rotary position embedding: angles by position, with the scalings published models use.
// Idea: channel pair i of a head turns by position * inv_freq[i]; long-context models stretch the slow pairs.
// Source: Su et al. 2021 (RoPE); Peng et al. 2023 (YaRN); Llama 3.1's by-parts rule; transformers' modeling_rope_utils.
#pragma once

#include <cstdint>
#include <vector>

namespace westlake {

struct RopeScaling {
  enum class Type { kNone, kLinear, kYarn, kLlama3, kFactors };
  Type type = Type::kNone;
  double factor = 1;
  double original_max_position_embeddings = 0;
  // YaRN: pairs that turn more than beta_fast times over the original context stay, fewer than beta_slow are stretched.
  double beta_fast = 32, beta_slow = 1;
  double mscale = 0, mscale_all_dim = 0;  // 0: absent
  double attention_factor = 0;            // 0: derived
  bool truncate = true;                   // floor and ceil the borders of the ramp
  // Llama 3
  double low_freq_factor = 1, high_freq_factor = 4;
  // kFactors: inv_freq[i] /= factors[i], as GGUF files keep Llama 3's rule in rope_freqs.weight
  std::vector<float> factors;
  bool operator==(const RopeScaling&) const = default;
};

// 0.1 * mscale * ln(factor) + 1, and 1 for factor <= 1 (YaRN's attention temperature).
double yarn_get_mscale(double factor, double mscale);

class Rope {
 public:
  Rope() = default;
  // `dim`: rotated channels of a head, even.
  Rope(int64_t dim, double rope_theta, const RopeScaling& scaling);

  int64_t dim() const { return static_cast<int64_t>(inv_freq_.size()) * 2; }
  const std::vector<float>& inv_freq() const { return inv_freq_; }
  double attention_factor() const { return attention_factor_; }

  // cos_out, sin_out: [dim/2] for one position, multiplied by the attention factor.
  void angles(int64_t position, float* cos_out, float* sin_out) const;

 private:
  std::vector<float> inv_freq_;  // [dim/2]
  double attention_factor_ = 1;
};

}  // namespace westlake
