#include "formats/npy.h"

#include <cstring>
#include <limits>
#include <utility>

#include "base/check.h"
#include "formats/tensor_table.h"
#include "tensor/scalar.h"

namespace westlake {
namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr size_t kHeadAlignment = 64;

struct Descr {
  std::string_view word;
  DType dtype;
};
constexpr Descr kDescrs[] = {
    {"<f4", DType::kF32}, {"<f2", DType::kF16}, {"<i4", DType::kI32}, {"<i8", DType::kI64},
    {"|u1", DType::kU8},  {"|i1", DType::kI8},  {"|b1", DType::kU8},
};

// The header's dict, read by hand: three known keys, strings, a bool and a tuple of integers. Whatever else a dict may
// be is refused.
class HeaderParser {
 public:
  HeaderParser(std::string_view text, std::string_view place) : text_(text), place_(place) {}

  Status parse(TensorView* view) {
    int descrs = 0, orders = 0, shapes = 0;
    if (!accept('{')) return error("'{'");
    while (!accept('}')) {
      std::string_view key;
      if (!take_string(&key)) return error("a key in quotes");
      if (!accept(':')) return error("':'");
      if (key == "descr" && ++descrs == 1) {
        TRY(parse_descr(&view->dtype));
      } else if (key == "fortran_order" && ++orders == 1) {
        TRY(parse_order());
      } else if (key == "shape" && ++shapes == 1) {
        TRY(parse_shape(&view->shape));
      } else {
        return make_error(Code::kCorrupt, "{}: header key {}, expected descr, fortran_order and shape, each once",
                          place_, quote_name(key));
      }
      if (!accept(',') && !peek('}')) return error("',' or '}'");
    }
    skip_space();
    if (position_ != text_.size()) return error("nothing more");
    if (descrs == 1 && orders == 1 && shapes == 1) return {};
    return make_error(Code::kCorrupt, "{}: the header {} lacks one of descr, fortran_order and shape", place_,
                      quote_name(text_));
  }

 private:
  Error error(std::string_view expected) const {
    return make_error(Code::kCorrupt, "{}: header {}: expected {} at byte {}", place_, quote_name(text_), expected,
                      position_);
  }

  Status parse_descr(DType* dtype) {
    std::string_view word;
    if (!take_string(&word)) return error("a type like '<f4'");
    for (const Descr& known : kDescrs) {
      if (known.word == word) {
        *dtype = known.dtype;
        return {};
      }
    }
    return make_error(Code::kUnsupported,
                      "{}: descr is {}, supported are <f4 <f2 <i4 <i8 |u1 |i1 |b1. Hint: "
                      "array.astype(...) before np.save",
                      place_, quote_name(word));
  }

  Status parse_order() {
    if (accept_word("False")) return {};
    if (!accept_word("True")) return error("True or False");
    return make_error(Code::kUnsupported,
                      "{}: fortran_order is True, expected False. Hint: np.ascontiguousarray(...) "
                      "before np.save",
                      place_);
  }

  Status parse_shape(std::vector<int64_t>* shape) {
    constexpr size_t kDimensionsLimit = 64;  // numpy's
    if (!accept('(')) return error("'('");
    while (!accept(')')) {
      int64_t extent = 0;
      const size_t start = position_;
      skip_space();
      const size_t digits = position_;
      for (; position_ < text_.size() && text_[position_] >= '0' && text_[position_] <= '9'; ++position_) {
        if (__builtin_mul_overflow(extent, int64_t{10}, &extent) ||
            __builtin_add_overflow(extent, int64_t{text_[position_] - '0'}, &extent))
          return error("an extent below 2^63");
      }
      if (position_ == digits || shape->size() == kDimensionsLimit) {
        position_ = start;
        return error("at most 64 whole numbers");
      }
      shape->push_back(extent);
      if (!accept(',') && !peek(')')) return error("',' or ')'");
    }
    return {};
  }

  void skip_space() {
    while (position_ < text_.size() && (text_[position_] == ' ' || text_[position_] == '\n')) ++position_;
  }
  bool peek(char c) {
    skip_space();
    return position_ < text_.size() && text_[position_] == c;
  }
  bool accept(char c) {
    if (!peek(c)) return false;
    ++position_;
    return true;
  }
  bool accept_word(std::string_view word) {
    skip_space();
    if (!text_.substr(position_).starts_with(word)) return false;
    position_ += word.size();
    return true;
  }
  bool take_string(std::string_view* out) {
    skip_space();
    if (position_ >= text_.size() || (text_[position_] != '\'' && text_[position_] != '"')) return false;
    const size_t end = text_.find(text_[position_], position_ + 1);
    if (end == std::string_view::npos) return false;
    *out = text_.substr(position_ + 1, end - position_ - 1);
    position_ = end + 1;
    return true;
  }

  std::string_view text_, place_;
  size_t position_ = 0;
};

// Splits the file into header and data.
Status split(std::string_view file, std::string_view place, std::string_view* header, std::string_view* data) {
  const size_t version_end = kMagic.size() + 2;
  if (!file.starts_with(kMagic) || file.size() < version_end)
    return make_error(Code::kCorrupt, "{}: does not begin with '\\x93NUMPY'. Hint: not an .npy file?", place);
  const int major = static_cast<unsigned char>(file[kMagic.size()]);
  if (major < 1 || major > 3)
    return make_error(Code::kUnsupported, "{}: is .npy version {}, supported are 1 to 3", place, major);
  const size_t length_bytes = major == 1 ? 2 : 4;
  uint32_t length = 0;
  if (file.size() < version_end + length_bytes)
    return make_error(Code::kCorrupt, "{}: ends after {} bytes, inside the header", place, file.size());
  std::memcpy(&length, file.data() + version_end, length_bytes);
  const std::string_view rest = file.substr(version_end + length_bytes);
  if (length > rest.size()) {
    return make_error(Code::kCorrupt, "{}: header length is {}, but only {} bytes follow. Hint: an interrupted copy?",
                      place, length, rest.size());
  }
  *header = rest.substr(0, length);
  *data = rest.substr(length);
  return {};
}

std::string shape_tuple(const std::vector<int64_t>& shape) {
  std::string out = "(";
  for (size_t i = 0; i < shape.size(); ++i) out += fmt::format("{}{}", i == 0 ? "" : ", ", shape[i]);
  return out + (shape.size() == 1 ? ",)" : ")");
}

template <typename T>
T load(const TensorView& view, int64_t i) {
  T value;
  std::memcpy(&value, view.data + i * static_cast<int64_t>(sizeof(T)), sizeof value);
  return value;
}

}  // namespace

Result<Npy> Npy::from_bytes(std::span<const std::byte> bytes, std::string_view place) {
  std::string_view header, data;
  TRY(split({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, place, &header, &data));
  Npy array;
  array.place_ = place;
  TRY(HeaderParser(header, place).parse(&array.view_));
  const std::optional<int64_t> needed = tensor_bytes(array.view_.dtype, array.view_.shape);
  if (!needed || static_cast<uint64_t>(*needed) != data.size()) {
    return make_error(Code::kCorrupt, "{}: holds {} bytes of data, shape {} of {} needs {}. Hint: an interrupted copy?",
                      place, data.size(), shape_text(array.view_.shape), dtype_name(array.view_.dtype),
                      needed ? fmt::format("{}", *needed) : "2^63 or more");
  }
  array.view_.data = reinterpret_cast<const std::byte*>(data.data());
  array.view_.size_bytes = *needed;
  return array;
}

Result<Npy> Npy::open(const std::string& path) {
  TRY_ASSIGN(MappedFile mapped, MappedFile::open(path));
  TRY_ASSIGN(Npy array, from_bytes(mapped.bytes(), path));
  array.file_ = std::move(mapped);
  return array;
}

Result<std::vector<int32_t>> Npy::int32s() const {
  if (view_.dtype == DType::kF32 || view_.dtype == DType::kF16)
    return make_error(Code::kInvalidArgument, "{}: holds {}, expected integers", place_, dtype_name(view_.dtype));
  const int64_t n = view_.elements();
  std::vector<int32_t> out(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    int64_t value = 0;
    switch (view_.dtype) {
      case DType::kI32:
        value = load<int32_t>(view_, i);
        break;
      case DType::kI64:
        value = load<int64_t>(view_, i);
        break;
      case DType::kU8:
        value = load<uint8_t>(view_, i);
        break;
      case DType::kI8:
        value = load<int8_t>(view_, i);
        break;
      default:
        CHECK(false, "{}", dtype_name(view_.dtype));
    }
    if (value < std::numeric_limits<int32_t>::min() || value > std::numeric_limits<int32_t>::max())
      return make_error(Code::kInvalidArgument, "{}: element {} is {}, expected an int32", place_, i, value);
    out[static_cast<size_t>(i)] = static_cast<int32_t>(value);
  }
  return out;
}

Result<std::vector<float>> Npy::floats() const {
  const int64_t n = view_.elements();
  if (view_.dtype != DType::kF32 && view_.dtype != DType::kF16)
    return make_error(Code::kInvalidArgument, "{}: holds {}, expected f32 or f16", place_, dtype_name(view_.dtype));
  std::vector<float> out(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    out[static_cast<size_t>(i)] =
        view_.dtype == DType::kF32 ? load<float>(view_, i) : f16_to_float(load<uint16_t>(view_, i));
  }
  return out;
}

Result<NpyWriter> NpyWriter::create(const std::string& path, DType dtype, const std::vector<int64_t>& shape) {
  CHECK(dtype == DType::kF32 || dtype == DType::kI32, "{}", dtype_name(dtype));
  const std::optional<int64_t> bytes = tensor_bytes(dtype, shape);
  CHECK(bytes.has_value(), "{}", shape_text(shape));
  std::string header = fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': {}, }}",
                                   dtype == DType::kF32 ? "<f4" : "<i4", shape_tuple(shape));
  const size_t head_bytes = kMagic.size() + 2 + 2;
  const size_t whole = (head_bytes + header.size() + 1 + kHeadAlignment - 1) / kHeadAlignment * kHeadAlignment;
  header.append(whole - head_bytes - header.size() - 1, ' ');
  header += '\n';
  CHECK(header.size() <= std::numeric_limits<uint16_t>::max(), "{}", shape_text(shape));
  TRY_ASSIGN(AtomicFile file, AtomicFile::create(path));
  const char length[2] = {static_cast<char>(header.size() & 0xff), static_cast<char>(header.size() >> 8)};
  TRY(file.write(kMagic));
  TRY(file.write(std::string_view("\x01\x00", 2)));
  TRY(file.write(std::string_view(length, 2)));
  TRY(file.write(header));
  return NpyWriter(std::move(file), dtype, *bytes / 4);
}

Status NpyWriter::append(std::span<const float> values) {
  CHECK(dtype_ == DType::kF32 && static_cast<int64_t>(values.size()) <= left_elements_, "{} of {} left", values.size(),
        left_elements_);
  left_elements_ -= static_cast<int64_t>(values.size());
  return file_.write(std::as_bytes(values));
}

Status NpyWriter::append(std::span<const int32_t> values) {
  CHECK(dtype_ == DType::kI32 && static_cast<int64_t>(values.size()) <= left_elements_, "{} of {} left", values.size(),
        left_elements_);
  left_elements_ -= static_cast<int64_t>(values.size());
  return file_.write(std::as_bytes(values));
}

Status NpyWriter::finish() {
  CHECK(left_elements_ == 0, "{} elements are missing", left_elements_);
  return file_.commit();
}

Status write_npy(const std::string& path, std::span<const float> values, const std::vector<int64_t>& shape) {
  TRY_ASSIGN(NpyWriter writer, NpyWriter::create(path, DType::kF32, shape));
  TRY(writer.append(values));
  return writer.finish();
}

Status write_npy(const std::string& path, std::span<const int32_t> values, const std::vector<int64_t>& shape) {
  TRY_ASSIGN(NpyWriter writer, NpyWriter::create(path, DType::kI32, shape));
  TRY(writer.append(values));
  return writer.finish();
}

}  // namespace westlake
