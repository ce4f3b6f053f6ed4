// The stream of batches: documents in shuffled order, packed into rows of T tokens.
// Idea: every epoch has a permutation of its own, drawn from the seed and the epoch's number, so that a position in the
// stream is three numbers and going on from a checkpoint is the stream undisturbed. Documents follow one another in a
// row without padding; attention and positions begin anew at each (doc_start). A row takes up where the last one ended,
// within a document too; the target at a row's end is the token after it.
// A long document (a book) is cut into pieces that are shuffled apart, else it would fill batches by itself. A piece is
// what "document" means below.
// Conversations stay whole: a row takes documents as long as the next one fits, and is filled up with padding that is
// neither learnt nor seen by a document. What is longer than a row is cut at its end.
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "train/token_cache.h"

namespace westlake {

struct Batch {
  int64_t B = 0, T = 0;
  std::vector<int32_t> inputs;     // [B, T]
  std::vector<int32_t> targets;    // [B, T], the token after it; -1 (no loss) at a document's end and before context
  std::vector<int32_t> doc_start;  // [B, T], index in the row of the first token of its document
};

struct BatchOptions {
  uint64_t seed = 0;
  bool shuffle = true;  // false: documents in the order of the data, as held-out text is read
  // The longest document; longer ones are cut evenly. At least T, or attention sees less than a row. 0: never cut.
  int64_t document_tokens = 2048;
  bool whole_documents = false;  // none is split over rows, document_tokens does not count
  int32_t padding_id = 0;        // input of the padding
};

// Where the next row begins.
struct BatchPosition {
  int64_t epoch = 0;
  int64_t document = 0;  // in the epoch's order
  int64_t offset = 0;    // tokens of it that are behind
  bool operator==(const BatchPosition&) const = default;
};

class BatchStream {
 public:
  // Requires: `store` outlives the stream. Errors: kInvalidArgument for a store without documents.
  static Result<BatchStream> create(const TokenStore& store, const BatchOptions& options);

  // The next B rows. Requires: B, T > 0.
  Result<Batch> next(int64_t B, int64_t T);

  BatchPosition position() const { return position_; }
  // Errors: kInvalidArgument for a position that this data does not have.
  Status seek(const BatchPosition& position);

  int64_t documents() const { return static_cast<int64_t>(pieces_.size()); }
  int64_t tokens_per_epoch() const { return store_->tokens(); }
  // Epochs behind, the current one in parts.
  double epochs() const;
  // Rows of T tokens until so many epochs are behind, counted from the beginning.
  int64_t rows_of(double epochs, int64_t T) const;

 private:
  struct Piece {
    int64_t begin, size;
  };
  BatchStream(const TokenStore& store, const BatchOptions& options) : store_(&store), options_(options) {}
  void cut_documents();
  void order_epoch();
  const Piece& piece() const { return pieces_[order_[static_cast<size_t>(position_.document)]]; }
  void next_row(int64_t T, int32_t* inputs, int32_t* targets, int32_t* doc_start);
  void fill_row(int64_t T, int32_t* inputs, int32_t* targets, int32_t* doc_start);
  void fill_row_whole(int64_t T, int32_t* inputs, int32_t* targets, int32_t* doc_start);
  void fill(int64_t n, int32_t start, int32_t* inputs, int32_t* targets, int32_t* doc_start) const;
  void advance(int64_t tokens);

  const TokenStore* store_;
  BatchOptions options_;
  std::vector<Piece> pieces_;    // in the order of the data
  std::vector<uint32_t> order_;  // of this epoch
  BatchPosition position_;
  int64_t behind_ = 0;  // tokens of this epoch behind the position
};

}  // namespace westlake
