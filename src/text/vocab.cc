// The hash table of a vocabulary: open addressing, linear steps, at most half full. See vocab.h.
#include "text/vocab.h"

#include <bit>

#include "base/check.h"

namespace westlake {

void Vocab::reserve(size_t entries, size_t bytes) {
  arena_.reserve(bytes);
  slices_.reserve(entries);
  grow(entries);
}

void Vocab::grow(size_t entries) {
  const size_t capacity = std::bit_ceil(entries * 2 + 16);
  if (capacity <= slots_.size()) return;
  slots_.assign(capacity, Slot());
  for (int32_t id = 0; id < id_end(); ++id) {
    if (!has_id(id)) continue;
    const uint64_t hash = hash_bytes(text(id));
    slots_[slot_of(text(id), hash)] = {static_cast<uint32_t>(hash >> 32), id};
  }
}

size_t Vocab::slot_of(std::string_view text, uint64_t hash) const {
  const size_t mask = slots_.size() - 1;
  const auto tag = static_cast<uint32_t>(hash >> 32);
  size_t at = hash & mask;
  while (slots_[at].id >= 0 && !(slots_[at].tag == tag && this->text(slots_[at].id) == text)) at = (at + 1) & mask;
  return at;
}

bool Vocab::add(std::string_view text, int32_t id) {
  CHECK(id >= 0 && arena_.size() + text.size() < UINT32_MAX, "id {}, {} bytes of texts", id, arena_.size());
  if (size_ * 2 + 2 >= slots_.size()) grow(size_ * 2 + 16);
  const uint64_t hash = hash_bytes(text);
  const size_t at = slot_of(text, hash);
  if (slots_[at].id >= 0 || has_id(id)) return false;
  slots_[at] = {static_cast<uint32_t>(hash >> 32), id};
  if (id >= id_end()) slices_.resize(static_cast<size_t>(id) + 1);
  slices_[static_cast<size_t>(id)] = {static_cast<uint32_t>(arena_.size()), static_cast<uint32_t>(text.size())};
  arena_ += text;
  ++size_;
  return true;
}

int32_t Vocab::find(std::string_view text) const {
  return slots_.empty() ? -1 : slots_[slot_of(text, hash_bytes(text))].id;
}

}  // namespace westlake
