// Safetensors, written: one file, or a checkpoint folder in shards with an index.
// Idea: the header comes first, so names and shapes are told before any bytes; then the bytes of the tensors stream
// through, in the order that tensors() states. Files appear whole or not at all (AtomicFile).
// Source: as safetensors.h; the header is padded with spaces to a multiple of 8 and tensors lie in falling order of
// their element size, as the reference implementation has it, so that every tensor stands at a multiple of its element
// size.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/result.h"
#include "formats/safetensors.h"
#include "formats/tensor_table.h"

namespace westlake {

struct SafetensorsWriterOptions {
  SafetensorsMetadata metadata = {{"format", "pt"}};  // transformers refuses files without it
  uint64_t shard_limit_bytes = 5'000'000'000;         // of data in a shard; a larger tensor gets a shard of its own
};

class SafetensorsWriter {
 public:
  // One file. Errors: kIo; kInvalidArgument for a name that occurs twice; kUnsupported for quantised blocks.
  static Result<SafetensorsWriter> create_file(const std::string& path, std::vector<TensorSpec> tensors,
                                               const SafetensorsWriterOptions& options = {});

  // A folder, which must exist: model.safetensors, or beyond the limit model-00001-of-0000N.safetensors with
  // model.safetensors.index.json.
  static Result<SafetensorsWriter> create_folder(const std::string& folder, std::vector<TensorSpec> tensors,
                                                 const SafetensorsWriterOptions& options = {});

  // The order in which the bytes are expected; not the order given.
  const std::vector<TensorSpec>& tensors() const { return tensors_; }

  // The next bytes, in pieces of any size. Requires: no more in all than tensors() need.
  Status write(std::span<const std::byte> bytes);

  // Makes all files visible, the index last; until it is there, the folder has no index rather than a wrong one.
  // Requires: all bytes have been written.
  Status finish();

 private:
  struct Shard {
    std::string name;  // within folder_, "" for create_file
    AtomicFile file;
    int64_t left_bytes;
  };
  static Result<SafetensorsWriter> plan(std::vector<TensorSpec> tensors, uint64_t shard_limit_bytes);
  Status begin_shard(size_t i, const std::string& path, const SafetensorsMetadata& metadata);
  Status finish_folder();

  std::string folder_;  // empty for create_file
  std::vector<TensorSpec> tensors_;
  std::vector<size_t> shard_ends_;  // shard i holds tensors_[shard_ends_[i - 1], shard_ends_[i])
  std::vector<Shard> shards_;
  size_t current_ = 0;
};

}  // namespace westlake
