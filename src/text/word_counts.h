// How often each word (piece of a pre-tokenizer) occurs in a text: what training of a vocabulary looks at.
// Idea: one arena for the words and a flat hash table of 8 bytes a slot; the words of a language are few next to its
// text, so almost every look-up ends in a cache line that was used lately.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace westlake {

class WordCounts {
 public:
  void add(std::string_view word, uint64_t count = 1);
  void add(const WordCounts& other);

  size_t size() const { return entries_.size(); }
  std::string_view word(size_t i) const { return std::string_view(arena_).substr(entries_[i].begin, entries_[i].size); }
  uint64_t count(size_t i) const { return entries_[i].count; }

 private:
  static constexpr uint32_t kFree = UINT32_MAX;
  struct Entry {
    uint64_t begin, count;
    uint32_t size;
  };
  struct Slot {
    uint32_t tag = 0;  // upper half of the hash
    uint32_t entry = kFree;
  };
  void grow();

  std::string arena_;
  std::vector<Entry> entries_;
  std::vector<Slot> slots_;
};

}  // namespace westlake
