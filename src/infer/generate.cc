// Session::generate: the loop from a prompt to an answer.
#include <algorithm>
#include <optional>

#include "base/clock.h"
#include "infer/session.h"
#include "infer/stop.h"

namespace westlake {
namespace {

// Ids to the text that may go out: decoded, without a stop string.
class TextStream {
 public:
  static Result<TextStream> create(const Tokenizer* tokenizer, const GenerateOptions& options) {
    TextStream stream;
    if (tokenizer != nullptr) {
      stream.decoder_.emplace(*tokenizer, DecodeOptions{.skip_special = options.skip_special});
    } else if (!options.stop.empty()) {
      return make_error(Code::kInvalidArgument, "stop strings need a tokenizer, the model comes without one");
    }
    TRY_ASSIGN(stream.matcher_, StopMatcher::create(options.stop));
    return stream;
  }

  std::string push(int32_t token) { return decoder_ ? matcher_.push(decoder_->push(token)) : std::string(); }
  std::string flush() {
    if (!decoder_ || matcher_.matched()) return {};
    return matcher_.push(decoder_->flush()) + matcher_.flush();
  }
  bool stopped() const { return matcher_.matched(); }

 private:
  std::optional<StreamDecoder> decoder_;
  StopMatcher matcher_;
};

bool is_cancelled(const GenerateOptions& options) {
  return options.cancel != nullptr && options.cancel->load(std::memory_order_relaxed);
}

bool stops(const GenerateOptions& options, int32_t token) {
  return !options.ignore_eos &&
         std::find(options.stop_ids.begin(), options.stop_ids.end(), token) != options.stop_ids.end();
}

}  // namespace

Result<Generated> Session::generate(std::span<const int32_t> prompt, const GenerateOptions& options,
                                    const Tokenizer* tokenizer, TokenCallback callback) {
  TRY_ASSIGN(Sampler sampler, Sampler::create(options.sampler, model_->config().vocab_size));
  TRY_ASSIGN(TextStream stream, TextStream::create(tokenizer, options));
  Generated out;
  out.stats.prompt_tokens = static_cast<int64_t>(prompt.size());
  out.stats.cached_tokens = std::min(common_prefix(prompt), std::max<int64_t>(0, out.stats.prompt_tokens - 1));
  const int64_t begin_ns = now_ns();
  Result<std::span<const float>> logits = sync(prompt, options.cancel);
  out.stats.prefill_s = seconds_since(begin_ns);
  if (!logits.ok()) {
    if (logits.error().code != Code::kCancelled) return logits.error();
    out.finish_reason = FinishReason::kCancelled;
    return out;
  }
  sampler.accept_prompt(prompt);

  const int64_t decode_ns = now_ns();
  out.finish_reason = FinishReason::kLength;
  while (options.max_tokens < 0 || static_cast<int64_t>(out.ids.size()) < options.max_tokens) {
    // The last token of an answer is not in the cache; the one after needs it there.
    if (!out.ids.empty()) {
      if (is_cancelled(options)) {
        out.finish_reason = FinishReason::kCancelled;
        break;
      }
      if (length() >= context()) break;
      logits = decode(out.ids.back());
      if (!logits.ok()) return logits.error();
    }
    TRY_ASSIGN(const int32_t token, sampler.sample(*logits));
    sampler.accept(token);
    out.ids.push_back(token);
    if (stops(options, token)) {
      out.finish_reason = FinishReason::kStop;
      callback(token, {});
      break;
    }
    const std::string text = stream.push(token);
    out.text += text;
    callback(token, text);
    if (stream.stopped()) {
      out.finish_reason = FinishReason::kStopString;
      break;
    }
  }
  const std::string rest = stream.flush();
  if (stream.stopped()) out.finish_reason = FinishReason::kStopString;
  out.text += rest;
  if (!rest.empty()) callback(-1, rest);
  out.stats.decode_s = seconds_since(decode_ns);
  return out;
}

}  // namespace westlake
