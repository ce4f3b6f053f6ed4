#include "formats/gguf_parse.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "base/check.h"

namespace westlake {
namespace {

constexpr uint64_t kDefaultAlignment = 32;
constexpr uint32_t kDimensionsLimit = 4;  // ggml's
constexpr int kDepthLimit = 4;            // arrays in arrays; published files have none

struct GgmlType {
  uint32_t number;
  std::string_view name;
  std::optional<DType> dtype;  // nothing: known to ggml, not to this program
};
constexpr GgmlType kGgmlTypes[] = {
    {0, "F32", DType::kF32},
    {1, "F16", DType::kF16},
    {2, "Q4_0", DType::kQ4_0},
    {3, "Q4_1", DType::kQ4_1},
    {6, "Q5_0", DType::kQ5_0},
    {7, "Q5_1", DType::kQ5_1},
    {8, "Q8_0", DType::kQ8_0},
    {9, "Q8_1", {}},
    {10, "Q2_K", DType::kQ2_K},
    {11, "Q3_K", DType::kQ3_K},
    {12, "Q4_K", DType::kQ4_K},
    {13, "Q5_K", DType::kQ5_K},
    {14, "Q6_K", DType::kQ6_K},
    {15, "Q8_K", {}},
    {16, "IQ2_XXS", {}},
    {17, "IQ2_XS", {}},
    {18, "IQ3_XXS", {}},
    {19, "IQ1_S", {}},
    {20, "IQ4_NL", DType::kIQ4_NL},
    {21, "IQ3_S", {}},
    {22, "IQ2_S", {}},
    {23, "IQ4_XS", DType::kIQ4_XS},
    {24, "I8", DType::kI8},
    {25, "I16", {}},
    {26, "I32", DType::kI32},
    {27, "I64", DType::kI64},
    {28, "F64", {}},
    {29, "IQ1_M", {}},
    {30, "BF16", DType::kBF16},
    {34, "TQ1_0", {}},
    {35, "TQ2_0", {}},
    {39, "MXFP4", {}},
    {40, "NVFP4", {}},
    {41, "Q1_0", {}},
};

// Takes numbers and texts from the front of a span; false, and nothing taken, when too little is left.
class Cursor {
 public:
  explicit Cursor(std::span<const std::byte> bytes) : bytes_(bytes) {}

  template <typename T>
  bool take(T* out) {
    if (left() < sizeof(T)) return false;
    std::memcpy(out, bytes_.data() + position_, sizeof(T));
    position_ += sizeof(T);
    return true;
  }
  bool skip(uint64_t n) {
    if (left() < n) return false;
    position_ += n;
    return true;
  }
  bool take_string(std::string_view* out) {
    const uint64_t start = position_;
    uint64_t length = 0;
    if (take(&length) && length <= left()) {
      *out = {reinterpret_cast<const char*>(bytes_.data()) + position_, static_cast<size_t>(length)};
      position_ += length;
      return true;
    }
    position_ = start;
    return false;
  }
  uint64_t left() const { return bytes_.size() - position_; }
  uint64_t position() const { return position_; }
  std::span<const std::byte> since(uint64_t start) const { return bytes_.subspan(start, position_ - start); }

 private:
  std::span<const std::byte> bytes_;
  uint64_t position_ = 0;
};

class Parser {
 public:
  Parser(std::span<const std::byte> bytes, std::string_view place) : bytes_(bytes), place_(place), cursor_(bytes) {}

  Result<GgufContents> parse() {
    TRY(read_head());
    for (uint64_t i = 0; i < n_metadata_; ++i) TRY(read_entry());
    for (uint64_t i = 0; i < n_tensors_; ++i) TRY(read_tensor());
    TRY(place_tensors());
    return std::move(out_);
  }

 private:
  Error ends_inside(const std::string& what) const {
    return make_error(Code::kCorrupt, "{}: ends after {} bytes, inside {} at byte {}. Hint: an interrupted download?",
                      place_, bytes_.size(), what, cursor_.position());
  }

  Status read_head() {
    uint32_t magic = 0;
    constexpr uint32_t kMagic = 0x46554747;  // "GGUF"
    if (!cursor_.take(&magic) || !cursor_.take(&out_.version) || magic != kMagic) {
      return make_error(Code::kCorrupt, "{}: does not begin with 'GGUF'. Hint: not a GGUF file, or a git-lfs pointer?",
                        place_);
    }
    if (out_.version != 0 && (out_.version & 0xffff) == 0) {
      return make_error(Code::kUnsupported,
                        "{}: is big-endian, expected little-endian GGUF. Hint: gguf_convert_endian.py "
                        "of llama.cpp",
                        place_);
    }
    if (out_.version != 2 && out_.version != 3)
      return make_error(Code::kUnsupported, "{}: is GGUF version {}, supported are 2 and 3", place_, out_.version);
    if (!cursor_.take(&n_tensors_) || !cursor_.take(&n_metadata_)) return ends_inside("the header");
    constexpr uint64_t kSmallestEntry = 8 + 4 + 1, kSmallestTensor = 8 + 4 + 4 + 8;
    if (n_metadata_ > cursor_.left() / kSmallestEntry) {
      return make_error(Code::kCorrupt,
                        "{}: claims {} metadata keys, but its {} bytes hold at most {}. Hint: an "
                        "interrupted download?",
                        place_, n_metadata_, bytes_.size(), cursor_.left() / kSmallestEntry);
    }
    if (n_tensors_ > cursor_.left() / kSmallestTensor) {
      return make_error(Code::kCorrupt,
                        "{}: claims {} tensors, but its {} bytes hold at most {}. Hint: an interrupted "
                        "download?",
                        place_, n_tensors_, bytes_.size(), cursor_.left() / kSmallestTensor);
    }
    return {};
  }

  Status read_entry() {
    GgufEntry entry;
    if (!cursor_.take_string(&entry.key))
      return ends_inside(fmt::format("metadata key {} of {}", out_.metadata.size() + 1, n_metadata_));
    if (entry.key.empty())
      return make_error(Code::kCorrupt, "{}: metadata key {} is empty", place_, out_.metadata.size() + 1);
    uint32_t type = 0;
    if (!cursor_.take(&type)) return ends_inside(fmt::format("the type of metadata {}", quote_name(entry.key)));
    const uint64_t start = cursor_.position();
    TRY(skip_value(entry.key, type, 0));
    entry.value = {static_cast<GgufType>(type), cursor_.since(start)};
    if (entry.key == "general.alignment") TRY(read_alignment(entry.value));
    out_.metadata.push_back(entry);
    return {};
  }

  Status read_alignment(const GgufValue& value) {
    const std::optional<uint64_t> alignment = gguf_as_u64(value);
    if (!alignment || *alignment == 0 || (*alignment & (*alignment - 1)) != 0 || *alignment > uint64_t{1} << 31) {
      return make_error(Code::kCorrupt, "{}: metadata 'general.alignment' is {}, expected a power of two below 2^32",
                        place_, gguf_preview(value));
    }
    alignment_ = *alignment;
    return {};
  }

  // Walks over a value; afterwards everything in it is known to lie in the file.
  Status skip_value(std::string_view key, uint32_t type, int depth) {
    const auto truncated = [&] { return ends_inside(fmt::format("metadata {}", quote_name(key))); };
    if (type >= static_cast<uint32_t>(GgufType::kCount)) {
      return make_error(Code::kCorrupt, "{}: metadata {} has type {}, expected 0 to 12", place_, quote_name(key), type);
    }
    if (const size_t bytes = gguf_scalar_bytes(static_cast<GgufType>(type)); bytes != 0) {
      if (!cursor_.skip(bytes)) return truncated();
      return {};
    }
    std::string_view text;
    if (type == static_cast<uint32_t>(GgufType::kString)) {
      if (!cursor_.take_string(&text)) return truncated();
      return {};
    }
    if (depth >= kDepthLimit) {
      return make_error(Code::kUnsupported, "{}: metadata {} nests arrays deeper than {}", place_, quote_name(key),
                        kDepthLimit);
    }
    uint32_t element = 0;
    uint64_t count = 0;
    if (!cursor_.take(&element) || !cursor_.take(&count)) return truncated();
    if (element < static_cast<uint32_t>(GgufType::kCount)) {
      const size_t bytes = gguf_scalar_bytes(static_cast<GgufType>(element));
      const bool texts = element == static_cast<uint32_t>(GgufType::kString);
      if (count > cursor_.left() / (bytes != 0 ? bytes : texts ? 8 : 12)) {
        return make_error(Code::kCorrupt, "{}: metadata {} claims an array of {} {}, but only {} bytes follow", place_,
                          quote_name(key), count, gguf_type_name(static_cast<GgufType>(element)), cursor_.left());
      }
      if (bytes != 0) {
        cursor_.skip(count * bytes);
        return {};
      }
    }
    if (count == 0) return skip_no_elements(key, element);
    for (uint64_t i = 0; i < count; ++i) TRY(skip_value(key, element, depth + 1));
    return {};
  }

  Status skip_no_elements(std::string_view key, uint32_t element) const {
    if (element < static_cast<uint32_t>(GgufType::kCount)) return {};
    return make_error(Code::kCorrupt, "{}: metadata {} is an array of type {}, expected 0 to 12", place_,
                      quote_name(key), element);
  }

  Status read_tensor() {
    std::string_view name;
    if (!cursor_.take_string(&name))
      return ends_inside(fmt::format("the name of tensor {} of {}", out_.tensors.size() + 1, n_tensors_));
    const auto truncated = [&] { return ends_inside(fmt::format("the description of tensor {}", quote_name(name))); };
    NamedTensor tensor;
    tensor.name = name;
    uint32_t dimensions = 0, type = 0;
    uint64_t offset = 0;
    if (!cursor_.take(&dimensions)) return truncated();
    if (dimensions > kDimensionsLimit) {
      return make_error(Code::kCorrupt, "{}: {} has {} dimensions, expected at most {}", place_, quote_name(name),
                        dimensions, kDimensionsLimit);
    }
    std::vector<int64_t>& shape = tensor.view.shape;
    shape.resize(dimensions);
    for (uint32_t i = 0; i < dimensions; ++i) {
      if (!cursor_.take(&shape[dimensions - 1 - i])) return truncated();  // the file has the innermost first
    }
    if (!cursor_.take(&type) || !cursor_.take(&offset)) return truncated();
    TRY(read_type(name, type, &tensor.view.dtype));
    const std::optional<int64_t> bytes = tensor_bytes(tensor.view.dtype, shape);
    if (!bytes) return bad_shape(tensor);
    tensor.view.size_bytes = *bytes;
    offsets_.push_back(offset);
    out_.tensors.push_back(std::move(tensor));
    return {};
  }

  Error bad_shape(const NamedTensor& tensor) const {
    const int block = dtype_info(tensor.view.dtype).block_elements;
    return make_error(Code::kCorrupt, "{}: {} is {} of {}, expected {}extents from 0 and less than 2^63 bytes", place_,
                      quote_name(tensor.name), shape_text(tensor.view.shape), dtype_name(tensor.view.dtype),
                      block > 1 ? fmt::format("rows of a multiple of {}, ", block) : "");
  }

  Status read_type(std::string_view name, uint32_t number, DType* dtype) const {
    std::string supported;
    for (const GgmlType& known : kGgmlTypes) {
      if (known.number == number && known.dtype) {
        *dtype = *known.dtype;
        return {};
      }
      if (known.dtype) supported += fmt::format("{}{}", supported.empty() ? "" : " ", known.name);
    }
    const auto* known = std::find_if(std::begin(kGgmlTypes), std::end(kGgmlTypes),
                                     [&](const GgmlType& type) { return type.number == number; });
    const bool named = known != std::end(kGgmlTypes);
    return make_error(named ? Code::kUnsupported : Code::kCorrupt, "{}: {} has ggml type {}{}, supported are {}",
                      place_, quote_name(name), number, named ? fmt::format(" ({})", known->name) : "", supported);
  }

  // Turns offsets into addresses: aligned, in the file, no two over one another.
  Status place_tensors() {
    if (out_.tensors.empty()) return {};
    const uint64_t start = (cursor_.position() + alignment_ - 1) / alignment_ * alignment_;
    const uint64_t data_bytes = start <= bytes_.size() ? bytes_.size() - start : 0;
    std::vector<size_t> order(out_.tensors.size());
    for (size_t i = 0; i < order.size(); ++i) {
      order[i] = i;
      TensorView& view = out_.tensors[i].view;
      const uint64_t offset = offsets_[i], size = static_cast<uint64_t>(view.size_bytes);
      if (offset % alignment_ != 0) {
        return make_error(Code::kCorrupt, "{}: {} has offset {}, expected a multiple of the alignment {}", place_,
                          quote_name(out_.tensors[i].name), offset, alignment_);
      }
      if (offset > data_bytes || size > data_bytes - offset) {
        return make_error(Code::kCorrupt,
                          "{}: {} is {} bytes at offset {}, but the file has {} bytes of data. Hint: an "
                          "interrupted download?",
                          place_, quote_name(out_.tensors[i].name), size, offset, data_bytes);
      }
      view.data = bytes_.data() + start + offset;
    }
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return offsets_[a] < offsets_[b]; });
    size_t before = order[0];  // of those so far the one that ends last
    for (size_t k = 1; k < order.size(); ++k) {
      const size_t i = order[k];
      const uint64_t end = offsets_[before] + static_cast<uint64_t>(out_.tensors[before].view.size_bytes);
      if (offsets_[i] < end && out_.tensors[i].view.size_bytes > 0) {
        return make_error(Code::kCorrupt, "{}: {} begins at offset {}, inside {}, which ends at {}", place_,
                          quote_name(out_.tensors[i].name), offsets_[i], quote_name(out_.tensors[before].name), end);
      }
      if (offsets_[i] + static_cast<uint64_t>(out_.tensors[i].view.size_bytes) > end) before = i;
    }
    return {};
  }

  std::span<const std::byte> bytes_;
  std::string_view place_;
  Cursor cursor_;
  uint64_t n_tensors_ = 0, n_metadata_ = 0;
  uint64_t alignment_ = kDefaultAlignment;
  std::vector<uint64_t> offsets_;  // of out_.tensors
  GgufContents out_;
};

template <typename T>
T load(std::span<const std::byte> bytes) {
  CHECK(bytes.size() >= sizeof(T), "{} bytes", bytes.size());
  T value;
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

}  // namespace

Result<GgufContents> parse_gguf(std::span<const std::byte> bytes, std::string_view place) {
  return Parser(bytes, place).parse();
}

size_t gguf_scalar_bytes(GgufType type) {
  constexpr size_t kBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return kBytes[static_cast<size_t>(type)];
}

std::string_view gguf_type_name(GgufType type) {
  constexpr std::string_view kNames[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                         "bool", "string", "array", "u64", "i64", "f64"};
  return type < GgufType::kCount ? kNames[static_cast<size_t>(type)] : "unknown";
}

std::optional<int64_t> gguf_as_i64(const GgufValue& value) {
  switch (value.type) {
    case GgufType::kU8:
      return load<uint8_t>(value.bytes);
    case GgufType::kI8:
      return load<int8_t>(value.bytes);
    case GgufType::kU16:
      return load<uint16_t>(value.bytes);
    case GgufType::kI16:
      return load<int16_t>(value.bytes);
    case GgufType::kU32:
      return load<uint32_t>(value.bytes);
    case GgufType::kI32:
      return load<int32_t>(value.bytes);
    case GgufType::kI64:
      return load<int64_t>(value.bytes);
    case GgufType::kU64: {
      const uint64_t number = load<uint64_t>(value.bytes);
      if (number > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
      return static_cast<int64_t>(number);
    }
    default:
      return std::nullopt;
  }
}

std::optional<uint64_t> gguf_as_u64(const GgufValue& value) {
  if (value.type == GgufType::kU64) return load<uint64_t>(value.bytes);
  const std::optional<int64_t> number = gguf_as_i64(value);
  if (!number || *number < 0) return std::nullopt;
  return static_cast<uint64_t>(*number);
}

std::optional<double> gguf_as_f64(const GgufValue& value) {
  if (value.type == GgufType::kF32) return load<float>(value.bytes);
  if (value.type == GgufType::kF64) return load<double>(value.bytes);
  if (value.type == GgufType::kU64) return static_cast<double>(load<uint64_t>(value.bytes));
  if (const std::optional<int64_t> number = gguf_as_i64(value)) return static_cast<double>(*number);
  return std::nullopt;
}

std::optional<bool> gguf_as_bool(const GgufValue& value) {
  if (value.type != GgufType::kBool || load<uint8_t>(value.bytes) > 1) return std::nullopt;
  return load<uint8_t>(value.bytes) == 1;
}

std::optional<std::string_view> gguf_as_string(const GgufValue& value) {
  if (value.type != GgufType::kString) return std::nullopt;
  Cursor cursor(value.bytes);
  std::string_view text;
  CHECK(cursor.take_string(&text));
  return text;
}

std::optional<GgufArray> gguf_as_array(const GgufValue& value) {
  if (value.type != GgufType::kArray) return std::nullopt;
  constexpr size_t kHeadBytes = 4 + 8;
  return GgufArray{static_cast<GgufType>(load<uint32_t>(value.bytes)), load<uint64_t>(value.bytes.subspan(4)),
                   value.bytes.subspan(kHeadBytes)};
}

std::string gguf_preview(const GgufValue& value) {
  const std::string_view type = gguf_type_name(value.type);
  if (const auto text = gguf_as_string(value)) return fmt::format("string {}", quote_name(*text));
  if (const auto array = gguf_as_array(value))
    return fmt::format("array of {} {}", array->count, gguf_type_name(array->type));
  if (value.type == GgufType::kBool) return fmt::format("bool {}", load<uint8_t>(value.bytes));
  if (value.type == GgufType::kF32) return fmt::format("f32 {}", load<float>(value.bytes));
  if (value.type == GgufType::kF64) return fmt::format("f64 {}", load<double>(value.bytes));
  if (value.type == GgufType::kU64) return fmt::format("u64 {}", load<uint64_t>(value.bytes));
  return fmt::format("{} {}", type, gguf_as_i64(value).value_or(0));
}

std::optional<uint32_t> ggml_type_of(DType dtype) {
  for (const GgmlType& known : kGgmlTypes) {
    if (known.dtype == dtype) return known.number;
  }
  return std::nullopt;
}

}  // namespace westlake
