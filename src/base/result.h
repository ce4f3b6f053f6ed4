// Result<T>: a value or an Error. Idea: what the world does wrong (files, network, users) is returned, never thrown;
// our own mistakes are CHECKs (check.h). A message says place, what was seen, what was expected, and a hint.
// Source: the shape of absl::StatusOr and leveldb's Status, cut down to what this program needs.
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "base/check.h"

namespace westlake {

enum class Code {
  kInvalidArgument,  // the caller's request is malformed: a flag, a field, an id out of range
  kNotFound,         // no such file, tensor, name
  kCorrupt,          // a file contradicts itself or its format
  kUnsupported,      // well formed, but not something this program does; never a near miss
  kIo,               // the system refused: permissions, full disk, cut connection
  kExhausted,        // memory, context or another stated limit
  kCancelled,        // the user asked to stop
};

// The word a user sees for a code ("corrupt", "not found" ...).
std::string_view code_name(Code code);

struct Error {
  Code code = Code::kInvalidArgument;
  std::string message;

  // The same error seen from further out: "place: message".
  Error at(std::string_view place) const { return {code, fmt::format("{}: {}", place, message)}; }
};

template <typename... Args>
Error make_error(Code code, fmt::format_string<Args...> format, Args&&... args) {
  return {code, fmt::format(format, std::forward<Args>(args)...)};
}

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}  // NOLINT: implicit on purpose
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  // Requires: ok().
  T& value() & {
    CHECK(ok(), "value() of an error: {}", error().message);
    return std::get<0>(state_);
  }
  const T& value() const& {
    CHECK(ok(), "value() of an error: {}", error().message);
    return std::get<0>(state_);
  }
  T&& value() && {
    CHECK(ok(), "value() of an error: {}", error().message);
    return std::get<0>(std::move(state_));
  }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

  // Requires: !ok().
  const Error& error() const { return std::get<1>(state_); }

 private:
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : failed_(true), error_(std::move(error)) {}  // NOLINT: implicit on purpose
  bool ok() const { return !failed_; }
  explicit operator bool() const { return ok(); }
  const Error& error() const { return error_; }

 private:
  bool failed_ = false;
  Error error_;
};

using Status = Result<void>;

#define WL_CONCAT_INNER(a, b) a##b
#define WL_CONCAT(a, b) WL_CONCAT_INNER(a, b)

// TRY(expression): returns the error of a Status or Result to the caller.
#define TRY(...)                                           \
  do {                                                     \
    if (auto try_status = (__VA_ARGS__); !try_status.ok()) \
      return try_status.error();                           \
  } while (false)

// TRY_ASSIGN(auto x, expression): x gets the value, or the error goes to the caller.
#define TRY_ASSIGN(target, ...) TRY_ASSIGN_INNER(WL_CONCAT(try_result_, __LINE__), target, __VA_ARGS__)
#define TRY_ASSIGN_INNER(name, target, ...) \
  auto name = (__VA_ARGS__);                \
  if (!name.ok()) return name.error();      \
  target = std::move(name).value()

}  // namespace westlake
