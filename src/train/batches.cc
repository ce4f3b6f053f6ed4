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
    const bool cut = options_.document_tokens > 0 && !options_.whole_documents;
    const int64_t longest = cut ? options_.document_tokens : size;
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

// The next n tokens of the document.
void BatchStream::fill(int64_t n, int32_t start, int32_t* inputs, int32_t* targets, int32_t* doc_start) const {
  const Piece& document = piece();
  const int64_t begin = document.begin + position_.offset;
  store_->copy(begin, {inputs, static_cast<size_t>(n)});
  for (int64_t i = 0; i + 1 < n; ++i) targets[i] = store_->target(begin + i + 1);
  targets[n - 1] = position_.offset + n == document.size ? -1 : store_->target(begin + n);
  std::fill_n(doc_start, n, start);
}

void BatchStream::fill_row(int64_t T, int32_t* inputs, int32_t* targets, int32_t* doc_start) {
  for (int64_t at = 0; at < T;) {
    const int64_t n = std::min(piece().size - position_.offset, T - at);
    fill(n, static_cast<int32_t>(at), inputs + at, targets + at, doc_start + at);
    advance(n);
    at += n;
  }
}

void BatchStream::fill_row_whole(int64_t T, int32_t* inputs, int32_t* targets, int32_t* doc_start) {
  int64_t at = 0;
  while (at < T) {
    const int64_t size = piece().size, n = std::min(size, T);
    if (at + n > T) break;
    fill(n, static_cast<int32_t>(at), inputs + at, targets + at, doc_start + at);
    advance(size);
    at += n;
  }
  std::fill(inputs + at, inputs + T, options_.padding_id);
  std::fill(targets + at, targets + T, -1);
  std::fill(doc_start + at, doc_start + T, static_cast<int32_t>(at));
}

void BatchStream::next_row(int64_t T, int32_t* inputs, int32_t* targets, int32_t* doc_start) {
  options_.whole_documents ? fill_row_whole(T, inputs, targets, doc_start) : fill_row(T, inputs, targets, doc_start);
}

int64_t BatchStream::rows_of(double epochs, int64_t T) const {
  BatchStream walker(*store_, options_);
  walker.pieces_ = pieces_;
  walker.order_epoch();
  std::vector<int32_t> row(static_cast<size_t>(3 * T));
  int64_t rows = 0;
  for (; walker.epochs() < epochs; ++rows) walker.next_row(T, row.data(), row.data() + T, row.data() + 2 * T);
  return rows;
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
    next_row(T, batch.inputs.data() + b * T, batch.targets.data() + b * T, batch.doc_start.data() + b * T);
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
  if (const int64_t most = options_.whole_documents ? 0 : piece().size - 1;
      position.offset < 0 || position.offset > most) {
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
