#include "infer/scoring.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "infer/kv_cache.h"

namespace westlake {
namespace {

// Tokens and texts of one pass: enough that products are large, and that logits stay some hundred MB at most.
constexpr int64_t kPassTokens = 1024;
constexpr int64_t kPassLogits = int64_t{32} << 20;

Status check(const ScoreRequest& request, int64_t V) {
  const int64_t n = static_cast<int64_t>(request.tokens.size());
  if (request.first < 1 || request.first >= n)
    return make_error(Code::kInvalidArgument, "a text of {} tokens has nothing to score from {} on", n, request.first);
  for (const int32_t id : request.tokens) {
    if (id < 0 || id >= V) return make_error(Code::kInvalidArgument, "token {} is outside the vocabulary of {}", id, V);
  }
  return {};
}

ScoreResult score(const ScoreRequest& request, const float* logits, int64_t V) {
  ScoreResult result;
  for (size_t i = static_cast<size_t>(request.first); i < request.tokens.size(); ++i, logits += V) {
    result.log_prob += logits[request.tokens[i]] - log_sum_exp(logits, V);
    result.greedy = result.greedy && std::max_element(logits, logits + V) - logits == request.tokens[i];
    ++result.tokens;
  }
  return result;
}

}  // namespace

double log_sum_exp(const float* x, int64_t n) {
  const float most = *std::max_element(x, x + n);
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += std::exp(static_cast<double>(x[i]) - most);
  return most + std::log(sum);
}

Result<std::vector<ScoreResult>> score_texts(Context& ctx, const Model& model, std::span<const ScoreRequest> requests,
                                             const std::function<void(int64_t)>& done) {
  const int64_t V = model.config().vocab_size;
  for (const ScoreRequest& request : requests) TRY(check(request, V));
  std::vector<ScoreResult> results;
  std::vector<float> logits;
  PagePool pool(model.cache_shape(kPageTokens));
  while (results.size() < requests.size()) {
    std::vector<std::unique_ptr<SequenceCache>> caches;
    std::vector<Segment> segments;
    int64_t tokens = 0, rows = 0;
    for (size_t i = results.size(); i < requests.size(); ++i) {
      const ScoreRequest& r = requests[i];
      const int64_t n = static_cast<int64_t>(r.tokens.size()) - 1, scored = n - r.first + 1;
      if (!segments.empty() && (tokens + n > kPassTokens || (rows + scored) * V > kPassLogits)) break;
      caches.push_back(std::make_unique<SequenceCache>(pool));
      TRY(caches.back()->ensure(n));
      Segment segment;
      segment.tokens = std::span(r.tokens).first(n);  // the last token is only predicted
      segment.pages = caches.back()->pages();
      segment.logits_from = r.first - 1;
      segments.push_back(segment);
      tokens += n;
      rows += scored;
    }
    logits.resize(std::max<size_t>(logits.size(), rows * V));
    model.forward(ctx, segments, kPageTokens, logits.data());
    const size_t first = results.size();
    int64_t row = 0;
    for (size_t i = 0; i < segments.size(); ++i) {
      results.push_back(score(requests[first + i], logits.data() + row * V, V));
      row += results.back().tokens;
    }
    if (done) done(static_cast<int64_t>(results.size()));
  }
  return results;
}

}  // namespace westlake
