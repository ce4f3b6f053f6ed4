// Open addressing, linear steps, at most half full. See word_counts.h.
#include "text/word_counts.h"

#include "base/check.h"
#include "text/vocab.h"

namespace westlake {

void WordCounts::add(std::string_view word, uint64_t count) {
  if (entries_.size() * 2 >= slots_.size()) grow();
  const uint64_t hash = hash_bytes(word);
  const auto tag = static_cast<uint32_t>(hash >> 32);
  const size_t mask = slots_.size() - 1;
  for (size_t at = hash & mask;; at = (at + 1) & mask) {
    Slot& slot = slots_[at];
    if (slot.entry == kFree) {
      CHECK(entries_.size() < kFree && word.size() < UINT32_MAX, "{} words, one of {} bytes", entries_.size(),
            word.size());
      slot = {tag, static_cast<uint32_t>(entries_.size())};
      entries_.push_back({arena_.size(), count, static_cast<uint32_t>(word.size())});
      arena_ += word;
      return;
    }
    if (slot.tag == tag && this->word(slot.entry) == word) {
      entries_[slot.entry].count += count;
      return;
    }
  }
}

void WordCounts::add(const WordCounts& other) {
  for (size_t i = 0; i < other.size(); ++i) add(other.word(i), other.count(i));
}

void WordCounts::grow() {
  constexpr size_t kFirst = 1 << 12;
  slots_.assign(slots_.empty() ? kFirst : slots_.size() * 2, Slot());
  const size_t mask = slots_.size() - 1;
  for (size_t i = 0; i < entries_.size(); ++i) {
    const uint64_t hash = hash_bytes(word(i));
    size_t at = hash & mask;
    while (slots_[at].entry != kFree) at = (at + 1) & mask;
    slots_[at] = {static_cast<uint32_t>(hash >> 32), static_cast<uint32_t>(i)};
  }
}

}  // namespace westlake
