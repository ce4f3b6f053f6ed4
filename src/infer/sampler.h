// The sampler: logits of one position to one token.
//
// Order, as Hugging Face's processors and vLLM have it; each step sees what the ones before have left:
//   1. repetition penalty   logit > 0: / r, else * r, for every token in the window of prompt and answer
//   2. presence, frequency  logit -= presence + frequency * count, for tokens of the answer so far
//   3. logit bias           logit += bias
//      temperature 0 ends here: the largest logit, of equals the lower id
//   4. temperature          logit / temperature
//   5. top-k                the k largest, of equals the lower ids
//   6. top-p                of those, renormalised, the fewest whose mass reaches p (at least one)
//   7. min-p                of those, the ones at least min_p times as probable as the best
//   8. a draw by one uniform number
//
// Nothing sorts the vocabulary: top-k selects, top-p sorts a head that doubles until its mass is enough.
// Source: Keskar et al., "CTRL", 2019 (repetition penalty); the OpenAI API (presence, frequency, bias); Holtzman et
// al., "The Curious Case of Neural Text Degeneration", 2019 (top-p); Nguyen et al., "Turning Up the Heat", 2024
// (min-p).
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/rng.h"

namespace westlake {

struct SamplerOptions {
  double temperature = 1;         // >= 0; 0: the most probable token
  int64_t top_k = 0;              // 0: all
  double top_p = 1;               // in (0, 1]; 1: all
  double min_p = 0;               // in [0, 1]; 0: all
  double repetition_penalty = 1;  // > 0; 1: none
  int64_t repeat_window = 0;      // tokens that the repetition penalty looks back on; 0: all
  double presence_penalty = 0;
  double frequency_penalty = 0;
  std::vector<std::pair<int32_t, float>> logit_bias;  // token, added to its logit
  uint64_t seed = 0;
};

class Sampler {
 public:
  // Errors: kInvalidArgument names the option, its value and what it may be.
  static Result<Sampler> create(const SamplerOptions& options, int64_t vocab_size);

  // Tokens of the prompt: seen by the repetition penalty alone.
  void accept_prompt(std::span<const int32_t> tokens);
  // A token of the answer.
  void accept(int32_t token);

  // Requires: logits of vocab_size. Does not accept() the token.
  // Errors: kCorrupt when a logit is NaN or +inf, or all are -inf: weights or arithmetic are broken.
  Result<int32_t> sample(std::span<const float> logits);

 private:
  struct Candidate {
    float value;  // the logit; from to_weights() on the probability relative to that of the best token
    int32_t id;
  };
  explicit Sampler(const SamplerOptions& options, int64_t vocab_size)
      : options_(options), vocab_size_(vocab_size), rng_(options.seed) {}

  Result<Candidate> largest(std::span<const float> logits) const;
  bool changes_logits() const;
  void apply_penalties(std::span<float> logits) const;
  void keep_top_k();
  void to_weights(float largest);
  void keep_top_p();
  void keep_min_p();
  int32_t draw();
  static bool before(const Candidate& a, const Candidate& b) {
    return a.value > b.value || (a.value == b.value && a.id < b.id);
  }

  SamplerOptions options_;
  int64_t vocab_size_;
  Rng rng_;
  std::vector<int32_t> history_;                   // prompt and answer; kept only where a penalty asks for it
  std::unordered_map<int32_t, int64_t> answered_;  // how often a token is in the answer
  std::vector<float> adjusted_;                    // logits after steps 1-3
  std::vector<Candidate> candidates_;
};

}  // namespace westlake
