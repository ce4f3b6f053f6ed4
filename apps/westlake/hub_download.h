// One file from a hub to its place, whole and right or not at all.
// Idea: bytes go to FILE.<hash>.part beside the target; a cut connection, a full disk or a kill leaves that part, and
// the next run asks for the rest. The hash in the part's name says which file it is a part of, so two versions never
// mix. Only a file whose hash is right gets its name, by a rename.
#pragma once

#include <string>

#include "westlake/hub_index.h"

namespace westlake {

struct Fetched {
  bool was_there = false;
  uint64_t received_bytes = 0;  // over the network, this time
};

// Requires: the folder of `target` is locked by this process (FolderLock).
// Errors: kCorrupt for a wrong hash (the part is removed), kIo with how to go on.
Result<Fetched> download_file(Hub& hub, const HubName& name, const std::string& commit, const HubFile& file,
                              const std::string& target);

// Bytes that still have to come for `file`, given what lies at `target`; 0 when the hub did not say the size.
uint64_t missing_bytes(const HubFile& file, const std::string& target);

// Creates a folder and those above it.
Status make_folders(const std::string& path);

// Errors: kIo when the disk under `folder` has less than `bytes` free.
Status check_free_space(const std::string& folder, uint64_t bytes);

// Syncs the file and gives it its name.
Status sync_and_rename(const std::string& from, const std::string& to);

// Holds PATH locked for this process; the kernel lets go when it ends, however it ends.
class FolderLock {
 public:
  // Errors: kIo when another process holds it.
  static Result<FolderLock> take(const std::string& path);
  FolderLock(FolderLock&& other) noexcept;
  FolderLock& operator=(FolderLock&&) = delete;
  ~FolderLock();

 private:
  explicit FolderLock(int fd) : fd_(fd) {}
  int fd_;
};

}  // namespace westlake
