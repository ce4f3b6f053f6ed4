// The router of a mixture of experts: which experts a token goes to and with what weight.
//   s = softmax(x W^T) or sigmoid(x W^T), choice = s + bias (noaux_tc)
//   groups: only the topk_group best of n_group groups may be chosen from; a group's score is its best expert
//           (group_limited_greedy) or the sum of its best two (noaux_tc)
//   chosen = the num_experts_per_tok largest of choice; weight = s (without the bias), divided by their sum when
//   norm_topk_prob, times routed_scaling_factor.
// Source: DeepSeek-V2 (arXiv 2405.04434) 2.2.2, DeepSeek-V3 (arXiv 2412.19437) eq. 12-16. Float32 throughout.
#pragma once

#include <cstdint>

namespace westlake {

enum class RouterScore { kSoftmax, kSigmoid };
enum class RouterGroups { kNone, kBestExpert, kBestTwo };

struct RouterOptions {
  int64_t n_routed_experts = 0;     // E
  int64_t num_experts_per_tok = 0;  // K
  int64_t n_group = 1;
  int64_t topk_group = 1;
  RouterScore score = RouterScore::kSoftmax;
  RouterGroups groups = RouterGroups::kNone;
  bool norm_topk_prob = false;
  float norm_epsilon = 0;  // added to the sum: 1e-20 for DeepSeek
  float routed_scaling_factor = 1;
};

// One token. logits [E] are overwritten; bias [E] or null; scratch [E + 2 n_group] floats.
// experts [K] best first, ties to the lower index; weights [K].
void route_token(const RouterOptions& options, float* logits, const float* e_score_correction_bias, float* scratch,
                 int32_t* experts, float* weights);

}  // namespace westlake
