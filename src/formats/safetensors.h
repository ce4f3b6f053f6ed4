// Safetensors, read: one file, or the folder of a checkpoint with its shards.
//
//   bytes 0..8    N: length of the header, u64 little-endian
//   bytes 8..8+N  JSON: {"__metadata__": {text: text}, NAME: {"dtype": "BF16", "shape": [..], "data_offsets": [b, e]}}
//   the rest      the data; offsets count from its first byte and cover it without holes or overlap
//
// Files are mapped and never copied; a view's data may stand at any address (an old writer, mixed element sizes), so
// numbers are to be loaded unaligned. Nothing of the header is believed before it is checked against the file's size.
// Source: the format's specification (README of huggingface/safetensors); sharding as transformers writes it.
#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/result.h"
#include "formats/tensor_table.h"

namespace westlake {

using SafetensorsMetadata = std::map<std::string, std::string>;

// One file. Owns: the mapping that its views point into; views live as long as it does (moving it keeps them valid).
// Thread-safe: reads.
class Safetensors {
 public:
  // Errors: kNotFound and kIo for the file, kCorrupt for what contradicts the format, kUnsupported for a dtype which
  // this program does not know (the tensor is named).
  static Result<Safetensors> open(const std::string& path);

  // The same from memory. `place` opens every message. Requires: bytes outlive the object.
  static Result<Safetensors> from_bytes(std::span<const std::byte> bytes, std::string_view place);

  const TensorView* find(std::string_view name) const { return table_.find(name); }
  const std::vector<NamedTensor>& tensors() const { return table_.all(); }  // in the order of their bytes
  const SafetensorsMetadata& metadata() const { return metadata_; }

 private:
  MappedFile file_;
  TensorTable table_;
  SafetensorsMetadata metadata_;
};

// All tensors of a checkpoint folder. Owns: the mappings. Thread-safe: reads.
class SafetensorsSet {
 public:
  // `path`: a folder with model.safetensors, or with model.safetensors.index.json and its shards; or one .safetensors
  // file. Where there is an index it decides: a tensor that it does not name is not seen. Errors as above, and
  // kNotFound for a missing shard, kCorrupt for an index that names what its shard does not hold or that leaves the
  // folder.
  static Result<SafetensorsSet> open(const std::string& path);

  const TensorView* find(std::string_view name) const { return table_.find(name); }
  const std::vector<NamedTensor>& tensors() const { return table_.all(); }  // shard by shard, in the order of the bytes
  const SafetensorsMetadata& metadata() const { return metadata_; }         // of the first file
  int64_t file_bytes() const;
  std::vector<std::string> files() const;  // their paths

  // Tells the kernel that all of it is about to be read.
  void will_need() const;

 private:
  std::vector<MappedFile> files_;
  TensorTable table_;
  SafetensorsMetadata metadata_;
};

// The format's word for a dtype ("BF16"); empty for blocks, which it does not know.
std::string_view safetensors_dtype(DType dtype);

}  // namespace westlake
