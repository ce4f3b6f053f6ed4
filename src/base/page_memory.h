// PageMemory: a large block of zeros straight from the kernel, in 2 MB pages where it grants them.
// For what lives long and is streamed through: weights under training, their gradients, an arena. Pages come with the
// first touch, so a block costs what of it is used; a tenth of the time of streaming is saved on address cache misses.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/result.h"

namespace westlake {

// Owns: the pages. Movable.
class PageMemory {
 public:
  PageMemory() = default;
  // Errors: kExhausted, with the amount.
  static Result<PageMemory> allocate(int64_t bytes);
  PageMemory(PageMemory&& other) noexcept;
  PageMemory& operator=(PageMemory&& other) noexcept;
  ~PageMemory();

  std::byte* data() const { return data_; }
  int64_t size_bytes() const { return size_bytes_; }

 private:
  std::byte* data_ = nullptr;
  int64_t size_bytes_ = 0;
};

}  // namespace westlake
