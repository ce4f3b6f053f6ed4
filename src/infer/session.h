// Session: one sequence on one model: what its cache holds, and how it grows.
//
// sync(tokens) makes the cache hold exactly `tokens` and gives the logits after the last: the longest common prefix
// with what is there already is kept, the rest is computed in chunks. A chat therefore computes only what is new,
// whatever its template did to earlier turns. Prompts run with MLA's expanded form, single tokens with the absorbed
// one: same cache, same attention, other cost. Chunks of any size give the same bits; a token that was decoded alone
// and one that was prefilled agree bit for bit in GQA, and within the rounding of the two forms in MLA.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/thread_pool.h"
#include "infer/kv_cache.h"
#include "infer/sampler.h"
#include "kernels/context.h"
#include "model/model.h"
#include "text/tokenizer.h"

namespace westlake {

struct SessionOptions {
  int64_t context = 0;            // positions at most; 0: default_context()
  int64_t chunk = 512;            // tokens of a prompt that go through the model together
  int64_t cache_limit_bytes = 0;  // 0: no limit
};

// What the model was made for, but no more than 8192: an answer to "how long" that any machine can hold.
int64_t default_context(const ModelConfig& config);

enum class FinishReason {
  kStop,        // a token that ends the answer
  kStopString,  // one of GenerateOptions::stop
  kLength,      // max_tokens, or the end of the context
  kCancelled,
};
// "stop", "stop_string", "length", "cancelled".
std::string_view finish_reason_name(FinishReason reason);

struct GenerateOptions {
  int64_t max_tokens = -1;  // -1: to the end of the context
  SamplerOptions sampler;
  std::vector<int32_t> stop_ids;
  std::vector<std::string> stop;  // the answer ends before any of these
  bool ignore_eos = false;        // stop_ids do not stop
  bool skip_special = true;       // control tokens have no text
  const std::atomic<bool>* cancel = nullptr;
};

struct GenerateStats {
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;  // of the prompt, not computed again
  double prefill_s = 0;
  double decode_s = 0;  // from the first token on
};

struct Generated {
  std::vector<int32_t> ids;  // with the token that stopped it, if one did
  std::string text;          // without a stop string
  FinishReason finish_reason = FinishReason::kLength;
  GenerateStats stats;
};

// Sees every token with the text that has become certain by it: whole characters, perhaps none. What is held back to
// the end comes with token -1.
using TokenCallback = FunctionRef<void(int32_t token, std::string_view text)>;

class Session {
 public:
  // Requires: context and model outlive the session. Errors: kInvalidArgument for a context or chunk that cannot be.
  static Result<Session> create(Context& context, const Model& model, const SessionOptions& options = {});

  int64_t length() const { return static_cast<int64_t>(tokens_.size()); }
  int64_t context() const { return options_.context; }
  std::span<const int32_t> tokens() const { return tokens_; }
  const Model& model() const { return *model_; }
  const PagePool& pool() const { return *pool_; }

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
  Status check_tokens(std::span<const int32_t> tokens) const;
  Context* ctx_;
  const Model* model_;
  SessionOptions options_;
  std::unique_ptr<PagePool> pool_;
  std::unique_ptr<SequenceCache> cache_;
  std::vector<int32_t> tokens_;  // what the cache holds
  std::vector<float> logits_;    // [V]
};

}  // namespace westlake
