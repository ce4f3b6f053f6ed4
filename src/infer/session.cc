#include "infer/session.h"

#include <algorithm>

namespace westlake {

int64_t default_context(const ModelConfig& config) {
  constexpr int64_t kDefaultContext = 8192;
  return config.max_position_embeddings > 0 ? std::min(config.max_position_embeddings, kDefaultContext)
                                            : kDefaultContext;
}

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

Session::Session(Context& context, const Model& model, const SessionOptions& options)
    : ctx_(&context),
      model_(&model),
      options_(options),
      pool_(std::make_unique<PagePool>(model.cache_shape(kPageTokens), options.cache_limit_bytes)),
      cache_(std::make_unique<SequenceCache>(*pool_)),
      logits_(static_cast<size_t>(model.config().vocab_size)) {}

Result<Session> Session::create(Context& context, const Model& model, const SessionOptions& options) {
  SessionOptions o = options;
  const int64_t longest = model.config().max_position_embeddings;
  if (o.context == 0) o.context = default_context(model.config());
  if (o.context < 1)
    return make_error(Code::kInvalidArgument, "a context of {} tokens, expected at least 1", o.context);
  if (longest > 0 && o.context > longest) {
    return make_error(Code::kInvalidArgument,
                      "a context of {} tokens, the model was made for {} (max_position_embeddings). Hint: a shorter "
                      "--ctx",
                      o.context, longest);
  }
  if (o.chunk < 1) return make_error(Code::kInvalidArgument, "chunks of {} tokens, expected at least 1", o.chunk);
  if (o.cache_limit_bytes < 0)
    return make_error(Code::kInvalidArgument, "a cache limit of {} bytes", o.cache_limit_bytes);
  return Session(context, model, o);
}

Status Session::check_tokens(std::span<const int32_t> tokens) const {
  const int64_t V = model_->config().vocab_size;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] >= V) {
      return make_error(Code::kInvalidArgument, "token {} of the prompt is {}, the model knows ids 0 to {}", i,
                        tokens[i], V - 1);
    }
  }
  return {};
}

int64_t Session::common_prefix(std::span<const int32_t> tokens) const {
  const size_t n = std::min(tokens.size(), tokens_.size());
  return std::mismatch(tokens.begin(), tokens.begin() + static_cast<ptrdiff_t>(n), tokens_.begin()).first -
         tokens.begin();
}

void Session::truncate(int64_t n) {
  CHECK(n >= 0 && n <= length(), "truncate to {} of {}", n, length());
  cache_->truncate(n);
  tokens_.resize(static_cast<size_t>(n));
}

Result<std::span<const float>> Session::sync(std::span<const int32_t> tokens, const std::atomic<bool>* cancel) {
  if (tokens.empty()) return make_error(Code::kInvalidArgument, "the prompt is empty: nothing to continue");
  TRY(check_tokens(tokens));
  const auto n = static_cast<int64_t>(tokens.size());
  // Before anything is forgotten: a prompt that does not fit leaves the session as it was.
  if (n > context()) return make_error(Code::kExhausted, "prompt is {} tokens, context {}", n, context());
  const int64_t kept = std::min(common_prefix(tokens), n - 1);
  truncate(kept);
  return append(tokens.subspan(static_cast<size_t>(kept)), MlaForm::kExpanded, cancel);
}

Result<std::span<const float>> Session::append(std::span<const int32_t> tokens, MlaForm form,
                                               const std::atomic<bool>* cancel) {
  if (tokens.empty()) return make_error(Code::kInvalidArgument, "no tokens to add");
  TRY(check_tokens(tokens));
  const auto n = static_cast<int64_t>(tokens.size());
  if (length() + n > context()) {
    return make_error(Code::kExhausted, "{} tokens after {} are {} tokens, context {}", n, length(), length() + n,
                      context());
  }
  for (int64_t done = 0; done < n;) {
    if (cancel != nullptr && cancel->load(std::memory_order_relaxed)) return make_error(Code::kCancelled, "cancelled");
    const int64_t count = std::min(options_.chunk, n - done);
    const bool last = done + count == n;
    Segment segment;
    segment.tokens = tokens.subspan(static_cast<size_t>(done), static_cast<size_t>(count));
    segment.start = length();
    segment.form = form;
    segment.logits_from = last ? count - 1 : count;
    TRY(cache_->ensure(length() + count));
    segment.pages = cache_->pages();
    model_->forward(*ctx_, {&segment, 1}, kPageTokens, logits_.data());
    cache_->set_length(length() + count);
    tokens_.insert(tokens_.end(), segment.tokens.begin(), segment.tokens.end());
    done += count;
  }
  return std::span<const float>(logits_);
}

}  // namespace westlake
