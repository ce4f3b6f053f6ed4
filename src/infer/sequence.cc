#include "infer/sequence.h"

#include <algorithm>

namespace westlake {

CachePools::CachePools(const Model& m, bool with_mtp, int64_t limit) : limit_bytes(limit) {
  const CacheShape shape = m.cache_shape(kPageTokens), mtp_shape = m.mtp_cache_shape(kPageTokens);
  const auto bytes = [](const CacheShape& s) { return s.page_floats() * static_cast<int64_t>(sizeof(float)); };
  // Each pool gets its part; a limit below one page stays a limit.
  const int64_t of_mtp = with_mtp ? limit / (bytes(shape) + bytes(mtp_shape)) * bytes(mtp_shape) : 0;
  model = std::make_unique<PagePool>(shape, limit - of_mtp);
  if (with_mtp) mtp = std::make_unique<PagePool>(mtp_shape, of_mtp);
}

int64_t CachePools::page_bytes() const {
  return model->page_bytes() + (mtp ? mtp->page_bytes() : 0);
}

int64_t CachePools::most_pages() const {
  return limit_bytes / page_bytes();
}

int64_t CachePools::allocated_bytes() const {
  return model->allocated_bytes() + (mtp ? mtp->allocated_bytes() : 0);
}

Sequence::Sequence(const Model& model, CachePools& pools)
    : hidden_size_(model.config().hidden_size), cache_(*pools.model) {
  if (pools.mtp) mtp_ = std::make_unique<MtpTrack>(*pools.mtp);
}

Result<Segment> Sequence::extend(std::span<const int32_t> rows, MlaForm form, int64_t logits_from) {
  const auto n = static_cast<int64_t>(rows.size());
  TRY(cache_.ensure(length() + n));
  rows_.assign(rows.begin(), rows.end());
  Segment segment;
  segment.tokens = rows_;
  segment.start = length();
  segment.form = form;
  segment.pages = cache_.pages();
  segment.logits_from = logits_from;
  return segment;
}

void Sequence::keep(int64_t n, const float* normed) {
  CHECK(n >= 0 && n <= static_cast<int64_t>(rows_.size()), "{} of {} rows", n, rows_.size());
  cache_.set_length(length() + n);
  cache_.truncate(length() + n);  // pages that wrong drafts took
  tokens_.insert(tokens_.end(), rows_.begin(), rows_.begin() + static_cast<ptrdiff_t>(n));
  rows_.clear();
  if (mtp_) {
    CHECK(normed != nullptr, "an MTP module waits for the states");
    mtp_->pending.insert(mtp_->pending.end(), normed, normed + n * hidden_size_);
  }
}

void Sequence::truncate(int64_t n) {
  CHECK(n >= 0 && n <= length(), "truncate to {} of {}", n, length());
  cache_.truncate(n);
  tokens_.resize(static_cast<size_t>(n));
  if (mtp_) {
    // The module's row n - 1 saw the token that stood at n. It stays: a draft is only a guess.
    mtp_->cache.truncate(std::min(n, mtp_->cache.length()));
    mtp_->pending.resize(static_cast<size_t>((n - mtp_->cache.length()) * hidden_size_));
  }
}

}  // namespace westlake
