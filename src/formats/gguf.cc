#include "formats/gguf.h"

#include <cstring>
#include <utility>

#include "formats/gguf_parse.h"

namespace westlake {
namespace {

constexpr std::string_view kSplitNumber = "split.no", kSplitCount = "split.count",
                           kSplitTensors = "split.tensors.count";

std::optional<int> five_digits(std::string_view text) {
  int number = 0;
  for (char c : text) {
    if (c < '0' || c > '9') return std::nullopt;
    number = number * 10 + (c - '0');
  }
  return number;
}

// The decoded elements of an array of strings. The walk of parse_gguf has shown that they lie in the file.
std::vector<std::string_view> decode_strings(const GgufArray& array) {
  std::vector<std::string_view> texts;
  texts.reserve(array.count);
  const std::byte* at = array.bytes.data();
  for (uint64_t i = 0; i < array.count; ++i) {
    uint64_t length = 0;
    std::memcpy(&length, at, sizeof length);
    at += sizeof length;
    texts.emplace_back(reinterpret_cast<const char*>(at), length);
    at += length;
  }
  return texts;
}

}  // namespace

std::optional<GgufPartName> gguf_part_name(std::string_view path) {
  constexpr std::string_view kTail = "-00001-of-00003.gguf";  // the shape: digits may be others
  if (path.size() <= kTail.size() || !path.ends_with(".gguf")) return std::nullopt;
  const std::string_view tail = path.substr(path.size() - kTail.size());
  if (tail[0] != '-' || tail.substr(6, 4) != "-of-") return std::nullopt;
  const std::optional<int> number = five_digits(tail.substr(1, 5)), count = five_digits(tail.substr(10, 5));
  if (!number || !count || *number < 1 || *number > *count) return std::nullopt;
  return GgufPartName{std::string(path.substr(0, path.size() - kTail.size())), *number, *count};
}

Status Gguf::index_metadata() {
  metadata_index_.reserve(metadata_.size());
  for (size_t i = 0; i < metadata_.size(); ++i) {
    if (!metadata_index_.emplace(metadata_[i].key, i).second) {
      return make_error(Code::kCorrupt, "{}: metadata {} occurs twice, expected each key once", place_,
                        quote_name(metadata_[i].key));
    }
  }
  return {};
}

Result<Gguf> Gguf::from_bytes(std::span<const std::byte> bytes, std::string_view place) {
  TRY_ASSIGN(GgufContents contents, parse_gguf(bytes, place));
  Gguf file;
  file.place_ = place;
  file.version_ = contents.version;
  file.metadata_ = std::move(contents.metadata);
  TRY(file.index_metadata());
  TRY_ASSIGN(file.table_, TensorTable::build(std::move(contents.tensors), place));
  return file;
}

namespace {

// One part of a split model, held against what the first one said.
Result<Gguf> open_part(const GgufPartName& name, int number, std::string_view asked, std::vector<MappedFile>* files) {
  const std::string path = name.path_of(number);
  if (!is_file(path)) {
    return make_error(Code::kNotFound,
                      "{}: is part {} of {}, but part {} is missing: {}. Hint: all parts lie in one folder", asked,
                      name.number, name.count, number, path);
  }
  TRY_ASSIGN(MappedFile mapped, MappedFile::open(path));
  TRY_ASSIGN(Gguf part, Gguf::from_bytes(mapped.bytes(), path));
  TRY_ASSIGN(const uint64_t own_number, part.get_u64(kSplitNumber));
  TRY_ASSIGN(const uint64_t own_count, part.get_u64(kSplitCount));
  if (own_count != static_cast<uint64_t>(name.count) || own_number != static_cast<uint64_t>(number) - 1) {
    return make_error(Code::kCorrupt,
                      "{}: says split.no {} of split.count {}, its name says part {} of {} (split.no {}). "
                      "Hint: was the file renamed?",
                      path, own_number, own_count, number, name.count, number - 1);
  }
  files->push_back(std::move(mapped));
  return part;
}

}  // namespace

Result<Gguf> Gguf::open(const std::string& path) {
  TRY_ASSIGN(MappedFile mapped, MappedFile::open(path));
  TRY_ASSIGN(Gguf file, from_bytes(mapped.bytes(), path));
  int64_t split_count = 1;
  TRY(file.read(kSplitCount, &split_count));
  if (split_count == 0 || split_count == 1) {
    file.files_.push_back(std::move(mapped));
    return file;
  }
  const std::optional<GgufPartName> name = gguf_part_name(path);
  if (!name) {
    return make_error(Code::kInvalidArgument,
                      "{}: is one of {} parts, but is not named like NAME-00001-of-{:05}.gguf, so "
                      "the others cannot be found. Hint: give the parts their old names",
                      path, split_count, split_count);
  }
  std::vector<MappedFile> files;
  std::vector<NamedTensor> tensors;
  std::optional<Gguf> first;
  for (int number = 1; number <= name->count; ++number) {
    TRY_ASSIGN(Gguf part, open_part(*name, number, path, &files));
    for (const NamedTensor& tensor : part.tensors()) tensors.push_back(tensor);
    if (number == 1) first = std::move(part);
  }
  Gguf whole = std::move(*first);
  int64_t expected = static_cast<int64_t>(tensors.size());
  TRY(whole.read(kSplitTensors, &expected));
  if (expected != static_cast<int64_t>(tensors.size())) {
    return make_error(Code::kCorrupt, "{}: split.tensors.count is {}, but the {} parts hold {} tensors", whole.place_,
                      expected, name->count, tensors.size());
  }
  TRY_ASSIGN(whole.table_, TensorTable::build(std::move(tensors), whole.place_));
  whole.files_ = std::move(files);
  return whole;
}

int64_t Gguf::file_bytes() const {
  int64_t bytes = 0;
  for (const MappedFile& file : files_) bytes += static_cast<int64_t>(file.bytes().size());
  return bytes;
}

std::vector<std::string> Gguf::files() const {
  std::vector<std::string> paths;
  for (const MappedFile& file : files_) paths.push_back(file.path());
  return paths;
}

void Gguf::will_need() const {
  for (const MappedFile& file : files_) file.will_need();
}

const GgufValue* Gguf::find_metadata(std::string_view key) const {
  const auto found = metadata_index_.find(key);
  return found == metadata_index_.end() ? nullptr : &metadata_[found->second].value;
}

Error Gguf::missing(std::string_view key, std::string_view expected) const {
  return make_error(Code::kNotFound, "{}: metadata {} is absent, expected {}", place_, quote_name(key), expected);
}

Error Gguf::mistyped(std::string_view key, std::string_view expected) const {
  return make_error(Code::kCorrupt, "{}: metadata {} is {}, expected {}", place_, quote_name(key),
                    gguf_preview(*find_metadata(key)), expected);
}

// Each getter: absent, convertible, or of another type.
#define WL_GGUF_GET(convert, expected)                                \
  const GgufValue* value = find_metadata(key);                        \
  if (value == nullptr) return missing(key, expected);                \
  if (auto converted = convert(*value); converted) return *converted; \
  return mistyped(key, expected)

Result<uint64_t> Gguf::get_u64(std::string_view key) const {
  WL_GGUF_GET(gguf_as_u64, "an integer from 0");
}
Result<int64_t> Gguf::get_i64(std::string_view key) const {
  WL_GGUF_GET(gguf_as_i64, "an integer");
}
Result<double> Gguf::get_f64(std::string_view key) const {
  WL_GGUF_GET(gguf_as_f64, "a number");
}
Result<bool> Gguf::get_bool(std::string_view key) const {
  WL_GGUF_GET(gguf_as_bool, "bool 0 or 1");
}
Result<std::string_view> Gguf::get_string(std::string_view key) const {
  WL_GGUF_GET(gguf_as_string, "a string");
}
Result<GgufArray> Gguf::get_array(std::string_view key) const {
  WL_GGUF_GET(gguf_as_array, "an array");
}

#undef WL_GGUF_GET

Result<std::vector<std::string_view>> Gguf::get_strings(std::string_view key) const {
  TRY_ASSIGN(const GgufArray array, get_array(key));
  if (array.type != GgufType::kString) return mistyped(key, "an array of strings");
  return decode_strings(array);
}

Result<std::vector<int64_t>> Gguf::get_ints(std::string_view key) const {
  TRY_ASSIGN(const GgufArray array, get_array(key));
  const size_t bytes = gguf_scalar_bytes(array.type);
  const GgufType type = array.type == GgufType::kBool ? GgufType::kU8 : array.type;
  if (bytes == 0) return mistyped(key, "an array of integers");
  std::vector<int64_t> numbers;
  numbers.reserve(array.count);
  for (uint64_t i = 0; i < array.count; ++i) {
    const std::optional<int64_t> number = gguf_as_i64({type, array.bytes.subspan(i * bytes, bytes)});
    if (!number) return mistyped(key, "an array of integers below 2^63");
    numbers.push_back(*number);
  }
  return numbers;
}

Result<std::vector<float>> Gguf::get_floats(std::string_view key) const {
  TRY_ASSIGN(const GgufArray array, get_array(key));
  const size_t bytes = gguf_scalar_bytes(array.type);
  if (bytes == 0 || array.type == GgufType::kBool) return mistyped(key, "an array of numbers");
  std::vector<float> numbers;
  numbers.reserve(array.count);
  for (uint64_t i = 0; i < array.count; ++i) {
    const std::optional<double> number = gguf_as_f64({array.type, array.bytes.subspan(i * bytes, bytes)});
    numbers.push_back(static_cast<float>(*number));
  }
  return numbers;
}

namespace {

template <typename Got, typename Out>
Status assign(Result<Got> got, Out* out) {
  if (!got.ok()) return got.error().code == Code::kNotFound ? Status() : Status(got.error());
  *out = Out(*got);
  return {};
}

}  // namespace

Status Gguf::read(std::string_view key, int64_t* out) const {
  return assign(get_i64(key), out);
}
Status Gguf::read(std::string_view key, double* out) const {
  return assign(get_f64(key), out);
}
Status Gguf::read(std::string_view key, bool* out) const {
  return assign(get_bool(key), out);
}
Status Gguf::read(std::string_view key, std::string* out) const {
  return assign(get_string(key), out);
}

}  // namespace westlake
