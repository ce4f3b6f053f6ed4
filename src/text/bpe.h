// Byte-pair encoding of one piece.
// Idea: a piece starts as one id a byte; the pair of neighbours with the lowest rank is merged, the leftmost of equals
// first, until no pair has a rank. Short pieces search their pairs one by one, long ones keep a heap, O(n log n). A
// piece seen before is answered from a bounded cache.
// Source: Sennrich et al. 2016 (arXiv:1508.07909); the order of merges of Hugging Face tokenizers, models/bpe.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "text/vocab.h"

namespace westlake {

// (left id, right id) -> (rank, id of the merged token). Flat, open addressing, at most half full.
class MergeTable {
 public:
  // The rank in the upper half, the new id in the lower: the smaller number is the earlier merge.
  static constexpr uint64_t kNone = UINT64_MAX;

  void reserve(size_t merges);
  // A pair that is there already gets the new rank, as in the reference.
  void add(int32_t left, int32_t right, uint32_t rank, int32_t merged);
  uint64_t find(int32_t left, int32_t right) const {
    const uint64_t key = key_of(left, right);
    for (size_t at = slot_of(key);; at = (at + 1) & mask_) {
      if (slots_[at].key == key) return slots_[at].value;
      if (slots_[at].key == kNone) return kNone;
    }
  }
  size_t size() const { return size_; }

 private:
  struct Slot {
    uint64_t key = kNone, value = kNone;
  };
  static uint64_t key_of(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  size_t slot_of(uint64_t key) const { return static_cast<size_t>(fold_multiply(key, 0x9e3779b97f4a7c15u)) & mask_; }

  std::vector<Slot> slots_ = std::vector<Slot>(2);
  size_t mask_ = 1, size_ = 0;
};

// The ids of pieces seen lately. Two tables: pieces up to 15 bytes with up to 3 ids lie whole in a slot, half a cache
// line; longer ones have their bytes and ids in an arena that is emptied when full. Not thread-safe.
class PieceCache {
 public:
  PieceCache();
  bool find(std::string_view piece, std::vector<int32_t>& out) const;
  void insert(std::string_view piece, const int32_t* ids, size_t count);

 private:
  static constexpr size_t kShortBytes = 15, kShortIds = 3, kLongBytes = 128;
  static constexpr int kShortBits = 15, kLongBits = 14;  // pairs of slots; slots
  static constexpr size_t kArenaBytes = 1 << 20;
  struct ShortSlot {
    uint64_t key[2] = {0, 0};  // the bytes; the length in the last one. All zero: free
    int32_t ids[kShortIds] = {};
    uint32_t count = 0;
  };
  struct alignas(64) ShortPair {
    ShortSlot slots[2];
  };
  struct LongSlot {
    uint32_t tag = 0, begin = 0;  // where bytes and ids start in the arena
    uint32_t size = 0, count = 0;
  };
  static void short_key(std::string_view piece, uint64_t key[2]);
  static size_t short_index(const uint64_t key[2]) {
    return static_cast<size_t>(fold_multiply(key[0] ^ 0xa0761d6478bd642fu, key[1] ^ 0xe7037ed1a0b428dbu)) &
           ((size_t{1} << kShortBits) - 1);
  }

  std::vector<ShortPair> short_;
  std::vector<LongSlot> long_;
  std::string arena_;
};

class BpeModel {
 public:
  // Filled by the loaders. `vocab` holds the model's own tokens, added ones only where the file lists them there too.
  Vocab vocab;
  MergeTable merges;
  bool ignore_merges = false;  // a piece that is a token is that token, merges or not
  bool fuse_unk = false;
  int32_t unk_id = -1;                // for a byte without a token; -1: such a byte is dropped
  std::vector<bool> never_from_text;  // by id: special tokens, which ignore_merges must not produce

  // Looks up the 256 bytes. Call when `vocab` is filled.
  void find_bytes();
  bool has_all_bytes() const;

  // Appends the ids of a piece of raw text. Thread-safe with a cache of its own.
  void encode(std::string_view piece, PieceCache& cache, std::vector<int32_t>& out) const;

 private:
  void encode_uncached(std::string_view piece, std::vector<int32_t>& out) const;
  size_t start(std::string_view piece, int32_t* ids) const;
  size_t merge_short(int32_t* ids, size_t count) const;
  size_t merge_long(int32_t* ids, size_t count) const;

  std::array<int32_t, 256> byte_ids_ = {};
};

}  // namespace westlake
