#include "formats/gguf_writer.h"

#include <algorithm>
#include <unordered_set>
#include <utility>

#include "base/check.h"

namespace westlake {
namespace {

constexpr uint64_t kAlignment = 32;
constexpr size_t kNameLimitBytes = 63;  // GGML_MAX_NAME is 64 with the closing zero
constexpr size_t kDimensionsLimit = 4;

uint64_t padded(uint64_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

template <typename T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void put_string(std::string& out, std::string_view text) {
  put(out, static_cast<uint64_t>(text.size()));
  out += text;
}

template <typename T>
std::string encode(T value) {
  std::string out;
  put(out, value);
  return out;
}

void put_array_head(std::string& out, GgufType type, size_t count) {
  put(out, static_cast<uint32_t>(type));
  put(out, static_cast<uint64_t>(count));
}

template <typename T>
std::string encode_numbers(GgufType type, std::span<const T> values) {
  std::string out;
  put_array_head(out, type, values.size());
  out.append(reinterpret_cast<const char*>(values.data()), values.size_bytes());
  return out;
}

template <typename Text>
std::string encode_strings(std::span<const Text> values) {
  std::string out;
  put_array_head(out, GgufType::kString, values.size());
  for (const Text& value : values) put_string(out, value);
  return out;
}

int64_t bytes_of(const TensorSpec& spec) {
  const std::optional<int64_t> bytes = tensor_bytes(spec.dtype, spec.shape);
  CHECK(bytes.has_value(), "{} is {} of {}", spec.name, shape_text(spec.shape), dtype_name(spec.dtype));
  return *bytes;
}

Status check_specs(std::string_view path, const std::vector<TensorSpec>& tensors) {
  std::unordered_set<std::string_view> names;
  for (const TensorSpec& spec : tensors) {
    const std::string name = quote_name(spec.name);
    if (!names.insert(spec.name).second)
      return make_error(Code::kInvalidArgument, "{}: tensor {} is to be written twice", path, name);
    if (spec.name.size() > kNameLimitBytes) {
      return make_error(Code::kInvalidArgument, "{}: the name {} has {} bytes, ggml allows {}", path, name,
                        spec.name.size(), kNameLimitBytes);
    }
    if (spec.shape.size() > kDimensionsLimit) {
      return make_error(Code::kInvalidArgument, "{}: {} is {}, ggml allows {} dimensions", path, name,
                        shape_text(spec.shape), kDimensionsLimit);
    }
    if (!ggml_type_of(spec.dtype)) {
      return make_error(Code::kUnsupported, "{}: {} is {}, which GGUF does not know. Hint: convert it to bf16", path,
                        name, dtype_name(spec.dtype));
    }
  }
  return {};
}

bool belongs_to_layout(std::string_view key) {
  return key == "general.alignment" || key.starts_with("split.");
}

std::string header_of(const GgufMetadata& metadata, const std::vector<TensorSpec>& tensors) {
  std::string out = "GGUF";
  put(out, uint32_t{3});
  put(out, static_cast<uint64_t>(tensors.size()));
  const auto kept = std::count_if(metadata.entries().begin(), metadata.entries().end(),
                                  [](const GgufMetadata::Entry& entry) { return !belongs_to_layout(entry.key); });
  put(out, static_cast<uint64_t>(kept));
  for (const GgufMetadata::Entry& entry : metadata.entries()) {
    if (belongs_to_layout(entry.key)) continue;
    put_string(out, entry.key);
    put(out, static_cast<uint32_t>(entry.type));
    out += entry.encoded;
  }
  uint64_t offset = 0;
  for (const TensorSpec& spec : tensors) {
    put_string(out, spec.name);
    put(out, static_cast<uint32_t>(spec.shape.size()));
    for (size_t i = spec.shape.size(); i-- > 0;) put(out, spec.shape[i]);  // innermost first
    put(out, *ggml_type_of(spec.dtype));
    put(out, offset);
    offset = padded(offset + static_cast<uint64_t>(bytes_of(spec)));
  }
  out.append(padded(out.size()) - out.size(), '\0');
  return out;
}

}  // namespace

void GgufMetadata::set(std::string_view key, GgufType type, std::string encoded) {
  CHECK(!key.empty());
  for (Entry& entry : entries_) {
    if (entry.key == key) {
      entry.type = type;
      entry.encoded = std::move(encoded);
      return;
    }
  }
  entries_.push_back({std::string(key), type, std::move(encoded)});
}

void GgufMetadata::erase(std::string_view key) {
  std::erase_if(entries_, [&](const Entry& entry) { return entry.key == key; });
}

void GgufMetadata::set_u32(std::string_view key, uint32_t value) {
  set(key, GgufType::kU32, encode(value));
}
void GgufMetadata::set_u64(std::string_view key, uint64_t value) {
  set(key, GgufType::kU64, encode(value));
}
void GgufMetadata::set_i32(std::string_view key, int32_t value) {
  set(key, GgufType::kI32, encode(value));
}
void GgufMetadata::set_f32(std::string_view key, float value) {
  set(key, GgufType::kF32, encode(value));
}
void GgufMetadata::set_bool(std::string_view key, bool value) {
  set(key, GgufType::kBool, encode(static_cast<uint8_t>(value)));
}
void GgufMetadata::set_string(std::string_view key, std::string_view value) {
  std::string encoded;
  put_string(encoded, value);
  set(key, GgufType::kString, std::move(encoded));
}
void GgufMetadata::set_strings(std::string_view key, std::span<const std::string> values) {
  set(key, GgufType::kArray, encode_strings(values));
}
void GgufMetadata::set_strings(std::string_view key, std::span<const std::string_view> values) {
  set(key, GgufType::kArray, encode_strings(values));
}
void GgufMetadata::set_i32s(std::string_view key, std::span<const int32_t> values) {
  set(key, GgufType::kArray, encode_numbers(GgufType::kI32, values));
}
void GgufMetadata::set_f32s(std::string_view key, std::span<const float> values) {
  set(key, GgufType::kArray, encode_numbers(GgufType::kF32, values));
}
void GgufMetadata::set_value(std::string_view key, const GgufValue& value) {
  set(key, value.type, std::string(reinterpret_cast<const char*>(value.bytes.data()), value.bytes.size()));
}

GgufWriter::GgufWriter(AtomicFile file, std::vector<TensorSpec> tensors, GgufProgress progress)
    : file_(std::move(file)), tensors_(std::move(tensors)), progress_(std::move(progress)) {
  for (const TensorSpec& spec : tensors_) total_bytes_ += static_cast<uint64_t>(bytes_of(spec));
  if (!tensors_.empty()) left_bytes_ = bytes_of(tensors_[0]);
}

Result<GgufWriter> GgufWriter::create(const std::string& path, const GgufMetadata& metadata,
                                      std::vector<TensorSpec> tensors, GgufProgress progress) {
  TRY(check_specs(path, tensors));
  TRY_ASSIGN(AtomicFile file, AtomicFile::create(path));
  TRY(file.write(header_of(metadata, tensors)));
  GgufWriter writer(std::move(file), std::move(tensors), std::move(progress));
  TRY(writer.end_tensors());
  return writer;
}

Status GgufWriter::end_tensors() {
  while (current_ < tensors_.size() && left_bytes_ == 0) {
    TRY(file_.pad_to(kAlignment));
    if (++current_ < tensors_.size()) left_bytes_ = bytes_of(tensors_[current_]);
  }
  return {};
}

Status GgufWriter::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    CHECK(current_ < tensors_.size(), "{} bytes more than the tensors need", bytes.size());
    const size_t take = std::min(bytes.size(), static_cast<size_t>(left_bytes_));
    TRY(file_.write(bytes.first(take)));
    left_bytes_ -= static_cast<int64_t>(take);
    done_bytes_ += take;
    bytes = bytes.subspan(take);
    TRY(end_tensors());
  }
  if (progress_) progress_(done_bytes_, total_bytes_);
  return {};
}

Status GgufWriter::finish() {
  CHECK(current_ == tensors_.size(), "{} of {} bytes written", done_bytes_, total_bytes_);
  return file_.commit();
}

}  // namespace westlake
