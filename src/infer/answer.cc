#include "infer/answer.h"

#include <algorithm>

namespace westlake {

std::string_view finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kStopString:
      return "stop_string";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
  }
  return "unknown";
}

Status check_prompt(std::span<const int32_t> tokens, int64_t vocab_size) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] >= vocab_size) {
      return make_error(Code::kInvalidArgument, "token {} of the prompt is {}, the model knows ids 0 to {}", i,
                        tokens[i], vocab_size - 1);
    }
  }
  return {};
}

Result<Answer> Answer::create(const GenerateOptions& options, std::span<const int32_t> prompt, int64_t context,
                              int64_t vocab_size, const Tokenizer* tokenizer) {
  const auto n = static_cast<int64_t>(prompt.size());
  CHECK(n >= 1 && n <= context, "prompt of {} in a context of {}", n, context);
  TRY_ASSIGN(Sampler sampler, Sampler::create(options.sampler, vocab_size));
  Answer answer(std::move(sampler), options);
  if (tokenizer != nullptr) {
    answer.decoder_.emplace(*tokenizer, DecodeOptions{.skip_special = options.skip_special});
  } else if (!options.stop.empty()) {
    return make_error(Code::kInvalidArgument, "stop strings need a tokenizer, the model comes without one");
  }
  TRY_ASSIGN(answer.matcher_, StopMatcher::create(options.stop));
  answer.sampler_.accept_prompt(prompt);
  answer.vocab_size_ = vocab_size;
  // The last token of an answer needs no place in the context.
  answer.limit_ = context - n + 1;
  if (options.max_tokens >= 0) answer.limit_ = std::min(answer.limit_, options.max_tokens);
  answer.finished_ = answer.limit_ == 0;
  answer.generated_.stats.prompt_tokens = n;
  return answer;
}

bool Answer::stops(int32_t token) const {
  return !options_.ignore_eos &&
         std::find(options_.stop_ids.begin(), options_.stop_ids.end(), token) != options_.stop_ids.end();
}

Result<int64_t> Answer::verify(std::span<const int32_t> drafts, std::span<const float> logits, TokenCallback callback) {
  CHECK(!finished_ && logits.size() == (drafts.size() + 1) * static_cast<size_t>(vocab_size_), "{} logits, {} drafts",
        logits.size(), drafts.size());
  generated_.stats.drafted_tokens += static_cast<int64_t>(drafts.size());
  int64_t right = 0;
  for (;; ++right) {
    const auto row = static_cast<size_t>(right * vocab_size_);
    TRY_ASSIGN(const int32_t token, sampler_.sample(logits.subspan(row, static_cast<size_t>(vocab_size_))));
    sampler_.accept(token);
    take(token, callback);
    if (finished_ || right == static_cast<int64_t>(drafts.size()) || token != drafts[static_cast<size_t>(right)]) break;
    ++generated_.stats.accepted_tokens;
  }
  return right;
}

// Adds a token to the answer, and ends the answer when it is the last.
void Answer::take(int32_t token, TokenCallback callback) {
  generated_.ids.push_back(token);
  if (stops(token)) {
    callback(token, {});
    return finish(FinishReason::kStop, callback);
  }
  const std::string text = decoder_ ? matcher_.push(decoder_->push(token)) : std::string();
  generated_.text += text;
  callback(token, text);
  if (matcher_.matched()) return finish(FinishReason::kStopString, callback);
  if (tokens_left() == 0) return finish(FinishReason::kLength, callback);
  if (cancelled()) return finish(FinishReason::kCancelled, callback);
}

void Answer::finish(FinishReason reason, TokenCallback callback) {
  finished_ = true;
  generated_.finish_reason = reason;
  if (!decoder_ || matcher_.matched()) return;
  const std::string rest = matcher_.push(decoder_->flush()) + matcher_.flush();
  if (matcher_.matched()) generated_.finish_reason = FinishReason::kStopString;
  if (rest.empty()) return;
  generated_.text += rest;
  callback(-1, rest);
}

}  // namespace westlake
