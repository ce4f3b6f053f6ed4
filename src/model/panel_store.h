// PanelStore: the quantised matrices of a model in panels (tensor/panels.h), made once and kept.
//
// Idea: panels take exactly the bytes of the rows they are made of, so the whole of them is a second copy of the model
// in another order. A small model is turned over in memory at each start (some ten milliseconds); a large one once,
// into a kept file (kept_folder.h) that is mapped from then on, so that a start reads nothing and only one copy is ever
// resident. Without room on the disk the panels are made in memory.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/file.h"
#include "base/result.h"
#include "base/thread_pool.h"
#include "model/weights.h"

namespace westlake {

class Checkpoint;

struct PanelOptions {
  std::string folder;                            // where the files are kept; empty: in memory, whatever the size
  int64_t file_from_bytes = int64_t{512} << 20;  // models with fewer bytes are turned over in memory
};

class PanelStore {
 public:
  // Turns over every matrix of `weights` that can_be_panels(), but not embed_tokens, of which single rows are read, nor
  // routers. The weights point into the store afterwards. A store without bytes: nothing to turn over.
  // Errors: kIo of the checkpoint's files only; a folder that cannot be used is said in note().
  static Result<PanelStore> open(const Checkpoint& checkpoint, const PanelOptions& options, ThreadPool& pool,
                                 Weights* weights);

  int64_t size_bytes() const { return size_bytes_; }
  // The mapped file; empty: in memory.
  const std::string& path() const { return path_; }
  // What the user should know: that there was no room for a file, and why. Mostly empty.
  const std::string& note() const { return note_; }

 private:
  struct Free {
    void operator()(std::byte* p) const;
  };
  std::unique_ptr<std::byte[], Free> memory_;
  MappedFile file_;
  std::string path_, note_;
  int64_t size_bytes_ = 0;
};

}  // namespace westlake
