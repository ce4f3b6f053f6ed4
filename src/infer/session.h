// Session: one sequence on one model: what its cache holds, and how it grows.
//
// sync(tokens) makes the cache hold exactly `tokens` and gives the logits after the last: the longest common prefix
// with what is there already is kept, the rest is computed in chunks. A chat therefore computes only what is new,
// whatever its template did to earlier turns. Prompts run with the form of MLA that Model::prompt_form says, single
// tokens with the absorbed one: same cache, same attention, other cost. Chunks of any size give the same bits; a token
// that was decoded alone and one that was prefilled agree bit for bit in GQA, and within the rounding of the two forms
// in MLA.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"
#include "infer/answer.h"
#include "infer/sequence.h"
#include "infer/speculation.h"
#include "kernels/context.h"
#include "model/model.h"
#include "text/tokenizer.h"

namespace westlake {

struct SessionOptions {
  int64_t context = 0;            // positions at most; 0: default_context()
  int64_t chunk = 1024;           // tokens of a prompt that go through the model together
  int64_t cache_limit_bytes = 0;  // 0: no limit
  SpeculationOptions speculation;
};

// What the model was made for, but no more than 8192: an answer to "how long" that any machine can hold.
int64_t default_context(const ModelConfig& config);

// `context`, or default_context() for 0. Errors: kInvalidArgument for one that cannot be, or is more than the model was
// made for.
Result<int64_t> checked_context(const ModelConfig& config, int64_t context);

class Session {
 public:
  // Requires: context and model outlive the session. Errors: kInvalidArgument for a context or chunk that cannot be.
  static Result<Session> create(Context& context, const Model& model, const SessionOptions& options = {});

  int64_t length() const { return sequence_->length(); }
  int64_t context() const { return options_.context; }
  std::span<const int32_t> tokens() const { return sequence_->tokens(); }
  const Model& model() const { return *model_; }
  const PagePool& pool() const { return *pools_->model; }
  Speculation speculation() const { return options_.speculation.kind; }

  // The cache holds `tokens`; returns the logits [V] after the last, valid until the next call. At least the last token
  // is computed. When cancelled, what has been computed stays.
  // Errors: kExhausted when tokens are more than the context, kInvalidArgument for none or an id outside the
  // vocabulary, kCancelled.
  Result<std::span<const float>> sync(std::span<const int32_t> tokens, const std::atomic<bool>* cancel = nullptr);

  // Adds tokens to what is there. Errors: as sync.
  Result<std::span<const float>> append(std::span<const int32_t> tokens, MlaForm form = MlaForm::kExpanded,
                                        const std::atomic<bool>* cancel = nullptr);
  // Adds one token of the answer.
  Result<std::span<const float>> decode(int32_t token) { return append({&token, 1}, MlaForm::kAbsorbed); }

  // Forgets positions [n, ...). Requires: 0 <= n <= length().
  void truncate(int64_t n);

  // How many of `tokens` are in the cache already, from the first on.
  int64_t common_prefix(std::span<const int32_t> tokens) const;

  // sync(prompt), then tokens until something stops it. tokenizer may be null: no text then, and no stop strings.
  // A cancel is a finish reason, not an error. Errors: as sync; of the options; of the sampler.
  Result<Generated> generate(std::span<const int32_t> prompt, const GenerateOptions& options,
                             const Tokenizer* tokenizer, TokenCallback callback);

 private:
  Session(Context& context, const Model& model, const SessionOptions& options);
  Status check_prompt_fits(std::span<const int32_t> tokens) const;
  Status forward(std::span<const int32_t> rows, MlaForm form, int64_t logits_from);
  void keep(int64_t n);
  std::vector<int32_t> drafts(const Answer& answer);
  Status decode_pass(Answer* answer, TokenCallback callback);

  Context* ctx_;
  const Model* model_;
  SessionOptions options_;
  std::unique_ptr<CachePools> pools_;
  std::unique_ptr<Sequence> sequence_;
  StepTimes times_;
  DraftGovernor governor_;
  std::vector<float> logits_;  // of the last pass, a row for each that was asked for [n, V]
  std::vector<float> normed_;  // [T, D] of the last pass, where an MTP module asks for it
};

}  // namespace westlake
