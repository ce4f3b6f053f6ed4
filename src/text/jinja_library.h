// What templates may call: filters (`|name`), tests (`is name`), methods of values, attributes, items and operators.
// Each does what Python or Jinja does, carries the origin of text along, and is metered by the heap. Messages have no
// place: the interpreter puts it in front.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "text/jinja_value.h"

namespace westlake {

struct JinjaArguments {
  std::vector<JinjaValue> positional;
  std::vector<std::pair<std::string, JinjaValue>> named;
};

using JinjaFilter = Result<JinjaValue> (*)(JinjaHeap& heap, const JinjaValue& value, const JinjaArguments& arguments);
using JinjaTest = Result<bool> (*)(JinjaHeap& heap, const JinjaValue& value, const JinjaArguments& arguments);

// Null when there is none of that name.
JinjaFilter jinja_find_filter(std::string_view name);
JinjaTest jinja_find_test(std::string_view name);
// Names for messages, joined by ", ".
std::string jinja_filter_names();
std::string jinja_test_names();

// The arguments by parameter, null where one is not given. Errors: too many, unknown or doubled ones, and fewer than
// `required`. The pointers live as long as `arguments`.
Result<std::vector<const JinjaValue*>> jinja_bind(std::string_view function, const JinjaArguments& arguments,
                                                  std::initializer_list<std::string_view> names, size_t required);

// Values read from arguments; null takes the default. Errors: kInvalidArgument.
Result<int64_t> jinja_to_index(std::string_view function, const JinjaValue* value, int64_t otherwise);
Result<const JinjaString*> jinja_to_string(std::string_view function, const JinjaValue* value);

// value.name: attributes and methods first, then items; value[key]: the other way round. Undefined when there is none.
// Errors: kInvalidArgument for an undefined value, kUnsupported for a method of Python that is not known here.
Result<JinjaValue> jinja_attribute(JinjaHeap& heap, const JinjaValue& value, std::string_view name);
Result<JinjaValue> jinja_item(JinjaHeap& heap, const JinjaValue& value, const JinjaValue& key);
// value[start:stop:step]; none and undefined stand for what is left out.
Result<JinjaValue> jinja_slice(JinjaHeap& heap, const JinjaValue& value, const JinjaValue& start,
                               const JinjaValue& stop, const JinjaValue& step);

bool jinja_has_method(const JinjaValue& value, std::string_view name);
// A method that would change a list or a dict: to templates it is undefined.
bool jinja_is_mutator(const JinjaValue& value, std::string_view name);
Result<JinjaValue> jinja_call_method(JinjaHeap& heap, const JinjaValue& receiver, const std::string& name,
                                     const JinjaArguments& arguments);

// `operation`: + - * / // % **
Result<JinjaValue> jinja_arithmetic(JinjaHeap& heap, std::string_view operation, const JinjaValue& a,
                                    const JinjaValue& b);
Result<JinjaValue> jinja_negate(const JinjaValue& value, std::string_view sign);
// value in container.
Result<bool> jinja_contains(JinjaHeap& heap, const JinjaValue& container, const JinjaValue& value);
// `operation`: == != < <= > >= in notin
Result<bool> jinja_compare(JinjaHeap& heap, std::string_view operation, const JinjaValue& a, const JinjaValue& b);
// len(value).
Result<size_t> jinja_length(const JinjaValue& value);

// format % values, as Python's str has it: %s %r %d %i %f %x and flags, width and precision.
Result<JinjaValue> jinja_percent_format(JinjaHeap& heap, const JinjaString& format, const JinjaValue& values);
// &, <, >, ' and " as HTML entities; what is Markup stays as it is.
Result<JinjaValue> jinja_escape_html(JinjaHeap& heap, const JinjaValue& value);

// Text operations that both filters and methods have.
JinjaString jinja_upper(const JinjaString& text);
JinjaString jinja_lower(const JinjaString& text);
JinjaString jinja_capitalize(const JinjaString& text);
Result<JinjaValue> jinja_replace(JinjaHeap& heap, const JinjaString& text, const JinjaString& from,
                                 const JinjaString& to, int64_t count);
Result<JinjaValue> jinja_strip(JinjaHeap& heap, const JinjaString& text, bool left, bool right,
                               const JinjaValue* characters);
Result<JinjaValue> jinja_center(JinjaHeap& heap, const JinjaString& text, int64_t width, std::string_view fill);

}  // namespace westlake
