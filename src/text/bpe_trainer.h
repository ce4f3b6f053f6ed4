// Learning the merges of a byte-level BPE from the words of a text.
// Idea: every word is a row of tokens, at first one a byte. The pair of neighbours that occurs most often (the one with
// the lower ids among equals) becomes a token, in every word that has it, until the vocabulary is full. A pair knows
// the words where it came to be, so that a merge touches only those; pairs wait in a heap, and one whose count has
// changed since it was put there is put back with the new one when it comes up.
// The result is that of Hugging Face tokenizers to the last merge, also where its book-keeping shows: a pair's count
// stays as it was when the pair is merged, and a pair that comes to be again in other words (a token made in two ways)
// waits a second time, with those words alone.
// Source: Sennrich et al. 2016 (arXiv:1508.07909); Hugging Face tokenizers, models/bpe/trainer.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "text/word_counts.h"

namespace westlake {

struct BpeTrainerOptions {
  int32_t vocab_size = 8192;                // special tokens and the 256 bytes included
  uint64_t min_frequency = 0;               // a pair that occurs less often is not merged
  std::vector<std::string> special_tokens;  // the first ids, in this order
};

struct TrainedBpe {
  std::vector<std::string> tokens;                  // by id: special tokens, the bytes, the merged ones (byte-level)
  std::vector<std::pair<int32_t, int32_t>> merges;  // in order of rank
};

// Ends before vocab_size when no pair is left. `progress` is told the size of the vocabulary now and then.
// Requires: vocab_size holds the special tokens and 256 bytes; special tokens are different, and none is a byte's.
TrainedBpe train_bpe(const WordCounts& words, const BpeTrainerOptions& options,
                     const std::function<void(int64_t)>& progress = {});

}  // namespace westlake
