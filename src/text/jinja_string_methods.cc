// Methods of strings.
#include "text/jinja_methods.h"

namespace westlake {
namespace {

using Arguments = const JinjaArguments&;
using Value = Result<JinjaValue>;

Value upper(JinjaHeap& heap, const JinjaValue& self, Arguments) {
  return heap.string(jinja_upper(self.as_string()));
}
Value lower(JinjaHeap& heap, const JinjaValue& self, Arguments) {
  return heap.string(jinja_lower(self.as_string()));
}
Value capitalize(JinjaHeap& heap, const JinjaValue& self, Arguments) {
  return heap.string(jinja_capitalize(self.as_string()));
}

// str.title: a letter after a letter is small, any other one is a capital.
Value title(JinjaHeap& heap, const JinjaValue& self, Arguments) {
  bool inside = false;
  return heap.string(self.as_string().map_pieces([&](std::string_view piece) {
    std::string out;
    for (size_t i = 0; i < piece.size();) {
      const uint32_t code = utf8_next(piece, &i);
      if (inside) {
        append_lower(out, code);
      } else {
        append_title(out, code);
      }
      inside = is_python_alpha(code);
    }
    return out;
  }));
}

template <bool kLeft, bool kRight>
Value strip(JinjaHeap& heap, const JinjaValue& self, Arguments arguments) {
  TRY_ASSIGN(const auto given, jinja_bind("strip", arguments, {"chars"}, 0));
  return jinja_strip(heap, self.as_string(), kLeft, kRight, given[0]);
}

Value replace(JinjaHeap& heap, const JinjaValue& self, Arguments arguments) {
  TRY_ASSIGN(const auto given, jinja_bind("replace", arguments, {"old", "new", "count"}, 2));
  TRY_ASSIGN(const JinjaString* from, jinja_to_string("replace", given[0]));
  TRY_ASSIGN(const JinjaString* to, jinja_to_string("replace", given[1]));
  TRY_ASSIGN(const int64_t count, jinja_to_index("replace", given[2], -1));
  return jinja_replace(heap, self.as_string(), *from, *to, count);
}

// The byte range of characters [start, end) as str.find and its kin take them.
Result<ByteRange> window(std::string_view function, const JinjaString& text, const JinjaValue* start,
                         const JinjaValue* end) {
  const auto absent = [](const JinjaValue* value) { return value == nullptr || value->is(JinjaKind::kNone); };
  if (absent(start) && absent(end)) return ByteRange{0, text.size()};
  const int64_t length = static_cast<int64_t>(utf8_length(text.text()));
  TRY_ASSIGN(int64_t first, jinja_to_index(function, absent(start) ? nullptr : start, 0));
  TRY_ASSIGN(int64_t last, jinja_to_index(function, absent(end) ? nullptr : end, length));
  if (first > length) return ByteRange{1, 0};
  first = first < 0 ? std::max<int64_t>(first + length, 0) : first;
  last = std::clamp<int64_t>(last < 0 ? last + length : last, 0, length);
  return ByteRange{utf8_offset(text.text(), static_cast<size_t>(first)),
                   utf8_offset(text.text(), static_cast<size_t>(last))};
}

// startswith and endswith, of one string or of any in a tuple.
template <bool kStart>
Value has_affix(JinjaHeap& heap, const JinjaValue& self, Arguments arguments) {
  constexpr const char* kName = kStart ? "startswith" : "endswith";
  TRY_ASSIGN(const auto given, jinja_bind(kName, arguments, {"affix", "start", "end"}, 1));
  TRY(heap.charge_bytes(self.text().size()));
  TRY_ASSIGN(const ByteRange range, window(kName, self.as_string(), given[1], given[2]));
  if (range.begin > range.end) return JinjaValue::boolean(false);
  const std::string_view text = std::string_view(self.text()).substr(range.begin, range.end - range.begin);
  std::vector<JinjaValue> affixes{*given[0]};
  if (given[0]->is_list(JinjaFlavour::kTuple)) affixes = given[0]->as_list().items;
  for (const JinjaValue& value : affixes) {
    TRY_ASSIGN(const JinjaString* affix, jinja_to_string(kName, &value));
    if (kStart ? text.starts_with(affix->text()) : text.ends_with(affix->text())) return JinjaValue::boolean(true);
  }
  return JinjaValue::boolean(false);
}

template <bool kStart>
Value remove_affix(JinjaHeap& heap, const JinjaValue& self, Arguments arguments) {
  TRY_ASSIGN(const auto given, jinja_bind(kStart ? "removeprefix" : "removesuffix", arguments, {"affix"}, 1));
  TRY_ASSIGN(const JinjaString* affix, jinja_to_string("removeprefix", given[0]));
  const JinjaString& text = self.as_string();
  if (kStart ? !text.text().starts_with(affix->text()) : !text.text().ends_with(affix->text())) return self;
  return heap.string(kStart ? text.slice(affix->size(), text.size()) : text.slice(0, text.size() - affix->size()));
}

// find, rfind, index and rindex.
template <bool kLast, bool kMustBeThere>
Value find(JinjaHeap& heap, const JinjaValue& self, Arguments arguments) {
  TRY_ASSIGN(const auto given, jinja_bind("find", arguments, {"sub", "start", "end"}, 1));
  TRY_ASSIGN(const JinjaString* wanted, jinja_to_string("find", given[0]));
  TRY(heap.charge_bytes(self.text().size() * 2));
  TRY_ASSIGN(const ByteRange range, window("find", self.as_string(), given[1], given[2]));
  size_t found = std::string_view::npos;
  if (range.begin <= range.end) {
    const std::string_view text = std::string_view(self.text()).substr(0, range.end);
    found = kLast ? text.rfind(wanted->text()) : text.find(wanted->text(), range.begin);
    if (found != std::string_view::npos && found < range.begin) found = std::string_view::npos;
  }
  if (found != std::string_view::npos) {
    return JinjaValue::integer(static_cast<JinjaInt>(utf8_length(std::string_view(self.text()).substr(0, found))));
  }
  if (kMustBeThere) return make_error(Code::kInvalidArgument, "index: the text is not there");
  return JinjaValue::integer(-1);
}

Value count(JinjaHeap& heap, const JinjaValue& self, Arguments arguments) {
  TRY_ASSIGN(const auto given, jinja_bind("count", arguments, {"sub", "start", "end"}, 1));
  TRY_ASSIGN(const JinjaString* wanted, jinja_to_string("count", given[0]));
  TRY(heap.charge_bytes(self.text().size()));
  TRY_ASSIGN(const ByteRange range, window("count", self.as_string(), given[1], given[2]));
  if (range.begin > range.end) return JinjaValue::integer(0);
  const std::string_view text = std::string_view(self.text()).substr(range.begin, range.end - range.begin);
  if (wanted->empty()) return JinjaValue::integer(static_cast<JinjaInt>(utf8_length(text)) + 1);
  JinjaInt found = 0;
  for (size_t at = 0; (at = text.find(wanted->text(), at)) != text.npos; at += wanted->size()) ++found;
  return JinjaValue::integer(found);
}

Status split_at(JinjaHeap& heap, const JinjaString& text, const JinjaString& separator, int64_t limit, bool from_right,
                std::vector<JinjaValue>* out) {
  if (separator.empty()) return make_error(Code::kInvalidArgument, "split: the separator is empty");
  const std::string& source = text.text();
  size_t begin = 0, end = source.size();
  for (; limit != 0; --limit) {
    if (from_right) {
      if (end < separator.size()) break;
      const size_t found = source.rfind(separator.text(), end - separator.size());
      if (found == std::string::npos) break;
      TRY_ASSIGN(JinjaValue part, heap.string(text.slice(found + separator.size(), end)));
      out->push_back(std::move(part));
      end = found;
    } else {
      const size_t found = source.find(separator.text(), begin);
      if (found == std::string::npos) break;
      TRY_ASSIGN(JinjaValue part, heap.string(text.slice(begin, found)));
      out->push_back(std::move(part));
      begin = found + separator.size();
    }
  }
  TRY_ASSIGN(JinjaValue rest, heap.string(text.slice(begin, end)));
  out->push_back(std::move(rest));
  if (from_right) std::reverse(out->begin(), out->end());
  return {};
}

Status split_at_spaces(JinjaHeap& heap, const JinjaString& text, int64_t limit, std::vector<JinjaValue>* out) {
  const std::string& source = text.text();
  const auto skip = [&](size_t at, bool space) {
    for (size_t next = at; at < source.size(); at = next) {
      if (is_python_space(utf8_next(source, &next)) != space) break;
    }
    return at;
  };
  for (size_t at = skip(0, true); at < source.size();) {
    const size_t end = limit-- == 0 ? source.size() : skip(at, false);
    TRY_ASSIGN(JinjaValue part, heap.string(text.slice(at, end)));
    out->push_back(std::move(part));
    at = skip(end, true);
  }
  return {};
}

template <bool kFromRight>
Value split(JinjaHeap& heap, const JinjaValue& self, Arguments arguments) {
  TRY_ASSIGN(const auto given, jinja_bind("split", arguments, {"sep", "maxsplit"}, 0));
  TRY_ASSIGN(const int64_t limit, jinja_to_index("split", given[1], -1));
  TRY(heap.charge_bytes(self.text().size()));
  std::vector<JinjaValue> parts;
  if (given[0] == nullptr || given[0]->is(JinjaKind::kNone)) {
    if (kFromRight && limit >= 0) {
      return make_error(Code::kUnsupported, "rsplit with maxsplit and no separator is not supported");
    }
    TRY(split_at_spaces(heap, self.as_string(), limit, &parts));
  } else {
    TRY_ASSIGN(const JinjaString* separator, jinja_to_string("split", given[0]));
    TRY(split_at(heap, self.as_string(), *separator, limit, kFromRight, &parts));
  }
  return heap.list(std::move(parts));
}

template <bool kLast>
Value partition(JinjaHeap& heap, const JinjaValue& self, Arguments arguments) {
  TRY_ASSIGN(const auto given, jinja_bind("partition", arguments, {"sep"}, 1));
  TRY_ASSIGN(const JinjaString* separator, jinja_to_string("partition", given[0]));
  if (separator->empty()) return make_error(Code::kInvalidArgument, "partition: the separator is empty");
  TRY(heap.charge_bytes(self.text().size()));
  const JinjaString& text = self.as_string();
  const size_t found = kLast ? text.text().rfind(separator->text()) : text.text().find(separator->text());
  const JinjaValue empty = JinjaValue::constant(JinjaString());
  if (found == std::string::npos) {
    return heap.list(kLast ? std::vector<JinjaValue>{empty, empty, self} : std::vector<JinjaValue>{self, empty, empty},
                     JinjaFlavour::kTuple);
  }
  TRY_ASSIGN(JinjaValue head, heap.string(text.slice(0, found)));
  TRY_ASSIGN(JinjaValue tail, heap.string(text.slice(found + separator->size(), text.size())));
  return heap.list({std::move(head), *given[0], std::move(tail)}, JinjaFlavour::kTuple);
}

Value splitlines(JinjaHeap& heap, const JinjaValue& self, Arguments arguments) {
  TRY_ASSIGN(const auto given, jinja_bind("splitlines", arguments, {"keepends"}, 0));
  const bool keep = given[0] != nullptr && given[0]->truthy();
  const std::string& source = self.text();
  std::vector<JinjaValue> lines;
  for (size_t begin = 0; begin < source.size();) {
    size_t end = begin, next = begin;
    for (; next < source.size(); end = next) {
      const uint32_t code = utf8_next(source, &next);
      if (!is_python_line_break(code)) continue;
      if (code == '\r' && next < source.size() && source[next] == '\n') ++next;
      break;
    }
    TRY_ASSIGN(JinjaValue line, heap.string(self.as_string().slice(begin, keep ? next : end)));
    lines.push_back(std::move(line));
    begin = next;
  }
  return heap.list(std::move(lines));
}

Status append_joined(JinjaHeap& heap, JinjaString& out, const JinjaString& part) {
  TRY(heap.charge_bytes(part.footprint_bytes()));
  TRY(heap.reserve(out.footprint_bytes() + part.footprint_bytes()));
  out.append(part);
  return {};
}

Value join(JinjaHeap& heap, const JinjaValue& self, Arguments arguments) {
  TRY_ASSIGN(const auto given, jinja_bind("join", arguments, {"iterable"}, 1));
  TRY_ASSIGN(const auto list, jinja_iterate(heap, *given[0]));
  JinjaString out;
  for (size_t i = 0; i < list->items.size(); ++i) {
    if (i > 0) TRY(append_joined(heap, out, self.as_string()));
    TRY_ASSIGN(const JinjaString* part, jinja_to_string("join", &list->items[i]));
    TRY(append_joined(heap, out, *part));
  }
  return heap.string(std::move(out));
}

// All characters satisfy the predicate, and there is one.
template <bool (*kPredicate)(uint32_t)>
Value all_of(JinjaHeap& heap, const JinjaValue& self, Arguments) {
  TRY(heap.charge_bytes(self.text().size()));
  bool all = !self.text().empty();
  for (size_t i = 0; all && i < self.text().size();) all = kPredicate(utf8_next(self.text(), &i));
  return JinjaValue::boolean(all);
}
bool is_alnum(uint32_t code) {
  return is_python_alpha(code) || is_python_numeric(code);
}

// isupper and islower: some cased character, and none of the other case.
template <bool (*kWanted)(uint32_t), bool (*kOther)(uint32_t)>
Value all_cased(JinjaHeap& heap, const JinjaValue& self, Arguments) {
  TRY(heap.charge_bytes(self.text().size()));
  bool some = false;
  for (size_t i = 0; i < self.text().size();) {
    const uint32_t code = utf8_next(self.text(), &i);
    if (kOther(code)) return JinjaValue::boolean(false);
    some = some || kWanted(code);
  }
  return JinjaValue::boolean(some);
}

enum class Side { kLeft, kRight, kBoth };

template <Side kSide>
Value justify(JinjaHeap& heap, const JinjaValue& self, Arguments arguments) {
  TRY_ASSIGN(const auto given, jinja_bind("justify", arguments, {"width", "fillchar"}, 1));
  TRY_ASSIGN(const int64_t width, jinja_to_index("justify", given[0], 0));
  std::string fill = " ";
  if (given[1] != nullptr) {
    TRY_ASSIGN(const JinjaString* text, jinja_to_string("justify", given[1]));
    fill = text->text();
  }
  if (utf8_length(fill) != 1) return make_error(Code::kInvalidArgument, "the fill must be one character");
  if (kSide == Side::kBoth) return jinja_center(heap, self.as_string(), width, fill);
  const int64_t length = static_cast<int64_t>(utf8_length(self.text()));
  if (width <= length) return self;
  const size_t padding = static_cast<size_t>(width - length);
  TRY(heap.reserve(padding < SIZE_MAX / 8 ? padding * 4 : padding));
  std::string text;
  for (size_t i = 0; i < padding; ++i) text += fill;
  JinjaString out;
  if (kSide == Side::kRight) out.append(text, Origin::kTemplate);
  out.append(self.as_string());
  if (kSide == Side::kLeft) out.append(text, Origin::kTemplate);
  return heap.string(std::move(out));
}

Value zfill(JinjaHeap& heap, const JinjaValue& self, Arguments arguments) {
  TRY_ASSIGN(const auto given, jinja_bind("zfill", arguments, {"width"}, 1));
  TRY_ASSIGN(const int64_t width, jinja_to_index("zfill", given[0], 0));
  const int64_t length = static_cast<int64_t>(utf8_length(self.text()));
  if (width <= length) return self;
  TRY(heap.reserve(static_cast<size_t>(width - length)));
  const size_t sign = !self.text().empty() && (self.text()[0] == '-' || self.text()[0] == '+') ? 1 : 0;
  JinjaString out = self.as_string().slice(0, sign);
  out.append(std::string(static_cast<size_t>(width - length), '0'), Origin::kTemplate);
  out.append(self.as_string(), sign, self.text().size());
  return heap.string(std::move(out));
}

// str.format with {}, {0} and {name}; conversions and formats of a field are refused.
Value format(JinjaHeap& heap, const JinjaValue& self, Arguments arguments) {
  const std::string& source = self.text();
  JinjaString out;
  size_t next_field = 0;
  for (size_t at = 0; at < source.size();) {
    const size_t brace = std::min(source.find_first_of("{}", at), source.size());
    TRY(heap.reserve(out.footprint_bytes() + brace - at));
    if (brace > at) out.append(self.as_string(), at, brace);
    if (brace == source.size()) break;
    at = brace + 1;
    if (at < source.size() && source[at] == source[brace]) {
      out.append(self.as_string(), brace, at++);
      continue;
    }
    const size_t close = source.find('}', at);
    if (source[brace] == '}' || close == std::string::npos) {
      return make_error(Code::kInvalidArgument, "format: a single '{}'", source[brace]);
    }
    const std::string field = source.substr(at, close - at);
    at = close + 1;
    if (field.find_first_of("!:.[") != std::string::npos) {
      return make_error(Code::kUnsupported, "format: the field '{{{}}}' is not supported", field);
    }
    const JinjaValue* value = nullptr;
    if (field.find_first_not_of("0123456789") == std::string::npos) {
      const size_t index = field.empty() ? next_field++ : field.size() > 4 ? SIZE_MAX : std::stoul(field);
      if (index < arguments.positional.size()) value = &arguments.positional[index];
    }
    for (const auto& [name, named] : arguments.named) {
      if (name == field) value = &named;
    }
    if (value == nullptr) return make_error(Code::kInvalidArgument, "format: no value for '{{{}}}'", field);
    TRY_ASSIGN(const JinjaString text, jinja_text(heap, *value));
    TRY(append_joined(heap, out, text));
  }
  return heap.string(std::move(out));
}

}  // namespace

const std::map<std::string_view, JinjaMethod>& jinja_string_methods() {
  static const std::map<std::string_view, JinjaMethod> methods = {
      {"upper", upper},
      {"lower", lower},
      {"capitalize", capitalize},
      {"title", title},
      {"casefold", lower},
      {"strip", strip<true, true>},
      {"lstrip", strip<true, false>},
      {"rstrip", strip<false, true>},
      {"replace", replace},
      {"startswith", has_affix<true>},
      {"endswith", has_affix<false>},
      {"removeprefix", remove_affix<true>},
      {"removesuffix", remove_affix<false>},
      {"find", find<false, false>},
      {"rfind", find<true, false>},
      {"index", find<false, true>},
      {"rindex", find<true, true>},
      {"count", count},
      {"split", split<false>},
      {"rsplit", split<true>},
      {"partition", partition<false>},
      {"rpartition", partition<true>},
      {"splitlines", splitlines},
      {"join", join},
      {"isspace", all_of<is_python_space>},
      {"isalpha", all_of<is_python_alpha>},
      {"isalnum", all_of<is_alnum>},
      {"isdigit", all_of<is_python_digit>},
      {"isdecimal", all_of<is_python_digit>},
      {"isnumeric", all_of<is_python_numeric>},
      {"isupper", all_cased<is_python_upper, is_python_lower>},
      {"islower", all_cased<is_python_lower, is_python_upper>},
      {"ljust", justify<Side::kLeft>},
      {"rjust", justify<Side::kRight>},
      {"center", justify<Side::kBoth>},
      {"zfill", zfill},
      {"format", format},
  };
  return methods;
}

}  // namespace westlake
