// Operators, attributes, items and slices, as Python and Jinja's sandbox have them.
#include <algorithm>
#include <cmath>

#include "text/jinja_library.h"

namespace westlake {

namespace {

constexpr JinjaInt kIntMax = INT64_MAX, kIntMin = INT64_MIN;

Error undefined_error(const JinjaValue& value) {
  return {Code::kInvalidArgument, value.why_undefined()};
}

bool fits(JinjaInt number) {
  return number >= kIntMin && number <= kIntMax;
}

Result<JinjaValue> int_result(JinjaInt number, bool content) {
  if (!fits(number)) {
    return make_error(Code::kUnsupported, "integer arithmetic beyond 64 bits is not supported");
  }
  return JinjaValue::integer(number).mark_content(content);
}

Result<JinjaValue> power(const JinjaValue& a, const JinjaValue& b, bool content) {
  if (!a.is_integral() || !b.is_integral() || b.as_int() < 0) {
    const double base = a.as_double(), exponent = b.as_double();
    if (base == 0 && exponent < 0) return make_error(Code::kInvalidArgument, "0 to a negative power");
    if (base < 0 && exponent != std::floor(exponent)) {
      return make_error(Code::kUnsupported, "a complex result of '**' is not supported");
    }
    return JinjaValue::number(std::pow(base, exponent)).mark_content(content);
  }
  JinjaInt result = 1;
  const JinjaInt base = a.as_int();
  if (!fits(base)) return int_result(base, content);
  if (base == 0 || base == 1) return int_result(b.as_int() == 0 ? 1 : base, content);
  if (base == -1) return int_result(b.as_int() % 2 == 0 ? 1 : -1, content);
  for (JinjaInt i = 0; i < b.as_int() && fits(result); ++i) result *= base;
  return int_result(result, content);
}

Result<JinjaValue> integer_arithmetic(std::string_view operation, JinjaInt a, JinjaInt b, bool content) {
  if (!fits(a) || !fits(b)) return int_result(fits(a) ? b : a, content);
  if (operation == "+") return int_result(a + b, content);
  if (operation == "-") return int_result(a - b, content);
  if (operation == "*") return int_result(a * b, content);
  if (b == 0) return make_error(Code::kInvalidArgument, "division by zero");
  if (operation == "/")
    return JinjaValue::number(static_cast<double>(a) / static_cast<double>(b)).mark_content(content);
  const bool below = a % b != 0 && (a < 0) != (b < 0);  // Python rounds down, C++ towards zero
  if (operation == "//") return int_result(a / b - (below ? 1 : 0), content);
  return int_result(a % b + (below ? b : 0), content);
}

Result<JinjaValue> float_arithmetic(std::string_view operation, double a, double b, bool content) {
  double out = 0;
  if (operation == "+") {
    out = a + b;
  } else if (operation == "-") {
    out = a - b;
  } else if (operation == "*") {
    out = a * b;
  } else if (b == 0) {
    return make_error(Code::kInvalidArgument, "division by zero");
  } else if (operation == "/") {
    out = a / b;
  } else {
    double rest = std::fmod(a, b);
    if (rest != 0 && (rest < 0) != (b < 0)) rest += b;
    out = operation == "//" ? std::floor((a - rest) / b + 0.5) : rest;
  }
  return JinjaValue::number(out).mark_content(content);
}

// Markup + str: what is no Markup is escaped first.
Result<JinjaValue> add_markup(JinjaHeap& heap, const JinjaValue& a, const JinjaValue& b) {
  TRY_ASSIGN(const JinjaValue left, jinja_escape_html(heap, a));
  TRY_ASSIGN(const JinjaValue right, jinja_escape_html(heap, b));
  JinjaString text = left.as_string();
  text.append(right.as_string());
  TRY_ASSIGN(JinjaValue out, heap.string(std::move(text)));
  return out.mark_markup();
}

bool is_plain_sequence(const JinjaValue& value) {
  return value.is_list(JinjaFlavour::kList) || value.is_list(JinjaFlavour::kTuple);
}

Result<JinjaValue> repeat(JinjaHeap& heap, const JinjaValue& value, JinjaInt times) {
  const size_t unit = value.is(JinjaKind::kString) ? value.as_string().footprint_bytes()
                                                   : value.as_list().items.size() * sizeof(JinjaValue);
  const size_t count = times <= 0 || unit == 0 ? 0 : static_cast<size_t>(std::min<JinjaInt>(times, kIntMax));
  if (count > 0 && unit > SIZE_MAX / 2 / count) return heap.reserve(SIZE_MAX / 2).error();
  TRY(heap.reserve(unit * count));
  TRY(heap.charge_bytes(unit * count));
  if (value.is(JinjaKind::kString)) {
    JinjaString text;
    for (size_t i = 0; i < count; ++i) text.append(value.as_string());
    return heap.string(std::move(text));
  }
  std::vector<JinjaValue> items;
  for (size_t i = 0; i < count; ++i) {
    items.insert(items.end(), value.as_list().items.begin(), value.as_list().items.end());
  }
  return heap.list(std::move(items), value.as_list().flavour);
}

}  // namespace

Result<JinjaValue> jinja_arithmetic(JinjaHeap& heap, std::string_view operation, const JinjaValue& a,
                                    const JinjaValue& b) {
  const bool content = a.has_content() || b.has_content();
  if (a.is_number() && b.is_number()) {
    if (operation == "**") return power(a, b, content);
    if (a.is_integral() && b.is_integral()) return integer_arithmetic(operation, a.as_int(), b.as_int(), content);
    return float_arithmetic(operation, a.as_double(), b.as_double(), content);
  }
  if (operation == "%" && a.is(JinjaKind::kString)) return jinja_percent_format(heap, a.as_string(), b);
  if (a.is(JinjaKind::kUndefined)) return undefined_error(a);
  if (b.is(JinjaKind::kUndefined)) return undefined_error(b);
  const bool strings = a.is(JinjaKind::kString) && b.is(JinjaKind::kString);
  if (operation == "+" && strings && (a.is_markup() || b.is_markup())) return add_markup(heap, a, b);
  if (operation == "+" && strings) {
    TRY(heap.reserve(a.as_string().footprint_bytes() + b.as_string().footprint_bytes()));
    JinjaString text = a.as_string();
    text.append(b.as_string());
    return heap.string(std::move(text));
  }
  if (operation == "+" && is_plain_sequence(a) && is_plain_sequence(b) && a.as_list().flavour == b.as_list().flavour) {
    TRY(heap.reserve((a.as_list().items.size() + b.as_list().items.size()) * sizeof(JinjaValue)));
    std::vector<JinjaValue> items = a.as_list().items;
    items.insert(items.end(), b.as_list().items.begin(), b.as_list().items.end());
    return heap.list(std::move(items), a.as_list().flavour);
  }
  if (operation == "*" && (a.is(JinjaKind::kString) || is_plain_sequence(a)) && b.is_integral()) {
    return repeat(heap, a, b.as_int());
  }
  if (operation == "*" && (b.is(JinjaKind::kString) || is_plain_sequence(b)) && a.is_integral()) {
    return repeat(heap, b, a.as_int());
  }
  return make_error(Code::kInvalidArgument, "'{}' does not go with '{}' and '{}'", operation, jinja_type_name(a),
                    jinja_type_name(b));
}

Result<JinjaValue> jinja_negate(const JinjaValue& value, std::string_view sign) {
  if (value.is_integral()) return int_result(sign == "-" ? -value.as_int() : value.as_int(), value.has_content());
  if (value.is(JinjaKind::kFloat)) {
    return JinjaValue::number(sign == "-" ? -value.as_double() : value.as_double()).mark_content(value.has_content());
  }
  if (value.is(JinjaKind::kUndefined)) return undefined_error(value);
  return make_error(Code::kInvalidArgument, "a sign does not go with '{}'", jinja_type_name(value));
}

Result<bool> jinja_contains(JinjaHeap& heap, const JinjaValue& container, const JinjaValue& value) {
  switch (container.kind()) {
    case JinjaKind::kUndefined:
      return false;
    case JinjaKind::kString:
      if (!value.is(JinjaKind::kString)) {
        return make_error(Code::kInvalidArgument, "'in' a string needs a string on its left, not '{}'",
                          jinja_type_name(value));
      }
      TRY(heap.charge_bytes(container.text().size()));
      return container.text().find(value.text()) != std::string::npos;
    case JinjaKind::kDict: {
      TRY_ASSIGN(const JinjaValue* found, jinja_find(heap, container.as_dict(), value));
      return found != nullptr;
    }
    case JinjaKind::kList: {
      JinjaListBody& list = container.as_list();
      const bool generator = list.flavour == JinjaFlavour::kGenerator;
      for (size_t i = list.taken; i < list.items.size(); ++i) {
        if (generator) list.taken = i + 1;
        TRY_ASSIGN(const bool same, jinja_equal(heap, list.items[i], value));
        if (same) return true;
      }
      return false;
    }
    default:
      return make_error(Code::kInvalidArgument, "'in' does not go with '{}'", jinja_type_name(container));
  }
}

Result<bool> jinja_compare(JinjaHeap& heap, std::string_view operation, const JinjaValue& a, const JinjaValue& b) {
  if (operation == "in") return jinja_contains(heap, b, a);
  if (operation == "notin") {
    TRY_ASSIGN(const bool found, jinja_contains(heap, b, a));
    return !found;
  }
  if (operation == "==") return jinja_equal(heap, a, b);
  if (operation == "!=") {
    TRY_ASSIGN(const bool same, jinja_equal(heap, a, b));
    return !same;
  }
  const bool unordered = a.is_number() && b.is_number() && (std::isnan(a.as_double()) || std::isnan(b.as_double()));
  if (unordered) return false;
  const bool swapped = operation == ">" || operation == "<=";
  TRY_ASSIGN(const bool less, swapped ? jinja_less(heap, b, a) : jinja_less(heap, a, b));
  return operation == "<" || operation == ">" ? less : !less;
}

Result<size_t> jinja_length(const JinjaValue& value) {
  if (value.is(JinjaKind::kUndefined)) return size_t{0};
  if (value.is(JinjaKind::kString)) return utf8_length(value.text());
  if (value.is(JinjaKind::kDict)) return value.as_dict().items.size();
  if (value.is(JinjaKind::kList) && value.as_list().flavour != JinjaFlavour::kGenerator) {
    return value.as_list().items.size();
  }
  return make_error(Code::kInvalidArgument, "'{}' has no length", jinja_type_name(value));
}

namespace {

// "dict object": how Jinja names a value in its messages.
std::string object_name(const JinjaValue& value) {
  if (value.is(JinjaKind::kNone)) return "None";
  return fmt::format("{} object", jinja_type_name(value));
}

JinjaValue missing(const JinjaValue& value, std::string_view name) {
  if (jinja_is_mutator(value, name)) {
    return JinjaValue::undefined(
        fmt::format("'{}' would change a {}: templates may not", name, jinja_type_name(value)));
  }
  return JinjaValue::undefined(fmt::format("'{}' has no attribute '{}'", object_name(value), name));
}

bool is_indexable(const JinjaValue& value) {
  return value.is(JinjaKind::kList) && (is_plain_sequence(value) || value.as_list().flavour == JinjaFlavour::kRange);
}

}  // namespace

Result<JinjaValue> jinja_attribute(JinjaHeap& heap, const JinjaValue& value, std::string_view name) {
  TRY(heap.charge(1));
  if (value.is(JinjaKind::kUndefined)) return undefined_error(value);
  if (value.is(JinjaKind::kNamespace)) {
    const JinjaValue* found = value.as_namespace()->find(name);
    return found == nullptr ? missing(value, name) : *found;
  }
  if (jinja_has_method(value, name)) return JinjaValue::method(value, std::string(name));
  if (value.is(JinjaKind::kDict) && !jinja_is_mutator(value, name)) {
    const JinjaValue* found = value.as_dict().find(name);
    if (found != nullptr) return *found;
  }
  return missing(value, name);
}

Result<JinjaValue> jinja_item(JinjaHeap& heap, const JinjaValue& value, const JinjaValue& key) {
  TRY(heap.charge(1));
  if (value.is(JinjaKind::kUndefined)) return undefined_error(value);
  if (value.is(JinjaKind::kDict)) {
    const bool hashable = !key.is(JinjaKind::kDict) && !key.is_list(JinjaFlavour::kList);
    if (hashable) {
      TRY_ASSIGN(const JinjaValue* found, jinja_find(heap, value.as_dict(), key));
      if (found != nullptr) return *found;
    }
  } else if (key.is_integral() && (value.is(JinjaKind::kString) || is_indexable(value))) {
    const bool text = value.is(JinjaKind::kString);
    if (text) TRY(heap.charge_bytes(value.text().size()));
    const JinjaInt length = static_cast<JinjaInt>(text ? utf8_length(value.text()) : value.as_list().items.size());
    const JinjaInt index = key.as_int() < 0 ? key.as_int() + length : key.as_int();
    if (index >= 0 && index < length) {
      if (!text) return value.as_list().items[static_cast<size_t>(index)];
      const size_t begin = utf8_offset(value.text(), static_cast<size_t>(index));
      size_t end = begin;
      utf8_next(value.text(), &end);
      return heap.string(value.as_string().slice(begin, end));
    }
    return missing(value, jinja_int_text(key.as_int()));
  }
  if (key.is(JinjaKind::kString)) {
    if (value.is(JinjaKind::kNamespace)) return jinja_attribute(heap, value, key.text());
    if (jinja_has_method(value, key.text())) return JinjaValue::method(value, key.text());
    return missing(value, key.text());
  }
  return missing(value, key.is_integral() ? jinja_int_text(key.as_int()) : std::string(jinja_type_name(key)));
}

namespace {

struct SliceRange {
  int64_t start, stop, step;
};

// Python's PySlice_AdjustIndices.
Result<SliceRange> slice_range(const JinjaValue& start, const JinjaValue& stop, const JinjaValue& step,
                               int64_t length) {
  const auto given = [](const JinjaValue& value) { return !value.is(JinjaKind::kNone); };
  for (const JinjaValue* bound : {&start, &stop, &step}) {
    if (given(*bound) && !bound->is_integral()) {
      return make_error(Code::kInvalidArgument, "a slice needs integers, not '{}'", jinja_type_name(*bound));
    }
  }
  const auto clamp = [](JinjaInt value, JinjaInt low, JinjaInt high) {
    return static_cast<int64_t>(std::clamp(value, low, high));
  };
  SliceRange out{};
  out.step = given(step) ? clamp(step.as_int(), kIntMin + 1, kIntMax) : 1;
  if (out.step == 0) return make_error(Code::kInvalidArgument, "the step of a slice is 0");
  const bool backwards = out.step < 0;
  const JinjaInt low = backwards ? -1 : 0, high = backwards ? length - 1 : length;
  const auto place = [&](const JinjaValue& bound, JinjaInt otherwise) {
    if (!given(bound)) return static_cast<int64_t>(otherwise);
    const JinjaInt value = bound.as_int() < 0 ? bound.as_int() + length : bound.as_int();
    return clamp(value, low, high);
  };
  out.start = place(start, backwards ? high : low);
  out.stop = place(stop, backwards ? low : high);
  return out;
}

Result<JinjaValue> slice_text(JinjaHeap& heap, const JinjaString& text, const SliceRange& range) {
  if (range.step == 1) {
    const size_t begin = utf8_offset(text.text(), static_cast<size_t>(range.start));
    const size_t count = static_cast<size_t>(std::max<int64_t>(range.stop - range.start, 0));
    const size_t end = begin + utf8_offset(std::string_view(text.text()).substr(begin), count);
    return heap.string(text.slice(begin, end));
  }
  std::vector<size_t> starts;
  for (size_t i = 0; i < text.size(); utf8_next(text.text(), &i)) starts.push_back(i);
  starts.push_back(text.size());
  JinjaString out;
  const bool single = text.pieces().size() == 1;  // one message string stays one, in any order of its characters
  std::string whole;
  for (int64_t i = range.start; range.step > 0 ? i < range.stop : i > range.stop;) {
    const size_t begin = starts[static_cast<size_t>(i)], end = starts[static_cast<size_t>(i) + 1];
    if (single) {
      whole.append(text.text(), begin, end - begin);
    } else {
      out.append(text, begin, end);
    }
    if (__builtin_add_overflow(i, range.step, &i)) break;
  }
  return single ? heap.string(std::move(whole), text.origin()) : heap.string(std::move(out));
}

}  // namespace

Result<JinjaValue> jinja_slice(JinjaHeap& heap, const JinjaValue& value, const JinjaValue& start,
                               const JinjaValue& stop, const JinjaValue& step) {
  if (value.is(JinjaKind::kUndefined)) return undefined_error(value);
  const bool text = value.is(JinjaKind::kString);
  if (!text && !is_indexable(value)) {
    return make_error(Code::kInvalidArgument, "'{}' cannot be sliced", jinja_type_name(value));
  }
  const size_t length = text ? utf8_length(value.text()) : value.as_list().items.size();
  TRY(heap.charge_bytes(text ? value.text().size() * 4 : length));
  TRY_ASSIGN(const SliceRange range, slice_range(start, stop, step, static_cast<int64_t>(length)));
  if (text) return slice_text(heap, value.as_string(), range);
  std::vector<JinjaValue> items;
  for (int64_t i = range.start; range.step > 0 ? i < range.stop : i > range.stop;) {
    items.push_back(value.as_list().items[static_cast<size_t>(i)]);
    if (__builtin_add_overflow(i, range.step, &i)) break;
  }
  const bool range_like = value.as_list().flavour == JinjaFlavour::kRange;
  return heap.list(std::move(items), range_like ? JinjaFlavour::kRange : value.as_list().flavour);
}

}  // namespace westlake
