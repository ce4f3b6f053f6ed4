// The words, the pairs and the loop of merges. See bpe_trainer.h.
#include "text/bpe_trainer.h"

#include <algorithm>
#include <array>
#include <queue>

#include "base/check.h"
#include "text/byte_level.h"
#include "text/unicode.h"
#include "text/vocab.h"

namespace westlake {
namespace {

using Key = uint64_t;  // left id in the upper half, right id in the lower: smaller keys are the earlier of equals

Key key_of(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

// Words in which a pair came to be, each once, in order.
using Places = std::vector<uint32_t>;

// A pair in the heap, as it stood when it was put there.
struct Waiting {
  int64_t count;
  Key key;
  uint32_t pair, places;  // numbers of the pair, and of its list of places
};

struct Later {
  bool operator()(const Waiting& a, const Waiting& b) const {
    if (a.count != b.count) return a.count < b.count;
    if (a.key != b.key) return a.key > b.key;
    return a.places > b.places;
  }
};

class Trainer {
 public:
  Trainer(const WordCounts& words, const BpeTrainerOptions& options) : options_(options) {
    start_vocab();
    start_words(words);
  }

  TrainedBpe run(const std::function<void(int64_t)>& progress) {
    const auto full = static_cast<size_t>(options_.vocab_size);
    while (vocab_.size() < full && !queue_.empty()) {
      Waiting top = queue_.top();
      queue_.pop();
      const int64_t count = counts_[top.pair];
      if (top.count != count) {
        top.count = count;
        queue_.push(top);
        continue;
      }
      if (count < 1 || count < static_cast<int64_t>(options_.min_frequency)) break;
      merge(top);
      constexpr size_t kTellEvery = 64;
      if (progress && vocab_.size() % kTellEvery == 0) progress(static_cast<int64_t>(vocab_.size()));
    }
    return finish();
  }

 private:
  static constexpr uint32_t kNone = UINT32_MAX;

  int32_t add_token(std::string_view text) {
    const int32_t known = vocab_.find(text);
    if (known >= 0) return known;
    const auto id = static_cast<int32_t>(vocab_.size());
    vocab_.add(text, id);
    return id;
  }

  // Special tokens, then the bytes in the order of their characters.
  void start_vocab() {
    CHECK(options_.vocab_size >= 0 &&
              static_cast<size_t>(options_.vocab_size) >= options_.special_tokens.size() + byte_ids_.size(),
          "vocabulary of {} with {} special tokens", options_.vocab_size, options_.special_tokens.size());
    for (const std::string& token : options_.special_tokens) add_token(token);
    std::array<std::pair<uint32_t, int>, 256> order;
    for (int byte = 0; byte < 256; ++byte) order[byte] = {byte_to_char(static_cast<uint8_t>(byte)), byte};
    std::sort(order.begin(), order.end());
    for (const auto& [code, byte] : order) {
      std::string text;
      utf8_append(text, code);
      byte_ids_[byte] = add_token(text);
    }
    CHECK(vocab_.size() == options_.special_tokens.size() + byte_ids_.size(), "special tokens are not different");
  }

  void start_words(const WordCounts& words) {
    size_t bytes = 0;
    for (size_t i = 0; i < words.size(); ++i) bytes += words.word(i).size();
    symbols_.reserve(bytes);
    words_.reserve(words.size());
    for (size_t i = 0; i < words.size(); ++i) {
      const std::string_view word = words.word(i);
      const auto count = static_cast<int64_t>(words.count(i));
      words_.push_back({symbols_.size(), count, static_cast<uint32_t>(word.size())});
      for (const char c : word) symbols_.push_back(byte_ids_[static_cast<unsigned char>(c)]);
      const int32_t* s = symbols_.data() + words_.back().begin;
      for (size_t at = 1; at < word.size(); ++at) gain(s[at - 1], s[at], count, static_cast<uint32_t>(i));
    }
    queue_gained();
  }

  // The pair's number; a new one has count 0.
  uint32_t pair_of(Key key) {
    if (counts_.size() * 2 >= slots_.size()) grow();
    for (size_t at = slot_of(key);; at = (at + 1) & (slots_.size() - 1)) {
      Slot& slot = slots_[at];
      if (slot.pair == kNone) {
        slot = {key, static_cast<uint32_t>(counts_.size())};
        counts_.push_back(0);
        gained_places_.push_back(kNone);
        return slot.pair;
      }
      if (slot.key == key) return slot.pair;
    }
  }

  size_t slot_of(Key key) const {
    return static_cast<size_t>(fold_multiply(key, 0x9e3779b97f4a7c15u)) & (slots_.size() - 1);
  }

  void grow() {
    constexpr size_t kFirst = 1 << 14;
    std::vector<Slot> old(slots_.empty() ? kFirst : slots_.size() * 2);
    old.swap(slots_);
    for (const Slot& slot : old) {
      if (slot.pair == kNone) continue;
      size_t at = slot_of(slot.key);
      while (slots_[at].pair != kNone) at = (at + 1) & (slots_.size() - 1);
      slots_[at] = slot;
    }
  }

  // The pair came to be in a word.
  void gain(int32_t left, int32_t right, int64_t count, uint32_t word) {
    const Key key = key_of(left, right);
    const uint32_t pair = pair_of(key);
    counts_[pair] += count;
    uint32_t& list = gained_places_[pair];
    if (list == kNone) {
      list = static_cast<uint32_t>(places_.size());
      places_.emplace_back();
      gained_.push_back({key, pair});
    }
    Places& places = places_[list];
    if (places.empty() || places.back() != word) places.push_back(word);
  }

  void lose(int32_t left, int32_t right, int64_t count) { counts_[pair_of(key_of(left, right))] -= count; }

  // The pairs that came to be in this step go to the heap, those that are gone again do not.
  void queue_gained() {
    for (const Slot& gained : gained_) {
      const uint32_t list = gained_places_[gained.pair];
      gained_places_[gained.pair] = kNone;
      if (counts_[gained.pair] > 0) {
        queue_.push({counts_[gained.pair], gained.key, gained.pair, list});
      } else {
        places_[list] = Places();
      }
    }
    gained_.clear();
  }

  void merge(const Waiting& top) {
    const auto left = static_cast<int32_t>(top.key >> 32), right = static_cast<int32_t>(top.key & UINT32_MAX);
    std::string text(vocab_.text(left));
    text += vocab_.text(right);
    const int32_t merged = add_token(text);
    merges_.emplace_back(left, right);
    const Places places = std::move(places_[top.places]);
    places_[top.places] = Places();
    for (const uint32_t word : places) merge_in(word, left, right, merged);
    queue_gained();
  }

  void merge_in(uint32_t index, int32_t left, int32_t right, int32_t merged) {
    Word& word = words_[index];
    int32_t* s = symbols_.data() + word.begin;
    uint32_t out = 0;
    for (uint32_t at = 0; at < word.size;) {
      if (s[at] != left || at + 1 == word.size || s[at + 1] != right) {
        s[out++] = s[at++];
        continue;
      }
      at += 2;
      if (out > 0) {
        lose(s[out - 1], left, word.count);
        gain(s[out - 1], merged, word.count, index);
      }
      if (at < word.size) {
        lose(right, s[at], word.count);
        gain(merged, s[at], word.count, index);
      }
      s[out++] = merged;
    }
    word.size = out;
  }

  TrainedBpe finish() {
    TrainedBpe result;
    for (int32_t id = 0; id < vocab_.id_end(); ++id) result.tokens.emplace_back(vocab_.text(id));
    // Of a pair that was merged twice the later rank counts.
    std::vector<bool> seen(counts_.size());
    for (size_t i = merges_.size(); i-- > 0;) {
      const uint32_t pair = pair_of(key_of(merges_[i].first, merges_[i].second));
      if (!seen[pair]) result.merges.push_back(merges_[i]);
      seen[pair] = true;
    }
    std::reverse(result.merges.begin(), result.merges.end());
    return result;
  }

  struct Word {
    size_t begin;  // of its tokens in symbols_
    int64_t count;
    uint32_t size;  // tokens now
  };
  struct Slot {
    Key key = 0;
    uint32_t pair = kNone;
  };

  const BpeTrainerOptions& options_;
  Vocab vocab_;
  std::array<int32_t, 256> byte_ids_ = {};
  std::vector<std::pair<int32_t, int32_t>> merges_;

  std::vector<int32_t> symbols_;
  std::vector<Word> words_;

  std::vector<Slot> slots_;              // key -> number of the pair
  std::vector<int64_t> counts_;          // by number
  std::vector<uint32_t> gained_places_;  // by number: its list in this step
  std::vector<Slot> gained_;             // pairs that have one
  std::vector<Places> places_;           // lists, emptied when used
  std::priority_queue<Waiting, std::vector<Waiting>, Later> queue_;
};

}  // namespace

TrainedBpe train_bpe(const WordCounts& words, const BpeTrainerOptions& options,
                     const std::function<void(int64_t)>& progress) {
  return Trainer(words, options).run(progress);
}

}  // namespace westlake
