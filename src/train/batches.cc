// Pieces, permutations, rows. See batches.h.
#include "train/batches.h"

#include <algorithm>
#include <numeric>

#include "base/rng.h"

namespace westlake {

Result<BatchStream> BatchStream::create(const TokenStore& store, const BatchOptions& options) {
  if (store.documents() == 0) return make_error(Code::kInvalidArgument, "{}: has no documents", store.path());
  BatchStream stream(store, options);
  stream.cut_documents();
  if (stream.pieces_.size() > UINT32_MAX)
    return make_error(Code::kUnsupported, "{}: {} documents, at most {} are shuffled", store.path(),
                      stream.pieces_.size(), UINT32_MAX);
  stream.order_epoch();
  return stream;
}

void BatchStream::cut_documents() {
  pieces_.reserve(static_cast<size_t>(store_->documents()));
  for (int64_t d = 0; d < store_->documents(); ++d) {
    const int64_t begin = store_->document_start(d), size = store_->document_start(d + 1) - begin;
    const int64_t longest = options_.document_tokens > 0 ? options_.document_tokens : size;
    const int64_t parts = (size + longest - 1) / longest;
    for (int64_t i = 0; i < parts; ++i) {
      const int64_t from = size * i / parts, to = size * (i + 1) / parts;
      pieces_.push_back({begin + from, to - from});
    }
  }
}

// Fisher and Yates, from the seed and the epoch alone.
void BatchStream::order_epoch() {
  order_.resize(pieces_.size());
  std::iota(order_.begin(), order_.end(), 0u);
  if (!options_.shuffle) return;
  uint64_t state = options_.seed;
  state = splitmix64(state) + static_cast<uint64_t>(position_.epoch);
  Rng rng(state);
  for (size_t i = order_.size(); i > 1; --i) std::swap(order_[i - 1], order_[rng.below(i)]);
}

// Requires: no more tokens than the document has left.
void BatchStream::advance(int64_t tokens) {
  position_.offset += tokens;
  behind_ += tokens;
  if (position_.offset < piece().size) return;
  position_.offset = 0;
  if (++position_.document < documents()) return;
  position_.document = behind_ = 0;
  ++position_.epoch;
  order_epoch();
}

void BatchStream::fill_row(int64_t T, int32_t* inputs, int32_t* targets, int32_t* doc_start) {
  for (int64_t at = 0; at < T;) {
    const Piece& document = piece();
    const int64_t begin = document.begin + position_.offset;
    const int64_t left = document.size - position_.offset, n = std::min(left, T - at);
    store_->copy(begin, {inputs + at, static_cast<size_t>(n)});
    std::copy_n(inputs + at + 1, n - 1, targets + at);
    targets[at + n - 1] = n == left ? -1 : store_->token(begin + n);
    std::fill_n(doc_start + at, n, static_cast<int32_t>(at));
    advance(n);
    at += n;
  }
}

Result<Batch> BatchStream::next(int64_t B, int64_t T) {
  CHECK(B > 0 && T > 0, "a batch of {} rows of {} tokens", B, T);
  Batch batch;
  batch.B = B;
  batch.T = T;
  const auto size = static_cast<size_t>(B * T);
  batch.inputs.resize(size);
  batch.targets.resize(size);
  batch.doc_start.resize(size);
  for (int64_t b = 0; b < B; ++b) {
    fill_row(T, batch.inputs.data() + b * T, batch.targets.data() + b * T, batch.doc_start.data() + b * T);
  }
  return batch;
}

Status BatchStream::seek(const BatchPosition& position) {
  const auto refuse = [&](std::string_view what, int64_t seen, int64_t most) {
    return make_error(Code::kInvalidArgument,
                      "the position in the data has {} {}, expected 0 to {}. Hint: other data, "
                      "or another limit on documents, than it was saved with?",
                      what, seen, most);
  };
  if (position.epoch < 0) return refuse("epoch", position.epoch, INT64_MAX);
  if (position.document < 0 || position.document >= documents())
    return refuse("document", position.document, documents() - 1);
  const BatchPosition before = position_;
  position_ = position;
  order_epoch();
  if (position.offset < 0 || position.offset >= piece().size) {
    const int64_t most = piece().size - 1;
    position_ = before;
    order_epoch();
    return refuse("offset", position.offset, most);
  }
  behind_ = position.offset;
  for (int64_t d = 0; d < position.document; ++d) behind_ += pieces_[order_[static_cast<size_t>(d)]].size;
  return {};
}

double BatchStream::epochs() const {
  return static_cast<double>(position_.epoch) + static_cast<double>(behind_) / static_cast<double>(store_->tokens());
}

}  // namespace westlake
