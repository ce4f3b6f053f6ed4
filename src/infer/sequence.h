// Sequence: one text on its way through the model: the tokens that its cache holds, and how they get there.
// Idea: extend() says what goes through the model next, keep() how much of it holds; between the two a caller runs
// Model::forward, over this sequence alone (Session) or over many (Engine). Rows that do not hold, wrong drafts, leave
// nothing behind but numbers in pages that the next rows overwrite.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "infer/kv_cache.h"
#include "infer/speculation.h"
#include "model/model.h"

namespace westlake {

// Pages of the model, and of its MTP module where drafts come from there; the same number of positions in both.
struct CachePools {
  // limit_bytes: of both together; 0: no limit.
  CachePools(const Model& model, bool with_mtp, int64_t limit_bytes);
  int64_t page_bytes() const;       // of kPageTokens positions, both together
  int64_t most_pages() const;       // of each; 0: no limit
  int64_t allocated_bytes() const;  // both together

  int64_t limit_bytes;
  std::unique_ptr<PagePool> model, mtp;  // mtp may be null
};

// What a sequence keeps for its MTP module. Row i of the module takes the main model's state at i and the token at
// i + 1, so it stays one behind: states wait until the token after them is known.
struct MtpTrack {
  explicit MtpTrack(PagePool& pool) : cache(pool) {}
  SequenceCache cache;         // rows [0, length()) have been computed
  std::vector<float> pending;  // [Sequence::length() - cache.length(), D]: states of the rows after those
};

class Sequence {
 public:
  // Requires: model and pools outlive the sequence.
  Sequence(const Model& model, CachePools& pools);

  // What the cache holds.
  std::span<const int32_t> tokens() const { return tokens_; }
  int64_t length() const { return static_cast<int64_t>(tokens_.size()); }

  // Rows that go through the model next, behind what is there. The segment is valid until the next call.
  // logits_from: as Segment's. Errors: kExhausted when there are no pages; nothing has changed then.
  Result<Segment> extend(std::span<const int32_t> rows, MlaForm form, int64_t logits_from);
  // The first n rows of the last extend() hold. normed: their states [n, D], or null when nobody wants them.
  void keep(int64_t n, const float* normed);
  // Forgets positions [n, ...). Requires: 0 <= n <= length().
  void truncate(int64_t n);

  MtpTrack* mtp() { return mtp_.get(); }

 private:
  int64_t hidden_size_;
  SequenceCache cache_;
  std::unique_ptr<MtpTrack> mtp_;  // null without an MTP pool
  std::vector<int32_t> tokens_, rows_;
};

}  // namespace westlake
