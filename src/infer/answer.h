// Answer: what comes after a prompt: logits in, tokens and text out, until something ends it.
//
// Idea: sampling, stop tokens, stop strings and the decoding of text are the same whether one sequence runs (Session)
// or many (Engine), so they live here, and so does the check of drafts. A draft is a token that somebody guessed; the
// model computes [next, drafts...] in one pass, and verify() samples row after row as plain decoding would, for as long
// as what it samples is what was guessed. The text is therefore that of plain decoding, draw for draw, whatever the
// drafts were. This is speculative sampling for a draft that is certain of itself: the draft is taken with the
// probability that the model gives it, and the draw that rejects it is one from the model's distribution without it.
// Source: Leviathan et al., "Fast Inference from Transformers via Speculative Decoding", 2023.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/thread_pool.h"
#include "infer/sampler.h"
#include "infer/stop.h"
#include "text/tokenizer.h"

namespace westlake {

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
  int64_t drafted_tokens = 0;
  int64_t accepted_tokens = 0;  // of those drafted
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

// Errors: kInvalidArgument for a token that is none of the vocabulary's.
Status check_prompt(std::span<const int32_t> tokens, int64_t vocab_size);

class Answer {
 public:
  // To a prompt in a context of that many positions. tokenizer may be null: no text then, and no stop strings; it
  // outlives the answer. An answer of no tokens is finished at once.
  // Requires: 1 <= prompt length <= context. Errors: of the options, of the sampler.
  static Result<Answer> create(const GenerateOptions& options, std::span<const int32_t> prompt, int64_t context,
                               int64_t vocab_size, const Tokenizer* tokenizer);

  // Tokens of the answer that can still come.
  int64_t tokens_left() const { return limit_ - static_cast<int64_t>(generated_.ids.size()); }
  // The token that was sampled last; it is the one that goes through the model next.
  int32_t next() const { return generated_.ids.back(); }
  bool finished() const { return finished_; }
  bool cancelled() const { return options_.cancel != nullptr && options_.cancel->load(std::memory_order_relaxed); }

  // Samples from logits [1 + drafts, V], those after next() and after each draft; the first row alone when there are no
  // drafts. Stops behind the first token that is not the draft, or that ends the answer. Returns how many drafts were
  // right: so many rows of the pass hold, next()'s own aside. Errors: of the sampler.
  Result<int64_t> verify(std::span<const int32_t> drafts, std::span<const float> logits, TokenCallback callback);

  // Ends it, for example with kCancelled; text that was held back comes now.
  void finish(FinishReason reason, TokenCallback callback);

  Generated& generated() { return generated_; }
  const Generated& generated() const { return generated_; }

 private:
  Answer(Sampler sampler, const GenerateOptions& options) : sampler_(std::move(sampler)), options_(options) {}
  void take(int32_t token, TokenCallback callback);
  bool stops(int32_t token) const;

  Sampler sampler_;
  GenerateOptions options_;
  std::optional<StreamDecoder> decoder_;
  StopMatcher matcher_;
  int64_t limit_ = 0;  // tokens at most
  int64_t vocab_size_ = 0;
  bool finished_ = false;
  Generated generated_;
};

}  // namespace westlake
