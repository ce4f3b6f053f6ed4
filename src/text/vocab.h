// A vocabulary: texts and ids, both ways.
// Idea: one arena for all texts, a slice an id, and a flat hash table from text to id; 130k entries load in
// milliseconds and nothing is allocated apiece.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace westlake {

// Multiply and fold: the product's halves folded together. Good enough for tables whose keys come from files.
inline uint64_t fold_multiply(uint64_t a, uint64_t b) {
  const unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

inline uint64_t load_u64(const char* p) {
  uint64_t value;
  std::memcpy(&value, p, 8);
  return value;
}

// 0 to 8 bytes as a number, little end first; reads nothing outside them.
inline uint64_t load_up_to_8(const char* p, size_t n) {
  if (n >= 8) return load_u64(p);
  if (n >= 4) {
    uint32_t low, high;
    std::memcpy(&low, p, 4);
    std::memcpy(&high, p + n - 4, 4);
    return low | static_cast<uint64_t>(high) << (8 * (n - 4));
  }
  uint64_t value = 0;
  for (size_t i = 0; i < n; ++i) value |= static_cast<uint64_t>(static_cast<unsigned char>(p[i])) << (8 * i);
  return value;
}

inline uint64_t hash_bytes(std::string_view text) {
  uint64_t hash = 0x9e3779b97f4a7c15u ^ text.size();
  const char* p = text.data();
  size_t n = text.size();
  for (; n > 8; p += 8, n -= 8) hash = fold_multiply(hash ^ load_u64(p), 0xd6e8feb86659fd93u);
  return fold_multiply(hash ^ load_up_to_8(p, n), 0xa0761d6478bd642fu);
}

class Vocab {
 public:
  // Room for `entries` texts of together `bytes` bytes.
  void reserve(size_t entries, size_t bytes);

  // False when the text or the id is there already. Requires: id >= 0.
  bool add(std::string_view text, int32_t id);

  // -1 when unknown.
  int32_t find(std::string_view text) const;

  bool has_id(int64_t id) const { return id >= 0 && id < id_end() && slices_[static_cast<size_t>(id)].size != kNoText; }
  std::string_view text(int32_t id) const {
    const Slice& slice = slices_[static_cast<size_t>(id)];
    return std::string_view(arena_).substr(slice.begin, slice.size);
  }
  size_t size() const { return size_; }                                    // entries
  int32_t id_end() const { return static_cast<int32_t>(slices_.size()); }  // one past the largest id

 private:
  static constexpr uint32_t kNoText = UINT32_MAX;
  struct Slice {
    uint32_t begin = 0, size = kNoText;
  };
  struct Slot {
    uint32_t tag = 0;  // upper half of the hash
    int32_t id = -1;
  };
  void grow(size_t entries);
  size_t slot_of(std::string_view text, uint64_t hash) const;  // its slot, or the free one where it would go

  std::string arena_;
  std::vector<Slice> slices_;
  std::vector<Slot> slots_;
  size_t size_ = 0;
};

}  // namespace westlake
