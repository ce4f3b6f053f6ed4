// Session::generate: the loop from a prompt to an answer.
#include <algorithm>

#include "base/clock.h"
#include "infer/mtp_drafts.h"
#include "infer/session.h"

namespace westlake {

// Guesses of what follows answer.next(), as many as pay.
std::vector<int32_t> Session::drafts(const Answer& answer) {
  // The last row must have a place, and its logits a token that may still come.
  const int64_t most = std::min(answer.tokens_left(), context() - length()) - 1;
  StepEstimate step{times_.seconds(1), 1};
  const int64_t wanted = governor_.decide(times_, options_.speculation, most, &step);
  if (wanted == 0) return {};
  if (sequence_->mtp() == nullptr) return lookup_drafts(tokens(), answer.next(), wanted);
  DraftRequest request{sequence_.get(), answer.next(), wanted, {}};
  const int64_t begin_ns = now_ns();
  mtp_drafts(*ctx_, *model_, {&request, 1});
  times_.add_drafting(wanted, seconds_since(begin_ns));
  return request.drafts;
}

// The last token and its drafts through the model, and what they say into the answer.
Status Session::decode_pass(Answer* answer, TokenCallback callback) {
  const std::vector<int32_t> drafts = this->drafts(*answer);
  std::vector<int32_t> rows = {answer->next()};
  rows.insert(rows.end(), drafts.begin(), drafts.end());
  const int64_t begin_ns = now_ns();
  TRY(forward(rows, MlaForm::kAbsorbed, 0));
  times_.add(static_cast<int64_t>(rows.size()), seconds_since(begin_ns));
  TRY_ASSIGN(const int64_t right, answer->verify(drafts, logits_, callback));
  governor_.add(static_cast<int64_t>(drafts.size()), right);
  keep(1 + right);
  return {};
}

Result<Generated> Session::generate(std::span<const int32_t> prompt, const GenerateOptions& options,
                                    const Tokenizer* tokenizer, TokenCallback callback) {
  TRY(check_prompt_fits(prompt));
  TRY_ASSIGN(Answer answer, Answer::create(options, prompt, context(), model_->config().vocab_size, tokenizer));
  GenerateStats& stats = answer.generated().stats;
  stats.cached_tokens = std::min(common_prefix(prompt), stats.prompt_tokens - 1);
  const int64_t begin_ns = now_ns();
  const Result<std::span<const float>> logits = sync(prompt, options.cancel);
  stats.prefill_s = seconds_since(begin_ns);
  if (!logits.ok() && logits.error().code != Code::kCancelled) return logits.error();

  const int64_t decode_ns = now_ns();
  if (!logits.ok()) {
    answer.finish(FinishReason::kCancelled, callback);
  } else if (!answer.finished()) {
    TRY(answer.verify({}, *logits, callback));
  }
  // The last token of an answer is not in the cache; the one after needs it there.
  while (!answer.finished()) TRY(decode_pass(&answer, callback));
  stats.decode_s = seconds_since(decode_ns);
  return std::move(answer.generated());
}

}  // namespace westlake
