#include "infer/mtp_drafts.h"

#include <algorithm>

namespace westlake {
namespace {

// From here on rebuilding keys and values for all rows together costs less than attending to latents.
constexpr int64_t kExpandedRows = 16;

// States that wait until it is worth a pass: it reads the module's weights.
constexpr int64_t kFollowRows = 32;

int32_t likeliest(std::span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

// One pass of the module over pieces of several sequences.
class Pass {
 public:
  Pass(Context& context, const Model& model) : ctx_(context), model_(model) {}

  // Adds a row: the state of a position, and the token after it.
  void begin(int64_t start, float* const* pages, bool logits) {
    segments_.push_back({.start = start, .pages = pages, .logits_from = logits ? -1 : INT64_MAX});
    counts_.push_back(0);
  }
  void row(const float* state, int32_t token) {
    hidden_.insert(hidden_.end(), state, state + model_.config().hidden_size);
    tokens_.push_back(token);
    ++counts_.back();
  }

  void run() {
    const ModelConfig& c = model_.config();
    size_t first = 0, wanted = 0;
    for (size_t i = 0; i < segments_.size(); ++i) {
      Segment& s = segments_[i];
      s.tokens = std::span(tokens_).subspan(first, counts_[i]);
      const auto n = static_cast<int64_t>(counts_[i]);
      s.form = n >= kExpandedRows ? model_.prompt_form(n) : MlaForm::kAbsorbed;
      const bool logits = s.logits_from < 0;
      s.logits_from = static_cast<int64_t>(counts_[i]) - (logits ? 1 : 0);
      wanted += logits;
      first += counts_[i];
    }
    logits_.resize(wanted * static_cast<size_t>(c.vocab_size));
    out_.resize(hidden_.size());
    model_.forward_mtp(ctx_, 0, hidden_.data(), segments_, kPageTokens, logits_.data(), out_.data());
  }

  // Of the i-th segment; all have logits.
  int32_t draft(size_t i) const {
    const auto V = static_cast<size_t>(model_.config().vocab_size);
    return likeliest(std::span(logits_).subspan(i * V, V));
  }
  // The module's output for the last row of the i-th segment.
  const float* last_output(size_t i) const {
    size_t rows = 0;
    for (size_t j = 0; j <= i; ++j) rows += counts_[j];
    return out_.data() + (rows - 1) * static_cast<size_t>(model_.config().hidden_size);
  }

 private:
  Context& ctx_;
  const Model& model_;
  std::vector<Segment> segments_;
  std::vector<size_t> counts_;  // rows of each segment
  std::vector<int32_t> tokens_;
  std::vector<float> hidden_, out_, logits_;
};

// The first n waiting states; the token after the last of them is `next` where the cache does not hold it.
void add_pending(const Model& model, Sequence& sequence, int64_t n, int32_t next, bool logits, Pass* pass) {
  MtpTrack& track = *sequence.mtp();
  const int64_t start = track.cache.length(), D = model.config().hidden_size;
  pass->begin(start, track.cache.pages(), logits);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t after = start + i + 1;
    pass->row(track.pending.data() + i * D, after < sequence.length() ? sequence.tokens()[after] : next);
  }
}

// The first n waiting states have been computed.
void drop_pending(const Model& model, Sequence& sequence, int64_t n) {
  MtpTrack& track = *sequence.mtp();
  track.cache.set_length(track.cache.length() + n);
  track.pending.erase(track.pending.begin(),
                      track.pending.begin() + static_cast<ptrdiff_t>(n * model.config().hidden_size));
}

}  // namespace

void mtp_drafts(Context& context, const Model& model, std::span<DraftRequest> requests) {
  std::vector<DraftRequest*> open;
  for (DraftRequest& r : requests) {
    r.drafts.clear();
    // Row length + wanted - 2 is the last.
    if (r.wanted > 0 && !r.sequence->mtp()->pending.empty() &&
        r.sequence->mtp()->cache.ensure(r.sequence->length() + r.wanted - 1).ok())
      open.push_back(&r);
  }
  if (open.empty()) return;
  auto pass = std::make_unique<Pass>(context, model);
  for (DraftRequest* r : open) {
    Sequence& s = *r->sequence;
    add_pending(model, s, s.length() - s.mtp()->cache.length(), r->next, true, pass.get());
  }
  pass->run();
  for (DraftRequest* r : open)
    drop_pending(model, *r->sequence, r->sequence->length() - r->sequence->mtp()->cache.length());
  for (;;) {
    auto further = std::make_unique<Pass>(context, model);
    std::vector<DraftRequest*> still_open;
    for (size_t i = 0; i < open.size(); ++i) {
      DraftRequest& r = *open[i];
      r.drafts.push_back(pass->draft(i));
      const auto count = static_cast<int64_t>(r.drafts.size());
      if (count == r.wanted) {
        // Rows of drafts are overwritten when their tokens are known.
        r.sequence->mtp()->cache.truncate(r.sequence->length());
        continue;
      }
      further->begin(r.sequence->length() + count - 1, r.sequence->mtp()->cache.pages(), true);
      further->row(pass->last_output(i), r.drafts.back());
      still_open.push_back(&r);
    }
    if (still_open.empty()) return;
    further->run();
    pass = std::move(further);
    open = std::move(still_open);
  }
}

void mtp_follow(Context& context, const Model& model, Sequence& sequence) {
  MtpTrack& track = *sequence.mtp();
  const int64_t n = sequence.length() - track.cache.length() - 1;
  if (n < kFollowRows || !track.cache.ensure(sequence.length() - 1).ok()) return;
  Pass pass(context, model);
  add_pending(model, sequence, n, 0, false, &pass);
  pass.run();
  drop_pending(model, sequence, n);
}

}  // namespace westlake
