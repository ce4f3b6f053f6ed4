#include "layers/router.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace westlake {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

void score(const RouterOptions& options, float* s) {
  const int64_t E = options.n_routed_experts;
  if (options.score == RouterScore::kSigmoid) {
    for (int64_t e = 0; e < E; ++e) s[e] = 1.0f / (1.0f + std::exp(-s[e]));
    return;
  }
  const float most = *std::max_element(s, s + E);
  float sum = 0;
  for (int64_t e = 0; e < E; ++e) sum += s[e] = std::exp(s[e] - most);
  for (int64_t e = 0; e < E; ++e) s[e] /= sum;
}

float group_score(RouterGroups rule, const float* choice, int64_t size) {
  float first = kNever, second = kNever;
  for (int64_t i = 0; i < size; ++i) {
    if (choice[i] > first) {
      second = first;
      first = choice[i];
    } else if (choice[i] > second) {
      second = choice[i];
    }
  }
  return rule == RouterGroups::kBestTwo ? first + second : first;
}

// Index of the largest; the first of equals. NaN never wins, index 0 when all are NaN.
int64_t largest(const float* x, int64_t n) {
  int64_t best = 0;
  for (int64_t i = 1; i < n; ++i) {
    if (x[i] > x[best] || std::isnan(x[best])) best = i;
  }
  return best;
}

}  // namespace

void route_token(const RouterOptions& options, float* logits, const float* bias, float* scratch, int32_t* experts,
                 float* weights) {
  const int64_t E = options.n_routed_experts, K = options.num_experts_per_tok, groups = options.n_group;
  float* s = logits;
  score(options, s);
  float* choice = scratch;
  for (int64_t e = 0; e < E; ++e) choice[e] = bias != nullptr ? s[e] + bias[e] : s[e];

  if (options.groups != RouterGroups::kNone && options.topk_group < groups) {
    const int64_t size = E / groups;
    float* group = scratch + E;
    float* kept = group + groups;
    for (int64_t g = 0; g < groups; ++g) group[g] = group_score(options.groups, choice + g * size, size);
    std::fill(kept, kept + groups, 0.0f);
    for (int64_t k = 0; k < options.topk_group; ++k) {
      const int64_t g = largest(group, groups);
      group[g] = kNever;
      kept[g] = 1;
    }
    for (int64_t g = 0; g < groups; ++g) {
      if (kept[g] == 0) std::fill(choice + g * size, choice + (g + 1) * size, kNever);
    }
  }

  float sum = 0;
  for (int64_t k = 0; k < K; ++k) {
    const int64_t e = largest(choice, E);
    choice[e] = kNever;
    experts[k] = static_cast<int32_t>(e);
    weights[k] = s[e];
    sum += s[e];
  }
  const float divisor = options.norm_topk_prob ? sum + options.norm_epsilon : 1.0f;
  for (int64_t k = 0; k < K; ++k) weights[k] = weights[k] / divisor * options.routed_scaling_factor;
}

}  // namespace westlake
