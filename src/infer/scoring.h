// Scoring: how likely a model finds given texts. For evaluation, where nothing is generated.
// Idea: many short texts go through the model as the segments of one batch, so that a small model is not read once for
// every sentence.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/result.h"
#include "kernels/context.h"
#include "model/model.h"

namespace westlake {

// log sum_i exp(x[i]) of a row of logits, n >= 1, added in double.
double log_sum_exp(const float* x, int64_t n);

// A text of which the tokens from `first` on are scored, each given all before it.
struct ScoreRequest {
  std::vector<int32_t> tokens;
  int64_t first = 1;  // >= 1
};

struct ScoreResult {
  double log_prob = 0;  // nats, summed over the scored tokens
  int64_t tokens = 0;
  bool greedy = true;  // each scored token was the model's best
};

// In the order of the requests. Errors: kInvalidArgument for a request that scores nothing, or an id outside the
// vocabulary; kExhausted for memory. `done`, if any, is told how many are ready.
Result<std::vector<ScoreResult>> score_texts(Context& ctx, const Model& model, std::span<const ScoreRequest> requests,
                                             const std::function<void(int64_t)>& done = {});

}  // namespace westlake
