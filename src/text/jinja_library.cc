// The binding of arguments to parameters, and text operations that filters and methods share.
#include "text/jinja_library.h"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace westlake {

Result<std::vector<const JinjaValue*>> jinja_bind(std::string_view function, const JinjaArguments& arguments,
                                                  std::initializer_list<std::string_view> names, size_t required) {
  if (arguments.positional.size() > names.size()) {
    return make_error(Code::kInvalidArgument, "{} takes at most {} arguments, not {}", function, names.size(),
                      arguments.positional.size());
  }
  std::vector<const JinjaValue*> out(names.size(), nullptr);
  for (size_t i = 0; i < arguments.positional.size(); ++i) out[i] = &arguments.positional[i];
  for (const auto& [name, value] : arguments.named) {
    const auto place = std::find(names.begin(), names.end(), name);
    if (place == names.end()) {
      return make_error(Code::kInvalidArgument, "{} has no argument '{}'", function, name);
    }
    const JinjaValue*& slot = out[static_cast<size_t>(place - names.begin())];
    if (slot != nullptr) return make_error(Code::kInvalidArgument, "{} got '{}' twice", function, name);
    slot = &value;
  }
  for (size_t i = 0; i < required; ++i) {
    if (out[i] == nullptr) {
      return make_error(Code::kInvalidArgument, "{} needs the argument '{}'", function, *(names.begin() + i));
    }
  }
  return out;
}

Result<int64_t> jinja_to_index(std::string_view function, const JinjaValue* value, int64_t otherwise) {
  if (value == nullptr) return otherwise;
  if (value->is(JinjaKind::kUndefined)) return Error{Code::kInvalidArgument, value->why_undefined()};
  if (!value->is_integral()) {
    return make_error(Code::kInvalidArgument, "{} needs an integer, not '{}'", function, jinja_type_name(*value));
  }
  return static_cast<int64_t>(std::clamp<JinjaInt>(value->as_int(), INT64_MIN, INT64_MAX));
}

Result<const JinjaString*> jinja_to_string(std::string_view function, const JinjaValue* value) {
  if (value->is(JinjaKind::kString)) return &value->as_string();
  if (value->is(JinjaKind::kUndefined)) return Error{Code::kInvalidArgument, value->why_undefined()};
  return make_error(Code::kInvalidArgument, "{} needs a string, not '{}'", function, jinja_type_name(*value));
}

JinjaString jinja_upper(const JinjaString& text) {
  return text.map_pieces([](std::string_view piece) {
    std::string out;
    for (size_t i = 0; i < piece.size();) append_upper(out, utf8_next(piece, &i));
    return out;
  });
}

JinjaString jinja_lower(const JinjaString& text) {
  return text.map_pieces([](std::string_view piece) {
    std::string out;
    for (size_t i = 0; i < piece.size();) append_lower(out, utf8_next(piece, &i));
    return out;
  });
}

JinjaString jinja_capitalize(const JinjaString& text) {
  bool first = true;
  return text.map_pieces([&](std::string_view piece) {
    std::string out;
    for (size_t i = 0; i < piece.size(); first = false) {
      const uint32_t code = utf8_next(piece, &i);
      if (first) {
        append_title(out, code);
      } else {
        append_lower(out, code);
      }
    }
    return out;
  });
}

Result<JinjaValue> jinja_replace(JinjaHeap& heap, const JinjaString& text, const JinjaString& from,
                                 const JinjaString& to, int64_t count) {
  TRY(heap.charge_bytes(text.size()));
  const std::string& source = text.text();
  JinjaString out;
  size_t begin = 0, at = 0;
  int64_t left = count < 0 ? INT64_MAX : count;
  for (; left > 0 && at <= source.size(); --left) {
    const size_t found = from.empty() ? at : source.find(from.text(), at);
    if (found == std::string::npos) break;
    TRY(heap.charge(1 + (found - begin) / 16 + to.footprint_bytes() / 16));
    TRY(heap.reserve(out.footprint_bytes() + to.footprint_bytes()));
    if (found > begin) out.append(text, begin, found);
    if (to.origin() == Origin::kContent || !to.empty()) out.append(to);
    begin = found + from.size();
    at = begin;
    if (from.empty()) {
      if (found == source.size()) break;
      utf8_next(source, &at);
    }
  }
  if (begin == 0 && out.empty() && out.pieces().empty()) return heap.string(text);
  if (begin < source.size()) out.append(text, begin, source.size());
  return heap.string(std::move(out));
}

Result<JinjaValue> jinja_strip(JinjaHeap& heap, const JinjaString& text, bool left, bool right,
                               const JinjaValue* characters) {
  const std::string* set = nullptr;
  if (characters != nullptr && !characters->is(JinjaKind::kNone)) {
    TRY_ASSIGN(const JinjaString* given, jinja_to_string("strip", characters));
    set = &given->text();
    TRY(heap.charge_bytes(set->size()));
  }
  const ByteRange range = strip_range(text.text(), left, right, set);
  const size_t stripped = text.size() - (range.end - range.begin);
  TRY(heap.charge(1 + stripped * (set == nullptr ? 1 : set->size()) / 16));
  return heap.string(text.slice(range.begin, range.end));
}

Result<JinjaValue> jinja_center(JinjaHeap& heap, const JinjaString& text, int64_t width, std::string_view fill) {
  const int64_t length = static_cast<int64_t>(utf8_length(text.text()));
  if (width <= length) return heap.string(text);
  const size_t padding = static_cast<size_t>(width - length);
  TRY(heap.reserve(padding < SIZE_MAX / 8 ? padding * 4 : padding));
  // Python puts the odd one on the left when the width is odd.
  const size_t left = padding / 2 + (padding & static_cast<size_t>(width) & 1);
  JinjaString out;
  for (size_t i = 0; i < left; ++i) out.append(fill, Origin::kTemplate);
  out.append(text);
  for (size_t i = left; i < padding; ++i) out.append(fill, Origin::kTemplate);
  return heap.string(std::move(out));
}

Result<JinjaValue> jinja_escape_html(JinjaHeap& heap, const JinjaValue& value) {
  if (value.is_markup()) return value;
  TRY_ASSIGN(const JinjaString text, jinja_text(heap, value));
  TRY(heap.reserve(text.size() * 5));
  TRY_ASSIGN(JinjaValue out, heap.string(text.map_pieces([](std::string_view piece) {
    std::string escaped;
    for (const char c : piece) {
      switch (c) {
        case '&':
          escaped += "&amp;";
          break;
        case '<':
          escaped += "&lt;";
          break;
        case '>':
          escaped += "&gt;";
          break;
        case '\'':
          escaped += "&#39;";
          break;
        case '"':
          escaped += "&#34;";
          break;
        default:
          escaped += c;
      }
    }
    return escaped;
  })));
  return out.mark_markup();
}

namespace {

struct FormatField {
  bool left = false, zero = false, plus = false, space = false, alternate = false;
  size_t width = 0;
  int precision = -1;
  char type = 's';
};

// The number formats of printf that Python shares with C.
Result<std::string> format_number(const FormatField& field, const JinjaValue& value) {
  if (!value.is_number()) {
    return make_error(Code::kInvalidArgument, "%{} needs a number, not '{}'", field.type, jinja_type_name(value));
  }
  std::string digits;
  bool negative = false;
  if (field.type == 'd' || field.type == 'i' || field.type == 'x') {
    JinjaInt number = 0;
    if (value.is_integral()) {
      number = value.as_int();
    } else if (field.type != 'x' && std::fabs(value.as_double()) < 9e18) {
      number = static_cast<JinjaInt>(value.as_double());
    } else {
      return make_error(Code::kInvalidArgument, "%{} needs an integer", field.type);
    }
    negative = number < 0;
    const JinjaInt magnitude = negative ? -number : number;
    digits = field.type == 'x' ? fmt::format("{:x}", static_cast<uint64_t>(magnitude)) : jinja_int_text(magnitude);
  } else {
    negative = std::signbit(value.as_double());
    const double magnitude = std::fabs(value.as_double());
    const int precision = field.precision < 0 ? 6 : field.precision;
    digits = field.type == 'e'   ? fmt::format("{:.{}e}", magnitude, precision)
             : field.type == 'g' ? fmt::format("{:.{}g}", magnitude, precision)
                                 : fmt::format("{:.{}f}", magnitude, precision);
  }
  const std::string sign = negative ? "-" : field.plus ? "+" : field.space ? " " : "";
  const size_t used = sign.size() + digits.size();
  const size_t zeros = field.zero && !field.left && used < field.width ? field.width - used : 0;
  return sign + std::string(zeros, '0') + digits;
}

// Reads what stands between '%' and the letter.
Result<FormatField> parse_field(const std::string& format, size_t* at) {
  static constexpr size_t kWidest = 10000;
  FormatField field;
  const auto here = [&] { return *at < format.size() ? format[*at] : '\0'; };
  for (;; ++*at) {
    if (here() == '-')
      field.left = true;
    else if (here() == '0')
      field.zero = true;
    else if (here() == '+')
      field.plus = true;
    else if (here() == ' ')
      field.space = true;
    else
      break;
  }
  const auto read_number = [&] {
    size_t number = 0;
    for (; here() >= '0' && here() <= '9'; ++*at) number = std::min(number * 10 + (here() - '0'), kWidest + 1);
    return number;
  };
  field.width = read_number();
  if (here() == '.') {
    ++*at;
    field.precision = static_cast<int>(read_number());
  }
  field.type = here();
  if (field.type == '\0') return make_error(Code::kInvalidArgument, "the format ends in the middle of a '%'");
  ++*at;
  if (std::string_view("srdixfFeg").find(field.type) == std::string_view::npos) {
    return make_error(Code::kUnsupported, "the format '%{}' is not supported", field.type);
  }
  if (field.width > kWidest || field.precision > 300) {
    return make_error(Code::kExhausted, "a format is wider than {} or more precise than 300 digits", kWidest);
  }
  return field;
}

Status append_field(JinjaHeap& heap, JinjaString& out, const FormatField& field, const JinjaValue& value) {
  JinjaString text;
  if (field.type == 's' || field.type == 'r') {
    TRY_ASSIGN(text, jinja_text(heap, value, field.type == 'r'));
    if (field.precision >= 0) {
      text = text.slice(0, utf8_offset(text.text(), static_cast<size_t>(field.precision)));
    }
  } else {
    if (value.is(JinjaKind::kUndefined)) return Error{Code::kInvalidArgument, value.why_undefined()};
    TRY_ASSIGN(std::string digits, format_number(field, value));
    text = JinjaString(std::move(digits), value.origin());
  }
  const size_t length = utf8_length(text.text());
  const std::string padding(length < field.width ? field.width - length : 0, ' ');
  TRY(heap.charge_bytes(text.size() + padding.size()));
  TRY(heap.reserve(out.footprint_bytes() + text.footprint_bytes()));
  if (!field.left) out.append(padding, Origin::kTemplate);
  out.append(text);
  if (field.left) out.append(padding, Origin::kTemplate);
  return {};
}

}  // namespace

Result<JinjaValue> jinja_percent_format(JinjaHeap& heap, const JinjaString& format, const JinjaValue& values) {
  const bool tuple = values.is_list(JinjaFlavour::kTuple);
  const std::string& source = format.text();
  JinjaString out;
  size_t used = 0, at = 0;
  while (at < source.size()) {
    const size_t percent = std::min(source.find('%', at), source.size());
    if (percent > at) out.append(format, at, percent);
    if (percent == source.size()) break;
    at = percent + 1;
    if (at < source.size() && source[at] == '%') {
      out.append("%", format.origin_at(at++));
      continue;
    }
    if (at < source.size() && source[at] == '(') {
      return make_error(Code::kUnsupported, "the format '%(name)' is not supported");
    }
    TRY_ASSIGN(const FormatField field, parse_field(source, &at));
    if (used >= (tuple ? values.as_list().items.size() : 1)) {
      return make_error(Code::kInvalidArgument, "the format has more fields than values");
    }
    TRY(append_field(heap, out, field, tuple ? values.as_list().items[used] : values));
    ++used;
  }
  const bool left_over = tuple ? used < values.as_list().items.size() : used == 0 && !values.is(JinjaKind::kDict);
  if (left_over) return make_error(Code::kInvalidArgument, "the format has fewer fields than values");
  return heap.string(std::move(out));
}

}  // namespace westlake
