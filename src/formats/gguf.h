// GGUF, read: typed metadata and tensors of one file, or of all files of a split model.
//
//   "GGUF", version u32, n_tensors u64, n_metadata u64
//   n_metadata times   key string, type u32, value            string = length u64, bytes
//   n_tensors times    name string, n_dims u32, extents u64 (innermost first), ggml type u32, offset u64
//   padding to general.alignment (32), then the data; offsets count from its first byte
//
// The file is mapped and nothing of it is copied: names, texts and arrays are views. Counts are checked against the
// bytes that are left before anything is done with them, so a damaged header cannot ask for memory or time.
// Source: ggml/docs/gguf.md of ggml-org/ggml, versions 2 and 3, little-endian.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/file.h"
#include "base/result.h"
#include "formats/tensor_table.h"

namespace westlake {

enum class GgufType : uint32_t {
  kU8 = 0,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64,
  kCount,
};
std::string_view gguf_type_name(GgufType type);

// A value of the metadata as the file holds it; gguf_writer.h takes it as it is, so that copying a file's metadata
// loses nothing.
struct GgufValue {
  GgufType type = GgufType::kU8;
  std::span<const std::byte>
      bytes;  // the value's encoding: a number, length + text, or element type + count + elements
};

// An array of the metadata. Elements are numbers, texts or arrays, all of one type.
struct GgufArray {
  GgufType type = GgufType::kU8;
  uint64_t count = 0;
  std::span<const std::byte> bytes;  // the elements' encodings
};

struct GgufEntry {
  std::string_view key;
  GgufValue value;
};

// Owns: the mappings that keys, texts and tensors point into (moving it keeps them valid). Thread-safe: reads.
class Gguf {
 public:
  // Of a split model (NAME-00001-of-00003.gguf) any part may be named; all are opened and their tensors joined in the
  // order of the parts; metadata is that of the first. Errors: kNotFound (a missing part is named), kIo, kCorrupt,
  // kUnsupported (another version, big-endian, a ggml type that this program does not know; the tensor is named).
  static Result<Gguf> open(const std::string& path);

  // One file from memory; split.* is not followed. `place` opens every message. Requires: bytes outlive the object.
  static Result<Gguf> from_bytes(std::span<const std::byte> bytes, std::string_view place);

  uint32_t version() const { return version_; }
  const TensorView* find(std::string_view name) const { return table_.find(name); }
  const std::vector<NamedTensor>& tensors() const { return table_.all(); }  // in the order of the header
  int64_t file_bytes() const;
  std::vector<std::string> files() const;  // their paths

  // Tells the kernel that all of it is about to be read.
  void will_need() const;

  const std::vector<GgufEntry>& metadata() const { return metadata_; }
  const GgufValue* find_metadata(std::string_view key) const;
  bool has(std::string_view key) const { return find_metadata(key) != nullptr; }

  // A required value. Errors: kNotFound when the key is absent, kCorrupt when it is of another type or out of range;
  // both name file and key. Integers of any width are integers; get_f64 takes integers too; nothing else converts.
  Result<uint64_t> get_u64(std::string_view key) const;
  Result<int64_t> get_i64(std::string_view key) const;
  Result<double> get_f64(std::string_view key) const;
  Result<bool> get_bool(std::string_view key) const;
  Result<std::string_view> get_string(std::string_view key) const;
  Result<GgufArray> get_array(std::string_view key) const;
  Result<std::vector<std::string_view>> get_strings(std::string_view key) const;  // texts point into the file
  Result<std::vector<int64_t>> get_ints(std::string_view key) const;              // bools count as 0 and 1
  Result<std::vector<float>> get_floats(std::string_view key) const;

  // An optional value, as json_read reads one: absent leaves `out` alone and is ok, another type is an error.
  Status read(std::string_view key, int64_t* out) const;
  Status read(std::string_view key, double* out) const;
  Status read(std::string_view key, bool* out) const;
  Status read(std::string_view key, std::string* out) const;

 private:
  Error missing(std::string_view key, std::string_view expected) const;
  Error mistyped(std::string_view key, std::string_view expected) const;
  Status index_metadata();

  std::string place_;
  std::vector<MappedFile> files_;
  uint32_t version_ = 0;
  std::vector<GgufEntry> metadata_;
  std::unordered_map<std::string_view, size_t> metadata_index_;
  TensorTable table_;
};

// One line for a screen or a message: "u32 7", "string 'llama'", "array of 49152 string".
std::string gguf_preview(const GgufValue& value);

// ggml's number for a dtype; nothing for FP8, which ggml does not have.
std::optional<uint32_t> ggml_type_of(DType dtype);

// Where part `number` (from 1) of a split model lies: "dir/name-00002-of-00003.gguf" from the path of any part.
// Nothing when `path` is not such a name or its number is out of 1..count.
struct GgufPartName {
  std::string stem;  // "dir/name"
  int number = 0, count = 0;
  std::string path_of(int other) const { return fmt::format("{}-{:05}-of-{:05}.gguf", stem, other, count); }
};
std::optional<GgufPartName> gguf_part_name(std::string_view path);

}  // namespace westlake
