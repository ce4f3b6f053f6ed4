// The paged key/value cache: memory grows with the text, not with the context limit.
// Idea: a page holds page_tokens positions of every layer. A pool owns all pages, by number; a sequence owns the
// numbers of its pages in order and a table of their addresses, which is all that the model sees. Freed pages are used
// again before new ones are allocated. What a page holds is the business of CacheShape: nothing here reads it. Source:
// Kwon et al., "Efficient Memory Management for Large Language Model Serving with PagedAttention", 2023.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/result.h"
#include "model/model.h"

namespace westlake {

// Positions a page: large enough that a page is a long read (some MB), small enough that half of one is a small waste.
inline constexpr int64_t kPageTokens = 64;

// Owns: all pages. Not Thread-safe. Requires: outlives the sequences that use it.
class PagePool {
 public:
  // limit_bytes: how much all pages together may hold; 0: no limit but the machine's.
  explicit PagePool(const CacheShape& shape, int64_t limit_bytes = 0);

  using Page = int32_t;
  // A page with whatever it held before. Errors: kExhausted, at the limit or when the machine has no memory.
  Result<Page> take();
  // Requires: taken and not given back since.
  void give_back(Page page);
  float* data(Page page) { return pages_[page].get(); }

  const CacheShape& shape() const { return shape_; }
  int64_t page_bytes() const { return shape_.page_floats() * static_cast<int64_t>(sizeof(float)); }
  int64_t limit_bytes() const { return limit_bytes_; }
  int64_t used_pages() const { return static_cast<int64_t>(pages_.size() - free_.size()); }
  int64_t allocated_bytes() const { return static_cast<int64_t>(pages_.size()) * page_bytes(); }

 private:
  struct Free {
    void operator()(float* p) const;
  };
  CacheShape shape_;
  int64_t limit_bytes_;
  std::vector<std::unique_ptr<float[], Free>> pages_;
  std::vector<Page> free_;      // last in, first out: the page touched last is the warmest
  std::vector<bool> is_taken_;  // of each page: catches a double give_back
};

// The pages of one sequence.
class SequenceCache {
 public:
  explicit SequenceCache(PagePool& pool) : pool_(&pool) {}
  ~SequenceCache() { truncate(0); }
  SequenceCache(const SequenceCache&) = delete;
  SequenceCache& operator=(const SequenceCache&) = delete;

  // Positions that hold something.
  int64_t length() const { return length_; }
  // Makes room for positions [0, n). On an error the cache is as it was. Errors: kExhausted.
  Status ensure(int64_t n);
  // Positions [0, n) have been written. Requires: ensure(n).
  void set_length(int64_t n);
  // Forgets positions [n, ...) and gives back the pages that only they used. Requires: n <= length().
  void truncate(int64_t n);
  // Addresses of the pages, valid until the next ensure or truncate.
  float* const* pages() const { return table_.data(); }

 private:
  void drop_pages_from(size_t count);
  PagePool* pool_;
  int64_t length_ = 0;
  std::vector<PagePool::Page> owned_;
  std::vector<float*> table_;
};

}  // namespace westlake
