// The tokens of a corpus, made once and mapped ever after.
// Idea: a file in the cache folder is named by a hash of the tokenizer and of the bytes of the data files, so that
// other paths find it again and changed data do not. Documents lie one after the other, each with what the tokenizer
// puts around a text (bos, where it does) and its end token; names of special tokens in a text are text.
//
//   "WLTOKEN1", bytes an id (2 or 4), size of the vocabulary   16 bytes
//   ids; kContextOnly set where the token is read and not to be learnt (4 bytes an id)   padded to 8 bytes
//   where each document starts, and the number of ids          uint64 [documents + 1]
//   ids, documents, key [2], hash of all before [2], magic     56 bytes
//
// A file that fails any check (sizes, hash, order of starts, range of ids) is made anew.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/result.h"
#include "base/thread_pool.h"
#include "text/tokenizer.h"

namespace westlake {

// In a stored id: the token is context of what is to be learnt, no target itself. Ids are below this bit.
inline constexpr uint32_t kContextOnly = uint32_t{1} << 31;

// Owns: the mapping. Thread-safe.
class TokenStore {
 public:
  // Errors: kNotFound; kCorrupt for a file that is none or is damaged.
  static Result<TokenStore> open(const std::string& path);

  int64_t tokens() const { return tokens_; }
  int64_t documents() const { return static_cast<int64_t>(starts_.size()) - 1; }
  int64_t vocab_size() const { return vocab_size_; }  // ids are below

  // Document d is tokens [document_start(d), document_start(d + 1)); it has one at least.
  int64_t document_start(int64_t d) const { return static_cast<int64_t>(starts_[static_cast<size_t>(d)]); }

  int32_t token(int64_t i) const { return static_cast<int32_t>(stored(i) & ~kContextOnly); }
  // Token i as what is to be predicted: -1 where it is context only.
  int32_t target(int64_t i) const { return (stored(i) & kContextOnly) != 0 ? -1 : static_cast<int32_t>(stored(i)); }
  void copy(int64_t begin, std::span<int32_t> out) const;

  // 32 hex digits for tokenizer and data: what a checkpoint compares before it goes on with its position.
  const std::string& key() const { return key_; }
  const std::string& path() const { return file_.path(); }

 private:
  uint32_t stored(int64_t i) const {
    return bytes_per_id_ == 2 ? static_cast<const uint16_t*>(ids_)[i] : static_cast<const uint32_t*>(ids_)[i];
  }
  TokenStore() = default;
  MappedFile file_;
  const void* ids_ = nullptr;
  int bytes_per_id_ = 2;
  int64_t tokens_ = 0, vocab_size_ = 0;
  std::span<const uint64_t> starts_;
  std::string key_;
};

// Told bytes of the data files behind and in all, and tokens so far; false stops with kCancelled.
using TokenizeProgress = std::function<bool(uint64_t done, uint64_t total, int64_t tokens)>;

// A part of a document, or the whole.
struct TokenPiece {
  std::vector<uint32_t> ids;  // with kContextOnly where the store is marked
  bool begins = false;        // its document
};

// How files become tokens.
struct TokenRecipe {
  std::string identity;  // all that the tokens depend on besides the files: part of the key
  int64_t vocab_size = 0;
  bool marked = false;                                         // ids may have kContextOnly
  std::function<Result<bool>(std::vector<TokenPiece>*)> next;  // adds a round of pieces; false: it was the last
  std::function<std::pair<uint64_t, uint64_t>()> bytes;        // of the files: behind, in all
  std::string_view empty = "the data has no text: every file is empty";  // what is said when there are no pieces
};

// Opens the tokens of `files` (as list_data_files gives them) in `folder`, after making them where they are not there.
// Standard input is read every time. Errors: those of the recipe; kInvalidArgument for data without documents; kIo
// where the folder cannot be written, or a file changed while it was read.
Result<TokenStore> open_store(const std::vector<std::string>& files, const std::string& folder,
                              const TokenRecipe& recipe, const TokenizeProgress& progress = {});

// Texts. Errors besides: those of DocumentReader; kInvalidArgument for a tokenizer without an end token.
Result<TokenStore> open_tokens(ThreadPool& pool, const Tokenizer& tokenizer, const std::vector<std::string>& files,
                               const std::string& folder, const TokenizeProgress& progress = {});

// What of a tokenizer decides ids, for an identity.
std::string tokenizer_identity(const Tokenizer& tokenizer);

}  // namespace westlake
