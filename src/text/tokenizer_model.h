// The inside of a tokenizer: what the loaders fill and the tokenizer runs. Not for other rooms.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/normalizer.h"
#include "text/pretokenizer.h"
#include "text/tokenizer.h"

namespace westlake {

struct TokenizerModel {
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  BpeModel bpe;
  std::vector<std::pair<int32_t, int32_t>> merge_list;  // in order of rank, for writing

  std::vector<AddedToken> added;       // in id order
  std::vector<int32_t> added_index;    // by id: index into `added`, -1 for others; vocab_size entries
  AddedTokenFinder raw_finder;         // of tokens looked for in the text as it comes
  AddedTokenFinder normalized_finder;  // of tokens looked for in normalised text

  // What each id decodes to, by id; one arena.
  std::string bytes;
  std::vector<uint32_t> bytes_begin;  // vocab_size + 1 entries

  // The file's own words, for writing it again; "null" where there was nothing.
  std::string normalizer_json = "null", pre_tokenizer_json = "null", post_processor_json = "null", unk_token;

  // Reads the two texts into normalizer and pre_tokenizer and keeps them.
  Status set_pipeline(JsonElement normalizer_element, JsonElement pre_tokenizer_element, std::string_view place);

  // The pipeline that a GGUF calls by this name. Errors: kUnsupported with the names there are.
  Status set_named_pipeline(std::string_view name, std::string_view place);

  // Adds a token as the reference does: a content that is known keeps its id, and the last flags count.
  // Errors: kUnsupported for one that is too long, kCorrupt for an id that is another token's.
  Status add_token(AddedToken token, std::string_view place);

  // Adds merge number `rank`. Errors: kCorrupt when a token of it is unknown.
  Status add_merge(std::string_view left, std::string_view right, uint32_t rank, std::string_view place);

  // After all tokens: bytes of ids, finders, tables, for `ids` ids at least. Call once.
  Status finish(int32_t ids, std::string_view place);

  int32_t id_end() const { return static_cast<int32_t>(added_index.size()); }
  int32_t find_added(std::string_view content) const;  // index into `added`, -1

  // A cache for one encode call, taken from the tokenizer's stock and put back at the end.
  class CacheLease {
   public:
    explicit CacheLease(const TokenizerModel& model);
    ~CacheLease();
    CacheLease(const CacheLease&) = delete;
    PieceCache& cache() { return *cache_; }

   private:
    const TokenizerModel& model_;
    std::unique_ptr<PieceCache> cache_;
  };

 private:
  mutable std::mutex caches_mutex_;
  mutable std::vector<std::unique_ptr<PieceCache>> caches_;
};

// The words for UTF-8 that a file should have had.
bool is_utf8(std::string_view text);

}  // namespace westlake
