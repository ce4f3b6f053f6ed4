#include "infer/session.h"

#include <algorithm>

#include "base/clock.h"
#include "infer/mtp_drafts.h"

namespace westlake {

int64_t default_context(const ModelConfig& config) {
  constexpr int64_t kDefaultContext = 8192;
  return config.max_position_embeddings > 0 ? std::min(config.max_position_embeddings, kDefaultContext)
                                            : kDefaultContext;
}

Result<int64_t> checked_context(const ModelConfig& config, int64_t context) {
  const int64_t longest = config.max_position_embeddings;
  if (context == 0) return default_context(config);
  if (context < 1) return make_error(Code::kInvalidArgument, "a context of {} tokens, expected at least 1", context);
  if (longest > 0 && context > longest) {
    return make_error(Code::kInvalidArgument,
                      "a context of {} tokens, the model was made for {} (max_position_embeddings). Hint: a shorter "
                      "--ctx",
                      context, longest);
  }
  return context;
}

Session::Session(Context& context, const Model& model, const SessionOptions& options)
    : ctx_(&context),
      model_(&model),
      options_(options),
      pools_(std::make_unique<CachePools>(model, options.speculation.kind == Speculation::kMtp,
                                          options.cache_limit_bytes)),
      sequence_(std::make_unique<Sequence>(model, *pools_)) {}

Result<Session> Session::create(Context& context, const Model& model, const SessionOptions& options) {
  SessionOptions o = options;
  TRY_ASSIGN(o.context, checked_context(model.config(), options.context));
  if (o.chunk < 1) return make_error(Code::kInvalidArgument, "chunks of {} tokens, expected at least 1", o.chunk);
  if (o.cache_limit_bytes < 0)
    return make_error(Code::kInvalidArgument, "a cache limit of {} bytes", o.cache_limit_bytes);
  TRY(check_speculation(o.speculation, model));
  return Session(context, model, o);
}

int64_t Session::common_prefix(std::span<const int32_t> tokens) const {
  const std::span<const int32_t> held = this->tokens();
  const auto n = static_cast<ptrdiff_t>(std::min(tokens.size(), held.size()));
  return std::mismatch(tokens.begin(), tokens.begin() + n, held.begin()).first - tokens.begin();
}

void Session::truncate(int64_t n) {
  sequence_->truncate(n);
}

Status Session::check_prompt_fits(std::span<const int32_t> tokens) const {
  if (tokens.empty()) return make_error(Code::kInvalidArgument, "the prompt is empty: nothing to continue");
  TRY(check_prompt(tokens, model_->config().vocab_size));
  const auto n = static_cast<int64_t>(tokens.size());
  if (n > context()) return make_error(Code::kExhausted, "prompt is {} tokens, context {}", n, context());
  return {};
}

Result<std::span<const float>> Session::sync(std::span<const int32_t> tokens, const std::atomic<bool>* cancel) {
  // Before anything is forgotten: a prompt that does not fit leaves the session as it was.
  TRY(check_prompt_fits(tokens));
  const int64_t kept = std::min(common_prefix(tokens), static_cast<int64_t>(tokens.size()) - 1);
  truncate(kept);
  const auto rest = tokens.subspan(static_cast<size_t>(kept));
  return append(rest, model_->prompt_form(static_cast<int64_t>(rest.size())), cancel);
}

Result<std::span<const float>> Session::append(std::span<const int32_t> tokens, MlaForm form,
                                               const std::atomic<bool>* cancel) {
  if (tokens.empty()) return make_error(Code::kInvalidArgument, "no tokens to add");
  TRY(check_prompt(tokens, model_->config().vocab_size));
  const auto n = static_cast<int64_t>(tokens.size());
  if (length() + n > context()) {
    return make_error(Code::kExhausted, "{} tokens after {} are {} tokens, context {}", n, length(), length() + n,
                      context());
  }
  for (int64_t done = 0; done < n;) {
    if (cancel != nullptr && cancel->load(std::memory_order_relaxed)) return make_error(Code::kCancelled, "cancelled");
    const int64_t count = prompt_piece(n - done, options_.chunk);
    const bool last = done + count == n;
    const auto rows = tokens.subspan(static_cast<size_t>(done), static_cast<size_t>(count));
    TRY(forward(rows, form, last ? count - 1 : count));
    keep(count);
    done += count;
  }
  return std::span<const float>(logits_);
}

// Rows through the model, their logits into logits_. Nothing is kept yet.
Status Session::forward(std::span<const int32_t> rows, MlaForm form, int64_t logits_from) {
  TRY_ASSIGN(const Segment segment, sequence_->extend(rows, form, logits_from));
  const ModelConfig& c = model_->config();
  logits_.resize((rows.size() - static_cast<size_t>(logits_from)) * static_cast<size_t>(c.vocab_size));
  if (sequence_->mtp() != nullptr) normed_.resize(rows.size() * static_cast<size_t>(c.hidden_size));
  float* normed = sequence_->mtp() != nullptr ? normed_.data() : nullptr;
  model_->forward(*ctx_, {&segment, 1}, kPageTokens, logits_.data(), normed);
  return {};
}

// The first n rows of the last forward() hold.
void Session::keep(int64_t n) {
  sequence_->keep(n, normed_.data());
  if (sequence_->mtp() != nullptr) mtp_follow(*ctx_, *model_, *sequence_);
}

}  // namespace westlake
