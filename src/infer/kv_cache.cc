#include "infer/kv_cache.h"

#include <new>

namespace westlake {
namespace {

constexpr std::align_val_t kAlignment{64};  // a cache line, and the widest vector

constexpr double mib(int64_t bytes) {
  return static_cast<double>(bytes) / (1 << 20);
}

}  // namespace

void PagePool::Free::operator()(float* p) const {
  ::operator delete[](p, kAlignment);
}

PagePool::PagePool(const CacheShape& shape, int64_t limit_bytes) : shape_(shape), limit_bytes_(limit_bytes) {
  CHECK(shape.layers > 0 && shape.page_tokens > 0 && shape.width > 0, "cache of {} layers, {} tokens a page, width {}",
        shape.layers, shape.page_tokens, shape.width);
  CHECK(limit_bytes >= 0);
}

Result<PagePool::Page> PagePool::take() {
  if (!free_.empty()) {
    const Page page = free_.back();
    free_.pop_back();
    is_taken_[page] = true;
    return page;
  }
  if (limit_bytes_ > 0 && allocated_bytes() + page_bytes() > limit_bytes_) {
    return make_error(Code::kExhausted,
                      "the key/value cache holds {:.1f} MiB ({} positions) and needs {:.1f} MiB more, its limit is "
                      "{:.1f} MiB. Hint: a shorter context, or a higher limit",
                      mib(allocated_bytes()), used_pages() * shape_.page_tokens, mib(page_bytes()), mib(limit_bytes_));
  }
  void* memory = ::operator new[](static_cast<size_t>(page_bytes()), kAlignment, std::nothrow);
  if (memory == nullptr) {
    return make_error(Code::kExhausted,
                      "no memory for {:.1f} MiB more of key/value cache, which holds {:.1f} MiB. Hint: a shorter "
                      "context",
                      mib(page_bytes()), mib(allocated_bytes()));
  }
  pages_.emplace_back(static_cast<float*>(memory));
  is_taken_.push_back(true);
  return static_cast<Page>(pages_.size() - 1);
}

void PagePool::give_back(Page page) {
  CHECK(page >= 0 && page < static_cast<Page>(pages_.size()) && is_taken_[page], "page {} is not taken", page);
  is_taken_[page] = false;
  free_.push_back(page);
}

Status SequenceCache::ensure(int64_t n) {
  const int64_t page_tokens = pool_->shape().page_tokens;
  const size_t had = owned_.size();
  while (static_cast<int64_t>(owned_.size()) * page_tokens < n) {
    Result<PagePool::Page> page = pool_->take();
    if (!page.ok()) {
      drop_pages_from(had);
      return page.error();
    }
    owned_.push_back(*page);
    table_.push_back(pool_->data(*page));
  }
  return {};
}

void SequenceCache::set_length(int64_t n) {
  CHECK(n >= 0 && n <= static_cast<int64_t>(owned_.size()) * pool_->shape().page_tokens, "length {} with {} pages", n,
        owned_.size());
  length_ = n;
}

void SequenceCache::truncate(int64_t n) {
  CHECK(n >= 0 && n <= length_, "truncate to {} of {}", n, length_);
  length_ = n;
  const int64_t page_tokens = pool_->shape().page_tokens;
  drop_pages_from(static_cast<size_t>((n + page_tokens - 1) / page_tokens));
}

void SequenceCache::drop_pages_from(size_t count) {
  while (owned_.size() > count) {
    pool_->give_back(owned_.back());
    owned_.pop_back();
    table_.pop_back();
  }
}

}  // namespace westlake
