#include "formats/safetensors.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>
#include <unordered_map>
#include <utility>

#include "base/json.h"

namespace westlake {
namespace {

// The reference implementation refuses longer headers; the longest published shards need far less than 1 MB.
constexpr uint64_t kHeaderLimitBytes = 100'000'000;
constexpr uint64_t kLengthBytes = 8;

struct DTypeWord {
  std::string_view word;
  DType dtype;
};
// The first word of a dtype is the one that is written. BOOL is read as bytes 0 and 1.
constexpr DTypeWord kWords[] = {
    {"F32", DType::kF32},        {"F16", DType::kF16}, {"BF16", DType::kBF16}, {"F8_E4M3", DType::kF8E4M3},
    {"F8_E8M0", DType::kF8E8M0}, {"I8", DType::kI8},   {"I32", DType::kI32},   {"I64", DType::kI64},
    {"U8", DType::kU8},          {"BOOL", DType::kU8},
};

struct Contents {
  std::vector<NamedTensor> tensors;
  SafetensorsMetadata metadata;
};

Result<std::string_view> header_text(std::string_view file, std::string_view place) {
  if (file.starts_with("version https://git-lfs")) {
    return make_error(Code::kCorrupt, "{}: is a git-lfs pointer, not the file it stands for. Hint: git lfs pull",
                      place);
  }
  if (file.size() < kLengthBytes) {
    return make_error(Code::kCorrupt,
                      "{}: holds {} bytes, expected at least the 8 of the header's length. Hint: an "
                      "interrupted download?",
                      place, file.size());
  }
  uint64_t length = 0;
  std::memcpy(&length, file.data(), sizeof length);
  if (length > kHeaderLimitBytes) {
    return make_error(
        Code::kCorrupt,
        "{}: header length is {}, expected at most {} bytes. Hint: not a safetensors file? A checkpoint with "
        "an index is named by its folder",
        place, length, kHeaderLimitBytes);
  }
  if (length > file.size() - kLengthBytes) {
    return make_error(Code::kCorrupt,
                      "{}: header length is {}, but only {} bytes follow. Hint: an interrupted download?", place,
                      length, file.size() - kLengthBytes);
  }
  const std::string_view header = file.substr(kLengthBytes, length);
  if (!header.starts_with('{')) {
    return make_error(Code::kCorrupt, "{}: the header does not begin with '{{'. Hint: not a safetensors file?", place);
  }
  return header;
}

Status read_metadata(JsonElement element, std::string_view place, SafetensorsMetadata* metadata) {
  JsonObject object;
  if (element.get(object) != simdjson::SUCCESS) {
    return make_error(Code::kCorrupt, "{}: '__metadata__' is {}, expected an object", place, json_preview(element));
  }
  for (const auto& [key, value] : object) {
    std::string_view text;
    if (value.get(text) != simdjson::SUCCESS) {
      return make_error(Code::kCorrupt, "{}: metadata {} is {}, expected a string", place, quote_name(key),
                        json_preview(value));
    }
    (*metadata)[std::string(key)] = text;
  }
  return {};
}

// A tensor with the bytes it claims: [begin, end) of the data.
struct Entry {
  NamedTensor tensor;
  uint64_t begin = 0, end = 0;
};

Error entry_error(std::string_view place, std::string_view name, std::string_view key, const std::string& seen,
                  std::string_view expected) {
  return make_error(Code::kCorrupt, "{}: {}: '{}' is {}, expected {}", place, quote_name(name), key, seen, expected);
}

Status read_dtype(JsonElement element, std::string_view place, std::string_view name, DType* dtype) {
  std::string_view word;
  if (element.get(word) != simdjson::SUCCESS)
    return entry_error(place, name, "dtype", json_preview(element), "a string");
  for (const DTypeWord& known : kWords) {
    if (known.word == word) {
      *dtype = known.dtype;
      return {};
    }
  }
  std::string list;
  for (const DTypeWord& known : kWords) list += (list.empty() ? "" : ", ") + std::string(known.word);
  return make_error(Code::kUnsupported, "{}: {} has dtype {}, supported are {}", place, quote_name(name),
                    quote_name(word), list);
}

Status read_shape(JsonElement element, std::string_view place, std::string_view name, std::vector<int64_t>* shape) {
  JsonArray array;
  if (element.get(array) != simdjson::SUCCESS)
    return entry_error(place, name, "shape", json_preview(element), "an array");
  constexpr size_t kDimensionsLimit = 64;  // numpy's
  if (array.size() > kDimensionsLimit)
    return entry_error(place, name, "shape", fmt::format("{} numbers", array.size()), "at most 64 dimensions");
  for (JsonElement extent : array) {
    int64_t value = 0;
    if (extent.get(value) != simdjson::SUCCESS || value < 0)
      return entry_error(place, name, "shape", json_preview(element), "whole numbers from 0 to 2^63 - 1");
    shape->push_back(value);
  }
  return {};
}

Status read_offsets(JsonElement element, std::string_view place, std::string_view name, Entry* entry) {
  JsonArray array;
  if (element.get(array) != simdjson::SUCCESS || array.size() != 2 ||
      array.at(0).get(entry->begin) != simdjson::SUCCESS || array.at(1).get(entry->end) != simdjson::SUCCESS)
    return entry_error(place, name, "data_offsets", json_preview(element), "two whole numbers [begin, end]");
  return {};
}

Result<Entry> read_entry(std::string_view name, JsonElement element, std::string_view place) {
  JsonObject object;
  if (element.get(object) != simdjson::SUCCESS) {
    return make_error(Code::kCorrupt, "{}: {} is {}, expected an object with dtype, shape and data_offsets", place,
                      quote_name(name), json_preview(element));
  }
  Entry entry;
  entry.tensor.name = name;
  TensorView& view = entry.tensor.view;
  int dtypes = 0, shapes = 0, offsets = 0;
  for (const auto& [key, value] : object) {
    if (key == "dtype") {
      ++dtypes;
      TRY(read_dtype(value, place, name, &view.dtype));
    } else if (key == "shape" && ++shapes == 1) {
      TRY(read_shape(value, place, name, &view.shape));
    } else if (key == "data_offsets") {
      ++offsets;
      TRY(read_offsets(value, place, name, &entry));
    }
  }
  if (dtypes != 1 || shapes != 1 || offsets != 1) {
    return make_error(Code::kCorrupt, "{}: {} has {} x dtype, {} x shape, {} x data_offsets, expected each once", place,
                      quote_name(name), dtypes, shapes, offsets);
  }
  return entry;
}

// Places one tensor in the data.
Status place_entry(std::string_view data, std::string_view place, Entry* entry) {
  TensorView& view = entry->tensor.view;
  const auto name = [&] { return quote_name(entry->tensor.name); };
  if (entry->begin > entry->end || entry->end > data.size()) {
    return make_error(Code::kCorrupt,
                      "{}: {}: data_offsets are [{}, {}], expected begin <= end <= {}, the size of the "
                      "data. Hint: an interrupted download?",
                      place, name(), entry->begin, entry->end, data.size());
  }
  const std::optional<int64_t> bytes = tensor_bytes(view.dtype, view.shape);
  if (!bytes) {
    return make_error(Code::kCorrupt, "{}: {}: shape {} of {} overflows, expected less than 2^63 bytes", place, name(),
                      shape_text(view.shape), dtype_name(view.dtype));
  }
  if (static_cast<uint64_t>(*bytes) != entry->end - entry->begin) {
    return make_error(Code::kCorrupt, "{}: {}: data_offsets [{}, {}] hold {} bytes, shape {} of {} needs {}", place,
                      name(), entry->begin, entry->end, entry->end - entry->begin, shape_text(view.shape),
                      dtype_name(view.dtype), *bytes);
  }
  view.data = reinterpret_cast<const std::byte*>(data.data()) + entry->begin;
  view.size_bytes = *bytes;
  return {};
}

// Tensors must cover the data without overlap or hole: sorted by offset, each begins where the one before ended.
Status check_cover(const std::vector<Entry>& entries, uint64_t data_bytes, std::string_view place) {
  uint64_t covered = 0;
  for (size_t i = 0; i < entries.size(); ++i) {
    const Entry& entry = entries[i];
    if (entry.begin != covered) {
      return make_error(Code::kCorrupt, "{}: {} begins at byte {} of the data, expected {}, where {} ends ({})", place,
                        quote_name(entry.tensor.name), entry.begin, covered,
                        i == 0 ? "the header" : quote_name(entries[i - 1].tensor.name),
                        entry.begin < covered ? "they overlap" : "a hole lies between");
    }
    covered = entry.end;
  }
  if (covered != data_bytes) {
    return make_error(Code::kCorrupt, "{}: the data is {} bytes, but its tensors end at byte {} (the last is {})",
                      place, data_bytes, covered, entries.empty() ? "none" : quote_name(entries.back().tensor.name));
  }
  return {};
}

Result<Contents> parse(std::string_view file, std::string_view place) {
  TRY_ASSIGN(const std::string_view header, header_text(file, place));
  TRY_ASSIGN(const JsonDocument document, JsonDocument::parse(header, fmt::format("{}: header", place)));
  JsonObject object;
  if (document.root().get(object) != simdjson::SUCCESS)
    return make_error(Code::kCorrupt, "{}: the header is not an object", place);

  Contents contents;
  std::vector<Entry> entries;
  const std::string_view data = file.substr(kLengthBytes + header.size());
  for (const auto& [name, element] : object) {
    if (name == "__metadata__") {
      TRY(read_metadata(element, place, &contents.metadata));
      continue;
    }
    TRY_ASSIGN(Entry entry, read_entry(name, element, place));
    TRY(place_entry(data, place, &entry));
    entries.push_back(std::move(entry));
  }
  std::stable_sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
  });
  TRY(check_cover(entries, data.size(), place));
  contents.tensors.reserve(entries.size());
  for (Entry& entry : entries) contents.tensors.push_back(std::move(entry.tensor));
  return contents;
}

// The index: which shard holds which tensor. Names point into the document.
struct Index {
  JsonDocument document;
  std::vector<std::string_view> shards;                          // sorted, each once
  std::unordered_map<std::string_view, std::string_view> where;  // tensor -> shard
};

Result<Index> read_index(const std::string& path) {
  constexpr uint64_t kIndexLimitBytes = uint64_t{1} << 28;
  TRY_ASSIGN(const std::string text, read_file(path, kIndexLimitBytes));
  Index index;
  TRY_ASSIGN(index.document, JsonDocument::parse(text, path));
  JsonObject map;
  if (index.document.root().at_key("weight_map").get(map) != simdjson::SUCCESS)
    return make_error(Code::kCorrupt, "{}: has no object 'weight_map', expected tensor names with their shards", path);
  index.where.reserve(map.size());
  for (const auto& [name, element] : map) {
    std::string_view shard;
    if (element.get(shard) != simdjson::SUCCESS) {
      return make_error(Code::kCorrupt, "{}: {} is {}, expected the name of a shard", path, quote_name(name),
                        json_preview(element));
    }
    if (shard.empty() || shard.find_first_of(std::string_view("/\\\0", 3)) != std::string_view::npos || shard == "." ||
        shard == "..") {
      return make_error(Code::kCorrupt,
                        "{}: {} is said to be in {}, expected a plain file name. Hint: a shard lies in "
                        "the folder of its index, nowhere else",
                        path, quote_name(name), quote_name(shard));
    }
    if (!index.where.emplace(name, shard).second)
      return make_error(Code::kCorrupt, "{}: {} occurs twice, expected each name once", path, quote_name(name));
    index.shards.emplace_back(shard);
  }
  std::sort(index.shards.begin(), index.shards.end());
  index.shards.erase(std::unique(index.shards.begin(), index.shards.end()), index.shards.end());
  return index;
}

Error nothing_here(const std::string& folder) {
  const bool pickled = is_file(folder + "/pytorch_model.bin") || is_file(folder + "/pytorch_model.bin.index.json");
  return make_error(Code::kNotFound, "{}: has neither model.safetensors nor model.safetensors.index.json. Hint: {}",
                    folder,
                    pickled ? "pickled weights (.bin) are not read, convert them to safetensors first"
                            : "name the folder of a checkpoint");
}

}  // namespace

std::string_view safetensors_dtype(DType dtype) {
  for (const DTypeWord& known : kWords) {
    if (known.dtype == dtype) return known.word;
  }
  return {};
}

Result<Safetensors> Safetensors::from_bytes(std::span<const std::byte> bytes, std::string_view place) {
  TRY_ASSIGN(Contents contents, parse({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, place));
  Safetensors file;
  TRY_ASSIGN(file.table_, TensorTable::build(std::move(contents.tensors), place));
  file.metadata_ = std::move(contents.metadata);
  return file;
}

Result<Safetensors> Safetensors::open(const std::string& path) {
  TRY_ASSIGN(MappedFile mapped, MappedFile::open(path));
  TRY_ASSIGN(Safetensors file, from_bytes(mapped.bytes(), path));
  file.file_ = std::move(mapped);
  return file;
}

Result<SafetensorsSet> SafetensorsSet::open(const std::string& path) {
  const bool folder = is_directory(path);
  const std::string single = folder ? path + "/model.safetensors" : path;
  const std::string index_path = path + "/model.safetensors.index.json";
  SafetensorsSet set;
  if (!folder || is_file(single)) {
    TRY_ASSIGN(MappedFile mapped, MappedFile::open(single));
    TRY_ASSIGN(Contents contents, parse(mapped.text(), single));
    TRY_ASSIGN(set.table_, TensorTable::build(std::move(contents.tensors), single));
    set.metadata_ = std::move(contents.metadata);
    set.files_.push_back(std::move(mapped));
    return set;
  }
  if (!is_file(index_path)) return nothing_here(path);

  TRY_ASSIGN(Index index, read_index(index_path));
  std::vector<NamedTensor> tensors;
  tensors.reserve(index.where.size());
  for (std::string_view shard : index.shards) {
    const std::string shard_path = fmt::format("{}/{}", path, shard);
    if (!is_file(shard_path)) {
      return make_error(Code::kNotFound, "{}: names the shard {}, which is not in the folder. Hint: download it too",
                        index_path, quote_name(shard));
    }
    TRY_ASSIGN(MappedFile mapped, MappedFile::open(shard_path));
    TRY_ASSIGN(Contents contents, parse(mapped.text(), shard_path));
    // A shard's own duplicates must not hide behind the index.
    TRY_ASSIGN(const TensorTable own, TensorTable::build(std::move(contents.tensors), shard_path));
    for (const NamedTensor& tensor : own.all()) {
      const auto found = index.where.find(tensor.name);
      if (found == index.where.end() || found->second != shard) continue;
      tensors.push_back(tensor);
      index.where.erase(found);
    }
    if (set.files_.empty()) set.metadata_ = std::move(contents.metadata);
    set.files_.push_back(std::move(mapped));
  }
  if (!index.where.empty()) {
    const auto first = std::min_element(index.where.begin(), index.where.end());
    return make_error(Code::kCorrupt,
                      "{}: says that {} holds {}, but it does not ({} such tensors). Hint: files of two "
                      "checkpoints mixed?",
                      index_path, first->second, quote_name(first->first), index.where.size());
  }
  TRY_ASSIGN(set.table_, TensorTable::build(std::move(tensors), index_path));
  return set;
}

int64_t SafetensorsSet::file_bytes() const {
  int64_t bytes = 0;
  for (const MappedFile& file : files_) bytes += static_cast<int64_t>(file.bytes().size());
  return bytes;
}

std::vector<std::string> SafetensorsSet::files() const {
  std::vector<std::string> paths;
  for (const MappedFile& file : files_) paths.push_back(file.path());
  return paths;
}

void SafetensorsSet::will_need() const {
  for (const MappedFile& file : files_) file.will_need();
}

}  // namespace westlake
