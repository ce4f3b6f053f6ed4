// Filters on lists and dicts: their table, which jinja_filters.cc joins with its own.
#pragma once

#include <map>
#include <string_view>

#include "text/jinja_library.h"

namespace westlake {

std::map<std::string_view, JinjaFilter> jinja_list_filters();

}  // namespace westlake
