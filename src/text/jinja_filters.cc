// Filters on single values and text, and the table of all filters. Those on lists are in jinja_list_filters.cc.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <map>

#include "text/jinja_list_filters.h"

namespace westlake {

namespace {

using Value = Result<JinjaValue>;
using Arguments = const JinjaArguments&;

// Most text filters take str(value).
Result<JinjaString> text_of(JinjaHeap& heap, const JinjaValue& value) {
  return jinja_text(heap, value);
}

Value upper(JinjaHeap& heap, const JinjaValue& value, Arguments) {
  TRY_ASSIGN(const JinjaString text, text_of(heap, value));
  return heap.string(jinja_upper(text));
}

Value lower(JinjaHeap& heap, const JinjaValue& value, Arguments) {
  TRY_ASSIGN(const JinjaString text, text_of(heap, value));
  return heap.string(jinja_lower(text));
}

Value capitalize(JinjaHeap& heap, const JinjaValue& value, Arguments) {
  TRY_ASSIGN(const JinjaString text, text_of(heap, value));
  return heap.string(jinja_capitalize(text));
}

// Jinja's title: words begin behind white space and any of -({[<.
Value title(JinjaHeap& heap, const JinjaValue& value, Arguments) {
  TRY_ASSIGN(const JinjaString text, text_of(heap, value));
  bool begins = true;
  return heap.string(text.map_pieces([&](std::string_view piece) {
    std::string out;
    for (size_t i = 0; i < piece.size();) {
      const uint32_t code = utf8_next(piece, &i);
      if (begins) {
        append_upper(out, code);
      } else {
        append_lower(out, code);
      }
      begins = is_python_space(code) || code == '-' || code == '(' || code == '{' || code == '[' || code == '<';
    }
    return out;
  }));
}

Value trim(JinjaHeap& heap, const JinjaValue& value, Arguments arguments) {
  TRY_ASSIGN(const auto given, jinja_bind("trim", arguments, {"chars"}, 0));
  TRY_ASSIGN(const JinjaString text, text_of(heap, value));
  return jinja_strip(heap, text, true, true, given[0]);
}

Value replace(JinjaHeap& heap, const JinjaValue& value, Arguments arguments) {
  TRY_ASSIGN(const auto given, jinja_bind("replace", arguments, {"old", "new", "count"}, 2));
  TRY_ASSIGN(const JinjaString text, text_of(heap, value));
  TRY_ASSIGN(const JinjaString from, text_of(heap, *given[0]));
  TRY_ASSIGN(const JinjaString to, text_of(heap, *given[1]));
  const bool all = given[2] == nullptr || given[2]->is(JinjaKind::kNone);
  TRY_ASSIGN(const int64_t count, jinja_to_index("replace", all ? nullptr : given[2], -1));
  return jinja_replace(heap, text, from, to, count);
}

Value center(JinjaHeap& heap, const JinjaValue& value, Arguments arguments) {
  TRY_ASSIGN(const auto given, jinja_bind("center", arguments, {"width"}, 0));
  TRY_ASSIGN(const int64_t width, jinja_to_index("center", given[0], 80));
  TRY_ASSIGN(const JinjaString text, text_of(heap, value));
  return jinja_center(heap, text, width, " ");
}

Value format(JinjaHeap& heap, const JinjaValue& value, Arguments arguments) {
  if (!arguments.named.empty()) return make_error(Code::kUnsupported, "format with named values is not supported");
  TRY_ASSIGN(const JinjaString text, text_of(heap, value));
  TRY_ASSIGN(const JinjaValue values, heap.list(arguments.positional, JinjaFlavour::kTuple));
  return jinja_percent_format(heap, text, values);
}

// Puts `width` in front of every line but the first and the empty ones. The indentation counts as part of the line that
// it indents, so that a message string that is indented stays one piece.
JinjaString indent_lines(const JinjaString& text, const std::string& by, bool first, bool blank) {
  if (text.empty()) return first ? JinjaString(by, text.origin()) : text;
  bool begins = false, opens = first;  // a line begins here; the first one is indented even when it is empty
  size_t done = 0;
  return text.map_pieces([&](std::string_view piece) {
    std::string out;
    for (size_t i = 0; i < piece.size();) {
      const size_t at = i;
      const uint32_t code = utf8_next(piece, &i);
      const bool breaks = is_python_line_break(code);
      if (opens || (begins && (blank || !breaks))) out += by;
      opens = false;
      begins = breaks;
      if (code == '\r' && i < piece.size() && piece[i] == '\n') ++i;
      out += breaks ? "\n" : piece.substr(at, i - at);
    }
    done += piece.size();
    if (done == text.size() && begins && blank && !piece.empty()) out += by;
    return out;
  });
}

Value indent(JinjaHeap& heap, const JinjaValue& value, Arguments arguments) {
  TRY_ASSIGN(const auto given, jinja_bind("indent", arguments, {"width", "first", "blank"}, 0));
  std::string by(4, ' ');
  if (given[0] != nullptr && given[0]->is(JinjaKind::kString)) {
    by = given[0]->text();
  } else {
    TRY_ASSIGN(const int64_t width, jinja_to_index("indent", given[0], 4));
    TRY(heap.reserve(static_cast<size_t>(std::max<int64_t>(width, 0))));
    by.assign(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
  }
  TRY_ASSIGN(const JinjaString* given_text, jinja_to_string("indent", &value));
  const JinjaString& text = *given_text;
  TRY(heap.charge_bytes(text.size()));
  size_t lines = 2;
  for (size_t i = 0; i < text.size();) lines += is_python_line_break(utf8_next(text.text(), &i)) ? 1 : 0;
  if (by.size() > SIZE_MAX / 2 / lines) return heap.reserve(SIZE_MAX / 2).error();
  TRY(heap.reserve(text.footprint_bytes() + lines * by.size()));
  const bool first = given[1] != nullptr && given[1]->truthy(), blank = given[2] != nullptr && given[2]->truthy();
  return heap.string(indent_lines(text, by, first, blank));
}

Value as_string(JinjaHeap& heap, const JinjaValue& value, Arguments) {
  if (value.is(JinjaKind::kString)) return value;
  TRY_ASSIGN(JinjaString text, text_of(heap, value));
  return heap.string(std::move(text));
}

Value safe(JinjaHeap& heap, const JinjaValue& value, Arguments arguments) {
  TRY_ASSIGN(JinjaValue text, as_string(heap, value, arguments));
  return text.mark_markup();
}

Value escape(JinjaHeap& heap, const JinjaValue& value, Arguments) {
  return jinja_escape_html(heap, value);
}

Value otherwise(JinjaHeap&, const JinjaValue& value, Arguments arguments) {
  TRY_ASSIGN(const auto given, jinja_bind("default", arguments, {"default_value", "boolean"}, 0));
  const bool empty_too = given[1] != nullptr && given[1]->truthy();
  if (!value.is(JinjaKind::kUndefined) && (value.truthy() || !empty_too)) return value;
  return given[0] == nullptr ? JinjaValue::constant(JinjaString()) : *given[0];
}

Value length(JinjaHeap& heap, const JinjaValue& value, Arguments) {
  if (value.is(JinjaKind::kString)) TRY(heap.charge_bytes(value.text().size()));
  TRY_ASSIGN(const size_t size, jinja_length(value));
  return JinjaValue::integer(static_cast<JinjaInt>(size));
}

Value wordcount(JinjaHeap& heap, const JinjaValue& value, Arguments) {
  TRY_ASSIGN(const JinjaString text, text_of(heap, value));
  TRY(heap.charge_bytes(text.size()));
  JinjaInt words = 0;
  bool inside = false;
  for (size_t i = 0; i < text.size();) {
    const uint32_t code = utf8_next(text.text(), &i);
    const bool word = code == '_' || is_python_alpha(code) || is_python_numeric(code);
    words += word && !inside ? 1 : 0;
    inside = word;
  }
  return JinjaValue::integer(words);
}

Value absolute(JinjaHeap& heap, const JinjaValue& value, Arguments) {
  if (!value.is_number()) {
    return make_error(Code::kInvalidArgument, "abs needs a number, not '{}'", jinja_type_name(value));
  }
  TRY_ASSIGN(const bool below, jinja_less(heap, value, JinjaValue::integer(0)));
  return jinja_negate(value, below ? "-" : "+");
}

// A number at the start of `text` with nothing but white space around it.
bool parse_int(std::string_view text, int base, int64_t* out) {
  const ByteRange range = strip_range(text, true, true, nullptr);
  std::string digits;
  for (const char c : text.substr(range.begin, range.end - range.begin)) {
    if (c != '_') digits += c;
  }
  if (digits.starts_with('+') && !digits.starts_with("+-")) digits.erase(0, 1);
  const auto end = std::from_chars(digits.data(), digits.data() + digits.size(), *out, base);
  return end.ec == std::errc() && end.ptr == digits.data() + digits.size();
}

bool parse_float(std::string_view text, double* out) {
  const ByteRange range = strip_range(text, true, true, nullptr);
  const std::string digits(text.substr(range.begin, range.end - range.begin));
  if (digits.empty() || digits.find_first_of("xXpP") != std::string::npos) return false;
  char* end = nullptr;
  *out = std::strtod(digits.c_str(), &end);
  return end == digits.c_str() + digits.size();
}

Value to_int(JinjaHeap&, const JinjaValue& value, Arguments arguments) {
  TRY_ASSIGN(const auto given, jinja_bind("int", arguments, {"default", "base"}, 0));
  const JinjaValue fallback = given[0] == nullptr ? JinjaValue::integer(0) : *given[0];
  TRY_ASSIGN(const int64_t base, jinja_to_index("int", given[1], 10));
  if (base < 2 || base > 36) return make_error(Code::kUnsupported, "int with base {} is not supported", base);
  if (value.is_integral()) return JinjaValue::integer(value.as_int()).mark_content(value.has_content());
  double number = 0;
  if (value.is(JinjaKind::kFloat)) {
    number = value.as_double();
  } else if (value.is(JinjaKind::kString)) {
    int64_t whole = 0;
    if (parse_int(value.text(), static_cast<int>(base), &whole)) {
      return JinjaValue::integer(whole).mark_content(value.has_content());
    }
    if (!parse_float(value.text(), &number)) return fallback;
  } else if (value.is(JinjaKind::kUndefined)) {
    return Error{Code::kInvalidArgument, value.why_undefined()};
  } else {
    return fallback;
  }
  if (std::isnan(number) || std::isinf(number)) return fallback;
  if (std::fabs(number) > 9e18) return make_error(Code::kUnsupported, "int: the number has more than 64 bits");
  return JinjaValue::integer(static_cast<JinjaInt>(number)).mark_content(value.has_content());
}

Value to_float(JinjaHeap&, const JinjaValue& value, Arguments arguments) {
  TRY_ASSIGN(const auto given, jinja_bind("float", arguments, {"default"}, 0));
  if (value.is(JinjaKind::kUndefined)) return Error{Code::kInvalidArgument, value.why_undefined()};
  if (value.is_number()) return JinjaValue::number(value.as_double()).mark_content(value.has_content());
  double number = 0;
  if (value.is(JinjaKind::kString) && parse_float(value.text(), &number)) {
    return JinjaValue::number(number).mark_content(value.has_content());
  }
  return given[0] == nullptr ? JinjaValue::number(0) : *given[0];
}

// Correctly rounded, halves to even, as Python rounds the exact value of a float.
double round_to(double number, int64_t precision) {
  if (std::isnan(number) || std::isinf(number) || precision > 300) return number;
  if (precision >= 0) return std::strtod(fmt::format("{:.{}f}", number, static_cast<int>(precision)).c_str(), nullptr);
  const double unit = std::pow(10.0, static_cast<double>(std::min<int64_t>(-precision, 400)));
  return std::isinf(unit) ? 0.0 : std::nearbyint(number / unit) * unit;
}

Value round(JinjaHeap&, const JinjaValue& value, Arguments arguments) {
  TRY_ASSIGN(const auto given, jinja_bind("round", arguments, {"precision", "method"}, 0));
  TRY_ASSIGN(const int64_t precision, jinja_to_index("round", given[0], 0));
  const std::string method = given[1] == nullptr ? "common" : given[1]->is(JinjaKind::kString) ? given[1]->text() : "";
  if (!value.is_number()) {
    return make_error(Code::kInvalidArgument, "round needs a number, not '{}'", jinja_type_name(value));
  }
  const bool content = value.has_content();
  if (method == "common") {
    if (value.is_integral() && precision >= 0) return JinjaValue::integer(value.as_int()).mark_content(content);
    const double rounded = round_to(value.as_double(), precision);
    if (value.is_integral()) return JinjaValue::integer(static_cast<JinjaInt>(rounded)).mark_content(content);
    return JinjaValue::number(rounded).mark_content(content);
  }
  if (method != "ceil" && method != "floor") {
    return make_error(Code::kInvalidArgument, "round: the method is common, ceil or floor");
  }
  const double unit = std::pow(10.0, static_cast<double>(precision));
  const double scaled = value.as_double() * unit;
  return JinjaValue::number((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / unit).mark_content(content);
}

// tojson as transformers has it: json.dumps that keeps the order of keys and all characters.
Value tojson(JinjaHeap& heap, const JinjaValue& value, Arguments arguments) {
  TRY_ASSIGN(const auto given,
             jinja_bind("tojson", arguments, {"ensure_ascii", "indent", "separators", "sort_keys"}, 0));
  JinjaJsonOptions options;
  options.ensure_ascii = given[0] != nullptr && given[0]->truthy();
  options.sort_keys = given[3] != nullptr && given[3]->truthy();
  if (given[1] != nullptr && !given[1]->is(JinjaKind::kNone)) {
    options.indented = true;
    options.item_separator = ",";
    if (given[1]->is(JinjaKind::kString)) {
      options.indent = given[1]->text();
    } else {
      TRY_ASSIGN(const int64_t width, jinja_to_index("tojson", given[1], 0));
      if (width > 64) return make_error(Code::kExhausted, "tojson: an indent of {}, at most 64", width);
      options.indent.assign(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
    }
  }
  if (given[2] != nullptr && !given[2]->is(JinjaKind::kNone)) {
    const bool pair = given[2]->is(JinjaKind::kList) && given[2]->as_list().items.size() == 2 &&
                      given[2]->as_list().items[0].is(JinjaKind::kString) &&
                      given[2]->as_list().items[1].is(JinjaKind::kString);
    if (!pair) return make_error(Code::kInvalidArgument, "tojson: separators are a pair of strings");
    options.item_separator = given[2]->as_list().items[0].text();
    options.key_separator = given[2]->as_list().items[1].text();
  }
  TRY_ASSIGN(JinjaString text, jinja_json(heap, value, options));
  return heap.string(std::move(text));
}

Value attr(JinjaHeap& heap, const JinjaValue& value, Arguments arguments) {
  TRY_ASSIGN(const auto given, jinja_bind("attr", arguments, {"name"}, 1));
  TRY_ASSIGN(const JinjaString* name, jinja_to_string("attr", given[0]));
  const bool own = value.is(JinjaKind::kNamespace) || jinja_has_method(value, name->text());
  if (own || value.is(JinjaKind::kUndefined)) return jinja_attribute(heap, value, name->text());
  return JinjaValue::undefined(fmt::format("'{}' has no attribute '{}'", jinja_type_name(value), name->text()));
}

const std::map<std::string_view, JinjaFilter>& filters() {
  static const std::map<std::string_view, JinjaFilter> table = [] {
    std::map<std::string_view, JinjaFilter> all = {
        {"abs", absolute},  {"attr", attr},      {"capitalize", capitalize}, {"center", center},
        {"count", length},  {"d", otherwise},    {"default", otherwise},     {"e", escape},
        {"escape", escape}, {"float", to_float}, {"format", format},         {"indent", indent},
        {"int", to_int},    {"length", length},  {"lower", lower},           {"replace", replace},
        {"round", round},   {"safe", safe},      {"string", as_string},      {"title", title},
        {"tojson", tojson}, {"trim", trim},      {"upper", upper},           {"wordcount", wordcount},
    };
    all.merge(jinja_list_filters());
    return all;
  }();
  return table;
}

}  // namespace

JinjaFilter jinja_find_filter(std::string_view name) {
  const auto found = filters().find(name);
  return found == filters().end() ? nullptr : found->second;
}

std::string jinja_filter_names() {
  std::string out;
  for (const auto& [name, filter] : filters()) out += (out.empty() ? "" : ", ") + std::string(name);
  return out;
}

}  // namespace westlake
