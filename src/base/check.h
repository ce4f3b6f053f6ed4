// CHECK(condition, format, args...): our own mistakes. Always on, prints the place, the condition and the values, then
// aborts. For what files, networks and users do wrong there is result.h.
#pragma once

#include <fmt/format.h>

#include <string>

namespace westlake {

[[noreturn]] void check_failed(const char* file, int line, const char* condition, const std::string& message);

}  // namespace westlake

#define CHECK(condition, ...)                                                                            \
  do {                                                                                                   \
    if (!(condition)) [[unlikely]]                                                                       \
      ::westlake::check_failed(__FILE__, __LINE__, #condition, fmt::format("" __VA_ARGS__));             \
  } while (false)
