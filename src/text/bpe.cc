// Merging, and the cache of pieces. See bpe.h.
#include "text/bpe.h"

#include <algorithm>
#include <bit>
#include <queue>
#include <utility>

#include "base/check.h"
#include "text/byte_level.h"

namespace westlake {
namespace {

// Up to so many symbols the plain search is faster than the heap.
constexpr size_t kShortPiece = 96;

}  // namespace

void MergeTable::reserve(size_t merges) {
  const size_t capacity = std::bit_ceil(merges * 2 + 2);
  if (capacity <= slots_.size()) return;
  const std::vector<Slot> old = std::exchange(slots_, std::vector<Slot>(capacity));
  mask_ = capacity - 1;
  for (const Slot& slot : old) {
    if (slot.key == kNone) continue;
    size_t at = slot_of(slot.key);
    while (slots_[at].key != kNone) at = (at + 1) & mask_;
    slots_[at] = slot;
  }
}

void MergeTable::add(int32_t left, int32_t right, uint32_t rank, int32_t merged) {
  if (size_ * 2 + 2 > slots_.size()) reserve(size_ * 2 + 2);
  const uint64_t key = key_of(left, right);
  size_t at = slot_of(key);
  while (slots_[at].key != kNone && slots_[at].key != key) at = (at + 1) & mask_;
  if (slots_[at].key == kNone) ++size_;
  slots_[at] = {key, static_cast<uint64_t>(rank) << 32 | static_cast<uint32_t>(merged)};
}

PieceCache::PieceCache() : short_(size_t{1} << kShortBits), long_(size_t{1} << kLongBits) {}

void PieceCache::short_key(std::string_view piece, uint64_t key[2]) {
  const size_t n = piece.size();
  key[0] = load_up_to_8(piece.data(), n);
  key[1] = (n > 8 ? load_up_to_8(piece.data() + 8, n - 8) : 0) | static_cast<uint64_t>(n) << 56;
}

bool PieceCache::find(std::string_view piece, std::vector<int32_t>& out) const {
  if (piece.size() <= kShortBytes) {
    uint64_t key[2];
    short_key(piece, key);
    for (const ShortSlot& slot : short_[short_index(key)].slots) {
      if (slot.key[0] != key[0] || slot.key[1] != key[1]) continue;
      out.insert(out.end(), slot.ids, slot.ids + slot.count);
      return true;
    }
    return false;
  }
  if (piece.size() > kLongBytes) return false;
  const uint64_t hash = hash_bytes(piece);
  const LongSlot& slot = long_[hash & (long_.size() - 1)];
  if (slot.size != piece.size() || slot.tag != static_cast<uint32_t>(hash >> 32)) return false;
  const char* at = arena_.data() + slot.begin;
  if (std::memcmp(at, piece.data(), piece.size()) != 0) return false;
  const size_t before = out.size();
  out.resize(before + slot.count);
  std::memcpy(out.data() + before, at + slot.size, slot.count * sizeof(int32_t));
  return true;
}

void PieceCache::insert(std::string_view piece, const int32_t* ids, size_t count) {
  if (piece.size() <= kShortBytes) {
    if (count > kShortIds) return;
    uint64_t key[2];
    short_key(piece, key);
    ShortPair& pair = short_[short_index(key)];
    // The newest goes first and pushes out the older of the two.
    pair.slots[1] = pair.slots[0];
    pair.slots[0] = {{key[0], key[1]}, {}, static_cast<uint32_t>(count)};
    std::copy_n(ids, count, pair.slots[0].ids);
    return;
  }
  if (piece.size() > kLongBytes) return;
  const size_t bytes = piece.size() + count * sizeof(int32_t);
  if (arena_.size() + bytes > kArenaBytes) {
    arena_.clear();
    std::fill(long_.begin(), long_.end(), LongSlot());
  }
  const uint64_t hash = hash_bytes(piece);
  long_[hash & (long_.size() - 1)] = {static_cast<uint32_t>(hash >> 32), static_cast<uint32_t>(arena_.size()),
                                      static_cast<uint32_t>(piece.size()), static_cast<uint32_t>(count)};
  arena_ += piece;
  arena_.append(reinterpret_cast<const char*>(ids), count * sizeof(int32_t));
}

void BpeModel::find_bytes() {
  for (int byte = 0; byte < 256; ++byte) {
    std::string text;
    append_byte_level(text, std::string(1, static_cast<char>(byte)));
    byte_ids_[static_cast<size_t>(byte)] = vocab.find(text);
  }
}

bool BpeModel::has_all_bytes() const {
  return std::all_of(byte_ids_.begin(), byte_ids_.end(), [](int32_t id) { return id >= 0; });
}

void BpeModel::encode(std::string_view piece, PieceCache& cache, std::vector<int32_t>& out) const {
  if (piece.size() == 1 && byte_ids_[static_cast<unsigned char>(piece[0])] >= 0 && !ignore_merges) {
    out.push_back(byte_ids_[static_cast<unsigned char>(piece[0])]);
    return;
  }
  if (cache.find(piece, out)) return;
  const size_t before = out.size();
  encode_uncached(piece, out);
  cache.insert(piece, out.data() + before, out.size() - before);
}

void BpeModel::encode_uncached(std::string_view piece, std::vector<int32_t>& out) const {
  if (ignore_merges) {
    std::string text;
    append_byte_level(text, piece);
    const int32_t id = vocab.find(text);
    if (id >= 0 && !(static_cast<size_t>(id) < never_from_text.size() && never_from_text[static_cast<size_t>(id)])) {
      out.push_back(id);
      return;
    }
  }
  const size_t before = out.size();
  out.resize(before + piece.size());
  int32_t* ids = out.data() + before;
  size_t count = start(piece, ids);
  count = count <= kShortPiece ? merge_short(ids, count) : merge_long(ids, count);
  out.resize(before + count);
}

// One id a byte. A byte without a token becomes unk (neighbours as one with fuse_unk) or nothing.
size_t BpeModel::start(std::string_view piece, int32_t* ids) const {
  size_t count = 0;
  bool in_unk = false;
  for (const char c : piece) {
    const int32_t id = byte_ids_[static_cast<unsigned char>(c)];
    if (id >= 0) {
      ids[count++] = id;
    } else if (unk_id >= 0 && !(in_unk && fuse_unk)) {
      ids[count++] = unk_id;
    }
    // A byte that is dropped leaves the run of unknowns as it is; there is none without unk_id.
    in_unk = id < 0;
  }
  return count;
}

size_t BpeModel::merge_short(int32_t* ids, size_t count) const {
  uint64_t pairs[kShortPiece];  // pairs[i]: the merge of ids[i] and ids[i + 1]
  if (count < 2) return count;
  for (size_t i = 0; i + 1 < count; ++i) pairs[i] = merges.find(ids[i], ids[i + 1]);
  while (count > 1) {
    size_t best = 0;
    uint64_t least = pairs[0];
    for (size_t i = 1; i + 1 < count; ++i) {
      if (pairs[i] < least) {
        least = pairs[i];
        best = i;
      }
    }
    if (least == MergeTable::kNone) break;
    ids[best] = static_cast<int32_t>(least & UINT32_MAX);
    --count;
    for (size_t i = best + 1; i < count; ++i) ids[i] = ids[i + 1];
    for (size_t i = best; i + 1 < count; ++i) pairs[i] = pairs[i + 1];
    if (best > 0) pairs[best - 1] = merges.find(ids[best - 1], ids[best]);
    if (best + 1 < count) pairs[best] = merges.find(ids[best], ids[best + 1]);
  }
  return count;
}

// The same with a heap of pairs (rank, then position) over a linked list; an entry whose pair has changed is passed
// over when it comes up.
size_t BpeModel::merge_long(int32_t* ids, size_t count) const {
  struct Symbol {
    int32_t id, previous, next;  // indices; -1: none
    bool gone;
  };
  struct Entry {
    uint64_t merge;
    uint32_t at;
    bool operator>(const Entry& other) const {
      return merge >> 32 != other.merge >> 32 ? merge >> 32 > other.merge >> 32 : at > other.at;
    }
  };
  CHECK(count < INT32_MAX, "a piece of {} bytes", count);
  std::vector<Symbol> symbols(count);
  std::vector<Entry> entries;
  for (size_t i = 0; i < count; ++i) {
    symbols[i] = {ids[i], static_cast<int32_t>(i) - 1, i + 1 < count ? static_cast<int32_t>(i) + 1 : -1, false};
    if (i + 1 == count) break;
    const uint64_t merge = merges.find(ids[i], ids[i + 1]);
    if (merge != MergeTable::kNone) entries.push_back({merge, static_cast<uint32_t>(i)});
  }
  std::priority_queue<Entry, std::vector<Entry>, std::greater<>> heap(std::greater<>(), std::move(entries));
  const auto push = [&](int32_t left) {
    if (left < 0 || symbols[left].next < 0) return;
    const uint64_t merge = merges.find(symbols[left].id, symbols[symbols[left].next].id);
    if (merge != MergeTable::kNone) heap.push({merge, static_cast<uint32_t>(left)});
  };
  while (!heap.empty()) {
    const Entry top = heap.top();
    heap.pop();
    Symbol& symbol = symbols[top.at];
    if (symbol.gone || symbol.next < 0) continue;
    Symbol& right = symbols[symbol.next];
    if (merges.find(symbol.id, right.id) != top.merge) continue;
    symbol.id = static_cast<int32_t>(top.merge & UINT32_MAX);
    right.gone = true;
    symbol.next = right.next;
    if (symbol.next >= 0) symbols[symbol.next].previous = static_cast<int32_t>(top.at);
    push(symbol.previous);
    push(static_cast<int32_t>(top.at));
  }
  size_t kept = 0;
  for (int32_t at = 0; at >= 0; at = symbols[at].next) ids[kept++] = symbols[at].id;
  return kept;
}

}  // namespace westlake
