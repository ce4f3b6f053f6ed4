// KeptFolder: files of the cache that are made once out of a model's weights, kept, and mapped from then on: panels
// (panel_store.h) and quantised copies (quantised_copy.h).
//
// Idea: a file is named by a hash of what it is made of, so that the same model under another path finds it. Which
// content a path holds is remembered by its files' device, inode, size and times of change, so that later starts read
// nothing. While a file is made its name with ".tmp" is locked: a second process waits and finds the file; a killed one
// leaves nothing but files ending in .tmp, which the next writes over or removes. Without room on the disk the files
// not used for longest go, of the neighbouring folders of this kind too, but never one that is part of the model at
// hand.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/thread_pool.h"

namespace westlake {

// Of 128 bits.
struct ContentHash {
  uint64_t high = 0, low = 0;
  std::string text() const;
  bool operator==(const ContentHash&) const = default;
};

// Device, inode, size and times of change of the files: the same as long as nobody touched them.
uint64_t files_identity(std::span<const std::string> paths);

uint64_t hash_bytes(const void* data, size_t bytes);

using Bytes = std::span<const std::byte>;

// Of mapped pieces in their order and of `extra`; reads all of them once, with progress, and lets their pages go.
ContentHash hash_content(std::span<const Bytes> pieces, uint64_t extra, ThreadPool& pool);

// Calls f(i, thread) for every piece, bytes_of(i) long, some at a time in their order, with a line of progress.
void for_each_piece(size_t n, FunctionRef<int64_t(size_t)> bytes_of, const char* label, ThreadPool& pool,
                    FunctionRef<void(size_t, int)> f);

class KeptFolder {
 public:
  // `in_use`: files that never make room.
  KeptFolder(std::string path, std::vector<std::string> in_use) : path_(std::move(path)), in_use_(std::move(in_use)) {}

  const std::string& path() const { return path_; }
  Status create() const;

  // The hash remembered for `identity`, else that of compute(), which is remembered.
  Result<ContentHash> content_hash(uint64_t identity, FunctionRef<ContentHash()> compute) const;

  // Fills a file: `temporary` is open as fd, locked and empty. fill() ends by putting a whole file under the target's
  // name: it renames the temporary one, or removes it when it wrote the target by other means.
  using Fill = FunctionRef<Status(int fd, const std::string& temporary)>;

  // Makes `target` of about so many bytes, unless is_good() says that another process has made it while its lock was
  // waited for. Errors: kExhausted without room, kIo, those of fill(). Nothing of a failed one is left.
  Status make(const std::string& target, int64_t bytes, FunctionRef<bool()> is_good, Fill fill) const;

  // The last to make room for others.
  void mark_used(const std::string& target) const;

 private:
  Status make_room(int64_t bytes) const;
  bool remove_one() const;

  std::string path_;
  std::vector<std::string> in_use_;
};

}  // namespace westlake
