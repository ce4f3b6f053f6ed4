// Tests: `value is name(arguments)`.
#include <algorithm>
#include <map>

#include "text/jinja_library.h"

namespace westlake {

namespace {

using Arguments = const JinjaArguments&;

template <JinjaKind kKind>
Result<bool> is_kind(JinjaHeap&, const JinjaValue& value, Arguments) {
  return value.is(kKind);
}

template <bool kWanted>
Result<bool> is_bool(JinjaHeap&, const JinjaValue& value, Arguments) {
  return value.is(JinjaKind::kBool) && value.as_bool() == kWanted;
}

Result<bool> is_defined(JinjaHeap&, const JinjaValue& value, Arguments) {
  return !value.is(JinjaKind::kUndefined);
}
Result<bool> is_number(JinjaHeap&, const JinjaValue& value, Arguments) {
  return value.is_number();
}

Result<bool> is_sequence(JinjaHeap&, const JinjaValue& value, Arguments) {
  if (value.is(JinjaKind::kString) || value.is(JinjaKind::kDict) || value.is(JinjaKind::kUndefined)) return true;
  return value.is_list(JinjaFlavour::kList) || value.is_list(JinjaFlavour::kTuple) ||
         value.is_list(JinjaFlavour::kRange);
}

Result<bool> is_iterable(JinjaHeap&, const JinjaValue& value, Arguments) {
  return value.is(JinjaKind::kString) || value.is(JinjaKind::kDict) || value.is(JinjaKind::kList) ||
         value.is(JinjaKind::kUndefined) || value.is(JinjaKind::kLoop);
}

Result<bool> is_callable(JinjaHeap&, const JinjaValue& value, Arguments) {
  return value.is(JinjaKind::kMacro) || value.is(JinjaKind::kMethod) || value.is(JinjaKind::kFunction) ||
         value.is(JinjaKind::kLoop) || value.is(JinjaKind::kUndefined);
}

Result<bool> remainder_is(JinjaHeap& heap, const JinjaValue& value, const JinjaValue& divisor, JinjaInt wanted) {
  TRY_ASSIGN(const JinjaValue rest, jinja_arithmetic(heap, "%", value, divisor));
  return jinja_equal(heap, rest, JinjaValue::integer(wanted));
}
Result<bool> is_odd(JinjaHeap& heap, const JinjaValue& value, Arguments) {
  return remainder_is(heap, value, JinjaValue::integer(2), 1);
}
Result<bool> is_even(JinjaHeap& heap, const JinjaValue& value, Arguments) {
  return remainder_is(heap, value, JinjaValue::integer(2), 0);
}
Result<bool> is_divisible(JinjaHeap& heap, const JinjaValue& value, Arguments arguments) {
  TRY_ASSIGN(const auto given, jinja_bind("divisibleby", arguments, {"num"}, 1));
  return remainder_is(heap, value, *given[0], 0);
}

template <const char* kOperation>
Result<bool> compares(JinjaHeap& heap, const JinjaValue& value, Arguments arguments) {
  TRY_ASSIGN(const auto given, jinja_bind(kOperation, arguments, {"other"}, 1));
  return jinja_compare(heap, kOperation, value, *given[0]);
}
constexpr char kEqual[] = "==", kUnequal[] = "!=", kLess[] = "<", kLessEqual[] = "<=", kGreater[] = ">",
               kGreaterEqual[] = ">=", kIn[] = "in";

Result<bool> is_same(JinjaHeap&, const JinjaValue& value, Arguments arguments) {
  TRY_ASSIGN(const auto given, jinja_bind("sameas", arguments, {"other"}, 1));
  return value.same_object(*given[0]);
}

template <const char* kMethod>
Result<bool> by_method(JinjaHeap& heap, const JinjaValue& value, Arguments) {
  TRY_ASSIGN(JinjaString text, jinja_text(heap, value));
  TRY_ASSIGN(const JinjaValue string, heap.string(std::move(text)));
  TRY_ASSIGN(const JinjaValue answer, jinja_call_method(heap, string, kMethod, {}));
  return answer.truthy();
}
constexpr char kIsLower[] = "islower", kIsUpper[] = "isupper";

Result<bool> is_escaped(JinjaHeap&, const JinjaValue& value, Arguments) {
  return value.is_markup();
}

Result<bool> is_filter(JinjaHeap&, const JinjaValue& value, Arguments) {
  return value.is(JinjaKind::kString) && jinja_find_filter(value.text()) != nullptr;
}
Result<bool> is_test(JinjaHeap&, const JinjaValue& value, Arguments) {
  return value.is(JinjaKind::kString) && jinja_find_test(value.text()) != nullptr;
}

const std::map<std::string_view, JinjaTest>& tests() {
  static const std::map<std::string_view, JinjaTest> table = {
      {"defined", is_defined},
      {"undefined", is_kind<JinjaKind::kUndefined>},
      {"none", is_kind<JinjaKind::kNone>},
      {"boolean", is_kind<JinjaKind::kBool>},
      {"true", is_bool<true>},
      {"false", is_bool<false>},
      {"integer", is_kind<JinjaKind::kInt>},
      {"float", is_kind<JinjaKind::kFloat>},
      {"number", is_number},
      {"string", is_kind<JinjaKind::kString>},
      {"mapping", is_kind<JinjaKind::kDict>},
      {"sequence", is_sequence},
      {"iterable", is_iterable},
      {"callable", is_callable},
      {"odd", is_odd},
      {"even", is_even},
      {"divisibleby", is_divisible},
      {"sameas", is_same},
      {"in", compares<kIn>},
      {"==", compares<kEqual>},
      {"eq", compares<kEqual>},
      {"equalto", compares<kEqual>},
      {"!=", compares<kUnequal>},
      {"ne", compares<kUnequal>},
      {"<", compares<kLess>},
      {"lt", compares<kLess>},
      {"lessthan", compares<kLess>},
      {"<=", compares<kLessEqual>},
      {"le", compares<kLessEqual>},
      {">", compares<kGreater>},
      {"gt", compares<kGreater>},
      {"greaterthan", compares<kGreater>},
      {">=", compares<kGreaterEqual>},
      {"ge", compares<kGreaterEqual>},
      {"lower", by_method<kIsLower>},
      {"upper", by_method<kIsUpper>},
      {"escaped", is_escaped},
      {"filter", is_filter},
      {"test", is_test},
  };
  return table;
}

}  // namespace

JinjaTest jinja_find_test(std::string_view name) {
  const auto found = tests().find(name);
  return found == tests().end() ? nullptr : found->second;
}

std::string jinja_test_names() {
  std::string out;
  for (const auto& [name, test] : tests()) {
    if (name[0] >= 'a') out += (out.empty() ? "" : ", ") + std::string(name);
  }
  return out;
}

}  // namespace westlake
