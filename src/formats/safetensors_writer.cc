#include "formats/safetensors_writer.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <unordered_set>
#include <utility>

#include "base/check.h"
#include "base/json.h"

namespace westlake {
namespace {

int64_t bytes_of(const TensorSpec& spec) {
  const std::optional<int64_t> bytes = tensor_bytes(spec.dtype, spec.shape);
  CHECK(bytes.has_value(), "{} is {} of {}", spec.name, shape_text(spec.shape), dtype_name(spec.dtype));
  return *bytes;
}

// Eight bytes of length, the JSON, spaces up to a multiple of 8.
std::string header_of(std::span<const TensorSpec> tensors, const SafetensorsMetadata& metadata) {
  JsonWriter json;
  json.begin_object();
  if (!metadata.empty()) {
    json.key("__metadata__").begin_object();
    for (const auto& [key, value] : metadata) json.key(key).value(value);
    json.end_object();
  }
  int64_t offset = 0;
  for (const TensorSpec& spec : tensors) {
    json.key(spec.name).begin_object().key("dtype").value(safetensors_dtype(spec.dtype)).key("shape").begin_array();
    for (int64_t extent : spec.shape) json.value(extent);
    json.end_array().key("data_offsets").begin_array().value(offset).value(offset + bytes_of(spec)).end_array();
    json.end_object();
    offset += bytes_of(spec);
  }
  json.end_object();
  std::string text = json.text();
  text.append((8 - text.size() % 8) % 8, ' ');
  std::string header;
  for (int i = 0; i < 8; ++i) header += static_cast<char>(static_cast<uint64_t>(text.size()) >> (8 * i));
  return header + text;
}

Status remove_if_there(const std::string& path) {
  if (unlink(path.c_str()) == 0 || errno == ENOENT) return {};
  return make_error(Code::kIo, "{}: cannot remove the old file: {}", path, errno_text(errno));
}

}  // namespace

// Cuts the list into shards in the order given, then orders each shard by element size.
Result<SafetensorsWriter> SafetensorsWriter::plan(std::vector<TensorSpec> tensors, uint64_t shard_limit_bytes) {
  SafetensorsWriter writer;
  std::unordered_set<std::string_view> names;
  uint64_t shard_bytes = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const TensorSpec& spec = tensors[i];
    if (!names.insert(spec.name).second)
      return make_error(Code::kInvalidArgument, "tensor {} is to be written twice", quote_name(spec.name));
    if (safetensors_dtype(spec.dtype).empty()) {
      return make_error(Code::kUnsupported, "{} is {}, which safetensors does not know. Hint: convert it to bf16",
                        quote_name(spec.name), dtype_name(spec.dtype));
    }
    const uint64_t bytes = static_cast<uint64_t>(bytes_of(spec));
    if (shard_bytes > 0 && shard_bytes + bytes > shard_limit_bytes) {
      writer.shard_ends_.push_back(i);
      shard_bytes = 0;
    }
    shard_bytes += bytes;
  }
  writer.shard_ends_.push_back(tensors.size());
  size_t begin = 0;
  for (size_t end : writer.shard_ends_) {
    std::stable_sort(tensors.begin() + static_cast<ptrdiff_t>(begin), tensors.begin() + static_cast<ptrdiff_t>(end),
                     [](const TensorSpec& a, const TensorSpec& b) {
                       return dtype_info(a.dtype).block_bytes > dtype_info(b.dtype).block_bytes;
                     });
    begin = end;
  }
  writer.tensors_ = std::move(tensors);
  return writer;
}

Status SafetensorsWriter::begin_shard(size_t i, const std::string& path, const SafetensorsMetadata& metadata) {
  const size_t begin = i == 0 ? 0 : shard_ends_[i - 1];
  const std::span<const TensorSpec> mine = std::span(tensors_).subspan(begin, shard_ends_[i] - begin);
  TRY_ASSIGN(AtomicFile file, AtomicFile::create(path));
  TRY(file.write(header_of(mine, metadata)));
  int64_t bytes = 0;
  for (const TensorSpec& spec : mine) bytes += bytes_of(spec);
  shards_.push_back({path.substr(path.rfind('/') + 1), std::move(file), bytes});
  return {};
}

Result<SafetensorsWriter> SafetensorsWriter::create_file(const std::string& path, std::vector<TensorSpec> tensors,
                                                         const SafetensorsWriterOptions& options) {
  auto planned = plan(std::move(tensors), UINT64_MAX);
  if (!planned.ok()) return planned.error().at(path);
  TRY(planned->begin_shard(0, path, options.metadata));
  return planned;
}

Result<SafetensorsWriter> SafetensorsWriter::create_folder(const std::string& folder, std::vector<TensorSpec> tensors,
                                                           const SafetensorsWriterOptions& options) {
  auto planned = plan(std::move(tensors), options.shard_limit_bytes);
  if (!planned.ok()) return planned.error().at(folder);
  planned->folder_ = folder;
  const size_t n = planned->shard_ends_.size();
  for (size_t i = 0; i < n; ++i) {
    const std::string name = n == 1 ? "model.safetensors" : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, n);
    TRY(planned->begin_shard(i, fmt::format("{}/{}", folder, name), options.metadata));
  }
  return planned;
}

Status SafetensorsWriter::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    while (current_ < shards_.size() && shards_[current_].left_bytes == 0) ++current_;
    CHECK(current_ < shards_.size(), "{} bytes more than the tensors need", bytes.size());
    Shard& shard = shards_[current_];
    const size_t take = std::min(bytes.size(), static_cast<size_t>(shard.left_bytes));
    TRY(shard.file.write(bytes.first(take)));
    shard.left_bytes -= static_cast<int64_t>(take);
    bytes = bytes.subspan(take);
  }
  return {};
}

Status SafetensorsWriter::finish() {
  for (const Shard& shard : shards_) CHECK(shard.left_bytes == 0, "{}: {} bytes missing", shard.name, shard.left_bytes);
  if (!folder_.empty()) return finish_folder();
  return shards_[0].file.commit();
}

// A folder may hold an older checkpoint in the other form, which a reader would take first; it goes before the shards
// come, so that a kill in between leaves no index over a mixture of old and new shards.
Status SafetensorsWriter::finish_folder() {
  const std::string index_path = folder_ + "/model.safetensors.index.json";
  const bool sharded = shards_.size() > 1;
  if (sharded) {
    TRY(remove_if_there(index_path));
    TRY(remove_if_there(folder_ + "/model.safetensors"));
  }
  for (Shard& shard : shards_) TRY(shard.file.commit());
  if (!sharded) return remove_if_there(index_path);

  int64_t total_bytes = 0;
  std::map<std::string_view, std::string_view> where;
  for (size_t i = 0, tensor = 0; i < shards_.size(); ++i) {
    for (; tensor < shard_ends_[i]; ++tensor) {
      where[tensors_[tensor].name] = shards_[i].name;
      total_bytes += bytes_of(tensors_[tensor]);
    }
  }
  JsonWriter json;
  json.begin_object().key("metadata").begin_object().key("total_size").value(total_bytes).end_object();
  json.key("weight_map").begin_object();
  for (const auto& [name, shard] : where) json.key(name).value(shard);
  json.end_object().end_object();
  return write_file(index_path, json.text() + "\n");
}

}  // namespace westlake
