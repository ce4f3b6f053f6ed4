// Filters on lists and dicts.
#include "text/jinja_list_filters.h"

#include <algorithm>
#include <optional>

namespace westlake {

namespace {

using Value = Result<JinjaValue>;
using Arguments = const JinjaArguments&;
using Items = std::vector<JinjaValue>;

bool is_given(const JinjaValue* value) {
  return value != nullptr && !value->is(JinjaKind::kNone);
}

// item.a.b or item.0 for attribute "a.b" or "0"; none gives the item.
Value by_path(JinjaHeap& heap, const JinjaValue& item, const JinjaValue* attribute,
              const JinjaValue* otherwise = nullptr) {
  if (!is_given(attribute)) return item;
  if (!attribute->is(JinjaKind::kString)) return jinja_item(heap, item, *attribute);
  const std::string& path = attribute->text();
  JinjaValue value = item;
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('.', begin), path.size());
    const std::string part = path.substr(begin, end - begin);
    begin = end + 1;
    const bool number = !part.empty() && part.size() < 10 && part.find_first_not_of("0123456789") == part.npos;
    const JinjaValue key =
        number ? JinjaValue::integer(std::stoll(part)) : JinjaValue::constant(JinjaString(part, Origin::kTemplate));
    TRY_ASSIGN(value, jinja_item(heap, value, key));
    if (is_given(otherwise) && value.is(JinjaKind::kUndefined)) value = *otherwise;
  }
  return value;
}

// What sorting and comparing look at: the attribute, strings in small letters unless case counts.
Value sort_key(JinjaHeap& heap, const JinjaValue& item, const JinjaValue* attribute, bool case_sensitive) {
  TRY_ASSIGN(JinjaValue key, by_path(heap, item, attribute));
  if (case_sensitive || !key.is(JinjaKind::kString)) return key;
  return heap.string(jinja_lower(key.as_string()));
}

Result<std::vector<JinjaPair>> keyed(JinjaHeap& heap, const Items& items, const JinjaValue* attribute,
                                     bool case_sensitive) {
  std::vector<JinjaPair> out;
  for (const JinjaValue& item : items) {
    TRY_ASSIGN(JinjaValue key, sort_key(heap, item, attribute, case_sensitive));
    out.emplace_back(std::move(key), item);
  }
  return out;
}

// Merge sort by hand: a comparison may fail, which std::sort has no way to say.
Status stable_sort(JinjaHeap& heap, std::vector<JinjaPair>& items, bool reverse) {
  std::vector<JinjaPair> merged;
  for (size_t run = 1; run < items.size(); run *= 2) {
    merged.clear();
    for (size_t begin = 0; begin < items.size(); begin += 2 * run) {
      size_t left = begin, right = std::min(begin + run, items.size());
      const size_t middle = right, end = std::min(begin + 2 * run, items.size());
      while (left < middle || right < end) {
        bool take_right = left == middle;
        if (left < middle && right < end) {
          TRY_ASSIGN(take_right, reverse ? jinja_less(heap, items[left].first, items[right].first)
                                         : jinja_less(heap, items[right].first, items[left].first));
        }
        merged.push_back(items[take_right ? right++ : left++]);
      }
    }
    items.swap(merged);
  }
  return {};
}

Items values_of(const std::vector<JinjaPair>& pairs) {
  Items out;
  for (const auto& [key, value] : pairs) out.push_back(value);
  return out;
}

bool flag(const JinjaValue* value) {
  return value != nullptr && value->truthy();
}

// The attributes of "a,b.c" as a list, so that the first one that differs decides.
Value sort_keys(JinjaHeap& heap, const JinjaValue& item, const JinjaValue* attribute, bool case_sensitive) {
  Items keys;
  if (!is_given(attribute) || !attribute->is(JinjaKind::kString)) {
    TRY_ASSIGN(JinjaValue key, sort_key(heap, item, attribute, case_sensitive));
    keys.push_back(std::move(key));
    return heap.list(std::move(keys));
  }
  const std::string& names = attribute->text();
  for (size_t begin = 0; begin <= names.size();) {
    const size_t end = std::min(names.find(',', begin), names.size());
    const JinjaValue name = JinjaValue::constant(JinjaString(names.substr(begin, end - begin), Origin::kTemplate));
    TRY_ASSIGN(JinjaValue key, sort_key(heap, item, &name, case_sensitive));
    keys.push_back(std::move(key));
    begin = end + 1;
  }
  return heap.list(std::move(keys));
}

Value sort(JinjaHeap& heap, const JinjaValue& value, Arguments arguments) {
  TRY_ASSIGN(const auto given, jinja_bind("sort", arguments, {"reverse", "case_sensitive", "attribute"}, 0));
  TRY_ASSIGN(const auto list, jinja_iterate(heap, value));
  std::vector<JinjaPair> pairs;
  for (const JinjaValue& item : list->items) {
    TRY_ASSIGN(JinjaValue key, sort_keys(heap, item, given[2], flag(given[1])));
    pairs.emplace_back(std::move(key), item);
  }
  TRY(stable_sort(heap, pairs, flag(given[0])));
  return heap.list(values_of(pairs));
}

Value dictsort(JinjaHeap& heap, const JinjaValue& value, Arguments arguments) {
  TRY_ASSIGN(const auto given, jinja_bind("dictsort", arguments, {"case_sensitive", "by", "reverse"}, 0));
  if (value.is(JinjaKind::kUndefined)) return Error{Code::kInvalidArgument, value.why_undefined()};
  if (!value.is(JinjaKind::kDict)) {
    return make_error(Code::kInvalidArgument, "dictsort needs a dict, not '{}'", jinja_type_name(value));
  }
  const std::string by = given[1] == nullptr ? "key" : given[1]->is(JinjaKind::kString) ? given[1]->text() : "";
  if (by != "key" && by != "value") return make_error(Code::kInvalidArgument, "dictsort: by is 'key' or 'value'");
  const JinjaValue position = JinjaValue::integer(by == "key" ? 0 : 1);
  TRY_ASSIGN(const JinjaValue items, jinja_call_method(heap, value, "items", {}));
  TRY_ASSIGN(auto pairs, keyed(heap, items.as_list().items, &position, flag(given[0])));
  TRY(stable_sort(heap, pairs, flag(given[2])));
  return heap.list(values_of(pairs));
}

Value unique(JinjaHeap& heap, const JinjaValue& value, Arguments arguments) {
  TRY_ASSIGN(const auto given, jinja_bind("unique", arguments, {"case_sensitive", "attribute"}, 0));
  TRY_ASSIGN(const auto list, jinja_iterate(heap, value));
  TRY_ASSIGN(const auto pairs, keyed(heap, list->items, given[1], flag(given[0])));
  Items out, seen;
  for (const auto& [key, item] : pairs) {
    bool known = false;
    for (size_t i = 0; i < seen.size() && !known; ++i) {
      TRY_ASSIGN(known, jinja_equal(heap, seen[i], key));
    }
    if (known) continue;
    seen.push_back(key);
    out.push_back(item);
  }
  return heap.list(std::move(out), JinjaFlavour::kGenerator);
}

template <bool kMax>
Value extreme(JinjaHeap& heap, const JinjaValue& value, Arguments arguments) {
  TRY_ASSIGN(const auto given, jinja_bind(kMax ? "max" : "min", arguments, {"case_sensitive", "attribute"}, 0));
  TRY_ASSIGN(const auto list, jinja_iterate(heap, value));
  if (list->items.empty()) return JinjaValue::undefined("No aggregated item, sequence was empty.");
  TRY_ASSIGN(const auto pairs, keyed(heap, list->items, given[1], flag(given[0])));
  size_t best = 0;
  for (size_t i = 1; i < pairs.size(); ++i) {
    TRY_ASSIGN(const bool better, kMax ? jinja_less(heap, pairs[best].first, pairs[i].first)
                                       : jinja_less(heap, pairs[i].first, pairs[best].first));
    if (better) best = i;
  }
  return pairs[best].second;
}

Value sum(JinjaHeap& heap, const JinjaValue& value, Arguments arguments) {
  TRY_ASSIGN(const auto given, jinja_bind("sum", arguments, {"attribute", "start"}, 0));
  TRY_ASSIGN(const auto list, jinja_iterate(heap, value));
  JinjaValue total = given[1] == nullptr ? JinjaValue::integer(0) : *given[1];
  for (const JinjaValue& item : list->items) {
    TRY_ASSIGN(const JinjaValue term, by_path(heap, item, given[0]));
    TRY_ASSIGN(total, jinja_arithmetic(heap, "+", total, term));
  }
  return total;
}

Value first(JinjaHeap& heap, const JinjaValue& value, Arguments) {
  if (value.is_list(JinjaFlavour::kGenerator)) {
    JinjaListBody& list = value.as_list();
    if (list.taken < list.items.size()) return list.items[list.taken++];
    return JinjaValue::undefined("No first item, sequence was empty.");
  }
  if (value.is(JinjaKind::kString)) {
    if (value.text().empty()) return JinjaValue::undefined("No first item, sequence was empty.");
    return jinja_item(heap, value, JinjaValue::integer(0));
  }
  TRY_ASSIGN(const auto list, jinja_iterate(heap, value));
  if (list->items.empty()) return JinjaValue::undefined("No first item, sequence was empty.");
  return list->items[0];
}

Value last(JinjaHeap& heap, const JinjaValue& value, Arguments) {
  if (value.is_list(JinjaFlavour::kGenerator)) {
    return make_error(Code::kInvalidArgument, "last: a generator has no end. Hint: '|list' makes a list of it");
  }
  if (value.is(JinjaKind::kString) && !value.text().empty()) return jinja_item(heap, value, JinjaValue::integer(-1));
  TRY_ASSIGN(const auto list, jinja_iterate(heap, value));
  if (list->items.empty()) return JinjaValue::undefined("No last item, sequence was empty.");
  return list->items.back();
}

Value to_list(JinjaHeap& heap, const JinjaValue& value, Arguments) {
  TRY_ASSIGN(const auto list, jinja_iterate(heap, value));
  TRY_ASSIGN(JinjaValue out, heap.list(list->items));
  return out.mark_content(value.has_content());
}

Value items(JinjaHeap& heap, const JinjaValue& value, Arguments) {
  if (value.is(JinjaKind::kUndefined)) return heap.list({}, JinjaFlavour::kGenerator);
  if (!value.is(JinjaKind::kDict)) {
    return make_error(Code::kInvalidArgument, "items needs a dict, not '{}'", jinja_type_name(value));
  }
  TRY_ASSIGN(const JinjaValue pairs, jinja_call_method(heap, value, "items", {}));
  return heap.list(pairs.as_list().items, JinjaFlavour::kGenerator);
}

Value reverse(JinjaHeap& heap, const JinjaValue& value, Arguments) {
  if (value.is(JinjaKind::kString)) {
    return jinja_slice(heap, value, JinjaValue::none(), JinjaValue::none(), JinjaValue::integer(-1));
  }
  const bool was_generator = value.is_list(JinjaFlavour::kGenerator);
  TRY_ASSIGN(const auto list, jinja_iterate(heap, value));
  return heap.list(Items(list->items.rbegin(), list->items.rend()),
                   was_generator ? JinjaFlavour::kList : JinjaFlavour::kGenerator);
}

Value join(JinjaHeap& heap, const JinjaValue& value, Arguments arguments) {
  TRY_ASSIGN(const auto given, jinja_bind("join", arguments, {"d", "attribute"}, 0));
  JinjaString separator, out;
  if (given[0] != nullptr) {
    TRY_ASSIGN(separator, jinja_text(heap, *given[0]));
  }
  TRY_ASSIGN(const auto list, jinja_iterate(heap, value));
  for (size_t i = 0; i < list->items.size(); ++i) {
    TRY_ASSIGN(const JinjaValue item, by_path(heap, list->items[i], given[1]));
    TRY_ASSIGN(const JinjaString part, jinja_text(heap, item));
    const size_t bytes = part.footprint_bytes() + separator.footprint_bytes();
    TRY(heap.charge_bytes(bytes));
    TRY(heap.reserve(out.footprint_bytes() + bytes));
    if (i > 0) out.append(separator);
    out.append(part);
  }
  return heap.string(std::move(out));
}

// map('filter', arguments...) or map(attribute='a.b', default=...).
Value map(JinjaHeap& heap, const JinjaValue& value, Arguments arguments) {
  if (!value.truthy()) return heap.list({}, JinjaFlavour::kGenerator);  // none too, which is no list
  Items out;
  if (arguments.positional.empty()) {
    TRY_ASSIGN(const auto given, jinja_bind("map", arguments, {"attribute", "default"}, 1));
    TRY_ASSIGN(const auto list, jinja_iterate(heap, value));
    for (const JinjaValue& item : list->items) {
      TRY_ASSIGN(JinjaValue mapped, by_path(heap, item, given[0], given[1]));
      out.push_back(std::move(mapped));
    }
    return heap.list(std::move(out), JinjaFlavour::kGenerator);
  }
  TRY_ASSIGN(const JinjaString* name, jinja_to_string("map", &arguments.positional[0]));
  const JinjaFilter filter = jinja_find_filter(name->text());
  if (filter == nullptr) return make_error(Code::kUnsupported, "map: the filter '{}' is not supported", name->text());
  JinjaArguments rest = arguments;
  rest.positional.erase(rest.positional.begin());
  TRY_ASSIGN(const auto list, jinja_iterate(heap, value));
  for (const JinjaValue& item : list->items) {
    TRY(heap.charge(1));
    TRY_ASSIGN(JinjaValue mapped, filter(heap, item, rest));
    out.push_back(std::move(mapped));
  }
  return heap.list(std::move(out), JinjaFlavour::kGenerator);
}

// select('test', arguments...) and selectattr('a.b', 'test', arguments...), and what is left by them.
template <bool kAttribute, bool kWanted>
Value select(JinjaHeap& heap, const JinjaValue& value, Arguments arguments) {
  if (!value.truthy()) return heap.list({}, JinjaFlavour::kGenerator);
  JinjaArguments rest = arguments;
  JinjaValue attribute = JinjaValue::none();
  if (kAttribute) {
    if (rest.positional.empty()) return make_error(Code::kInvalidArgument, "selectattr needs the name of an attribute");
    attribute = rest.positional[0];
    rest.positional.erase(rest.positional.begin());
  }
  JinjaTest test = nullptr;
  if (!rest.positional.empty()) {
    TRY_ASSIGN(const JinjaString* name, jinja_to_string("select", &rest.positional[0]));
    test = jinja_find_test(name->text());
    if (test == nullptr) return make_error(Code::kUnsupported, "select: the test '{}' is not supported", name->text());
    rest.positional.erase(rest.positional.begin());
  }
  TRY_ASSIGN(const auto list, jinja_iterate(heap, value));
  Items out;
  for (const JinjaValue& item : list->items) {
    TRY(heap.charge(1));
    TRY_ASSIGN(const JinjaValue looked_at, by_path(heap, item, &attribute));
    bool holds = looked_at.truthy();
    if (test != nullptr) {
      TRY_ASSIGN(holds, test(heap, looked_at, rest));
    }
    if (holds == kWanted) out.push_back(item);
  }
  return heap.list(std::move(out), JinjaFlavour::kGenerator);
}

Value batch(JinjaHeap& heap, const JinjaValue& value, Arguments arguments) {
  TRY_ASSIGN(const auto given, jinja_bind("batch", arguments, {"linecount", "fill_with"}, 1));
  TRY_ASSIGN(const int64_t count, jinja_to_index("batch", given[0], 1));
  if (count < 1) return make_error(Code::kInvalidArgument, "batch needs a count of at least 1");
  TRY_ASSIGN(const auto list, jinja_iterate(heap, value));
  Items out, row;
  for (size_t i = 0; i < list->items.size(); ++i) {
    row.push_back(list->items[i]);
    const bool last = i + 1 == list->items.size();
    if (last && is_given(given[1])) {
      TRY(heap.reserve(static_cast<size_t>(std::min<int64_t>(count, INT64_MAX / 64)) * sizeof(JinjaValue)));
      row.resize(std::max(row.size(), static_cast<size_t>(count)), *given[1]);
    }
    if (!last && row.size() < static_cast<size_t>(count)) continue;
    TRY_ASSIGN(JinjaValue rows, heap.list(std::exchange(row, {})));
    out.push_back(std::move(rows));
  }
  return heap.list(std::move(out), JinjaFlavour::kGenerator);
}

Value groupby(JinjaHeap& heap, const JinjaValue& value, Arguments arguments) {
  TRY_ASSIGN(const auto given, jinja_bind("groupby", arguments, {"attribute", "default", "case_sensitive"}, 1));
  if (is_given(given[1])) return make_error(Code::kUnsupported, "groupby with a default is not supported");
  TRY_ASSIGN(const auto list, jinja_iterate(heap, value));
  TRY_ASSIGN(auto pairs, keyed(heap, list->items, given[0], flag(given[2])));
  TRY(stable_sort(heap, pairs, false));
  Items out;
  for (size_t begin = 0; begin < pairs.size();) {
    Items group;
    size_t end = begin;
    for (; end < pairs.size(); ++end) {
      TRY_ASSIGN(const bool same, jinja_equal(heap, pairs[begin].first, pairs[end].first));
      if (!same) break;
      group.push_back(pairs[end].second);
    }
    TRY_ASSIGN(JinjaValue key, by_path(heap, pairs[begin].second, given[0]));
    TRY_ASSIGN(JinjaValue members, heap.list(std::move(group)));
    TRY_ASSIGN(JinjaValue pair, heap.list({std::move(key), std::move(members)}, JinjaFlavour::kTuple));
    out.push_back(std::move(pair));
    begin = end;
  }
  return heap.list(std::move(out));
}

}  // namespace

std::map<std::string_view, JinjaFilter> jinja_list_filters() {
  return {
      {"batch", batch},
      {"dictsort", dictsort},
      {"first", first},
      {"groupby", groupby},
      {"items", items},
      {"join", join},
      {"last", last},
      {"list", to_list},
      {"map", map},
      {"max", extreme<true>},
      {"min", extreme<false>},
      {"reject", select<false, false>},
      {"rejectattr", select<true, false>},
      {"reverse", reverse},
      {"select", select<false, true>},
      {"selectattr", select<true, true>},
      {"sort", sort},
      {"sum", sum},
      {"unique", unique},
  };
}

}  // namespace westlake
