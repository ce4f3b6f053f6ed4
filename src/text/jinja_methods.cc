// Methods of dicts and lists, and the calls of all methods. Those that would change a list or a dict are refused, as
// transformers' sandbox refuses them.
#include "text/jinja_methods.h"

#include <algorithm>

namespace westlake {
namespace {

using Arguments = const JinjaArguments&;
using Value = Result<JinjaValue>;

// --- dict ---

Value get(JinjaHeap& heap, const JinjaValue& self, Arguments arguments) {
  TRY_ASSIGN(const auto given, jinja_bind("get", arguments, {"key", "default"}, 1));
  TRY_ASSIGN(const JinjaValue* found, jinja_find(heap, self.as_dict(), *given[0]));
  if (found != nullptr) return *found;
  return given[1] == nullptr ? JinjaValue::none() : *given[1];
}

Value items(JinjaHeap& heap, const JinjaValue& self, Arguments) {
  std::vector<JinjaValue> out;
  for (const JinjaPair& item : self.as_dict().items) {
    TRY_ASSIGN(JinjaValue pair, heap.list({item.first, item.second}, JinjaFlavour::kTuple));
    out.push_back(std::move(pair));
  }
  TRY_ASSIGN(JinjaValue list, heap.list(std::move(out), JinjaFlavour::kItems));
  return list.mark_content(self.has_content());
}

template <bool kKeys>
Value keys_or_values(JinjaHeap& heap, const JinjaValue& self, Arguments) {
  std::vector<JinjaValue> out;
  for (const JinjaPair& item : self.as_dict().items) out.push_back(kKeys ? item.first : item.second);
  TRY_ASSIGN(JinjaValue list, heap.list(std::move(out), kKeys ? JinjaFlavour::kKeys : JinjaFlavour::kValues));
  return list.mark_content(self.has_content());
}

Value copy(JinjaHeap&, const JinjaValue& self, Arguments) {
  return self;
}

// --- list, tuple, range ---

Value list_index(JinjaHeap& heap, const JinjaValue& self, Arguments arguments) {
  TRY_ASSIGN(const auto given, jinja_bind("index", arguments, {"value"}, 1));
  const auto& list = self.as_list().items;
  for (size_t i = 0; i < list.size(); ++i) {
    TRY_ASSIGN(const bool same, jinja_equal(heap, list[i], *given[0]));
    if (same) return JinjaValue::integer(static_cast<JinjaInt>(i));
  }
  return make_error(Code::kInvalidArgument, "index: the value is not in the list");
}

Value list_count(JinjaHeap& heap, const JinjaValue& self, Arguments arguments) {
  TRY_ASSIGN(const auto given, jinja_bind("count", arguments, {"value"}, 1));
  JinjaInt found = 0;
  for (const JinjaValue& item : self.as_list().items) {
    TRY_ASSIGN(const bool same, jinja_equal(heap, item, *given[0]));
    found += same ? 1 : 0;
  }
  return JinjaValue::integer(found);
}

const std::map<std::string_view, JinjaMethod>& dict_methods() {
  static const std::map<std::string_view, JinjaMethod> methods = {
      {"get", get}, {"items", items}, {"keys", keys_or_values<true>}, {"values", keys_or_values<false>}, {"copy", copy},
  };
  return methods;
}

const std::map<std::string_view, JinjaMethod>& list_methods() {
  static const std::map<std::string_view, JinjaMethod> methods = {
      {"index", list_index},
      {"count", list_count},
      {"copy", copy},
  };
  return methods;
}

// What Python has beyond those: an error, not an undefined value.
constexpr std::string_view kStringOthers[] = {"encode",      "expandtabs", "format_map", "isascii",  "isidentifier",
                                              "isprintable", "istitle",    "maketrans",  "swapcase", "translate"};
constexpr std::string_view kDictChanges[] = {"clear", "pop", "popitem", "setdefault", "update"};
constexpr std::string_view kListChanges[] = {"append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"};

template <size_t kSize>
bool among(const std::string_view (&names)[kSize], std::string_view name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

bool is_sequence(const JinjaValue& value) {
  return value.is_list(JinjaFlavour::kList) || value.is_list(JinjaFlavour::kTuple) ||
         value.is_list(JinjaFlavour::kRange);
}

}  // namespace

bool jinja_has_method(const JinjaValue& value, std::string_view name) {
  if (value.is(JinjaKind::kString)) return jinja_string_methods().contains(name) || among(kStringOthers, name);
  if (value.is(JinjaKind::kDict)) return dict_methods().contains(name);
  if (!is_sequence(value)) return false;
  return value.is_list(JinjaFlavour::kList) ? list_methods().contains(name) : name == "index" || name == "count";
}

bool jinja_is_mutator(const JinjaValue& value, std::string_view name) {
  return value.is(JinjaKind::kDict) ? among(kDictChanges, name)
                                    : value.is_list(JinjaFlavour::kList) && among(kListChanges, name);
}

Result<JinjaValue> jinja_call_method(JinjaHeap& heap, const JinjaValue& receiver, const std::string& name,
                                     const JinjaArguments& arguments) {
  TRY(heap.charge(1));
  const auto& methods = receiver.is(JinjaKind::kString) ? jinja_string_methods()
                        : receiver.is(JinjaKind::kDict) ? dict_methods()
                                                        : list_methods();
  const auto found = methods.find(name);
  if (found != methods.end()) return found->second(heap, receiver, arguments);
  return make_error(Code::kUnsupported, "the method '{}' of {} is not supported", name, jinja_type_name(receiver));
}

}  // namespace westlake
