// Methods of strings: their table, which jinja_methods.cc joins with those of dicts and lists.
#pragma once

#include <map>
#include <string_view>

#include "text/jinja_library.h"

namespace westlake {

using JinjaMethod = Result<JinjaValue> (*)(JinjaHeap& heap, const JinjaValue& receiver,
                                           const JinjaArguments& arguments);

const std::map<std::string_view, JinjaMethod>& jinja_string_methods();

}  // namespace westlake
