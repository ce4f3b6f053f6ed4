#include "base/page_memory.h"

#include <sys/mman.h>

#include <cerrno>
#include <utility>

#include "base/file.h"

namespace westlake {

Result<PageMemory> PageMemory::allocate(int64_t bytes) {
  PageMemory memory;
  if (bytes <= 0) return memory;
  void* data = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) {
    return make_error(Code::kExhausted, "{:.2f} GB of memory were refused: {}. Hint: a smaller model or batch",
                      static_cast<double>(bytes) / 1e9, errno_text(errno));
  }
  madvise(data, static_cast<size_t>(bytes), MADV_HUGEPAGE);  // not being granted is no error
  memory.data_ = static_cast<std::byte*>(data);
  memory.size_bytes_ = bytes;
  return memory;
}

PageMemory::PageMemory(PageMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_bytes_(std::exchange(other.size_bytes_, 0)) {}

PageMemory& PageMemory::operator=(PageMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_bytes_, other.size_bytes_);
  return *this;
}

PageMemory::~PageMemory() {
  if (data_ != nullptr) munmap(data_, static_cast<size_t>(size_bytes_));
}

}  // namespace westlake
