// The template as tokens: data between the tags, and the words inside them.
// Idea: Jinja's own rules, with the options that transformers sets: trim_blocks (the newline after a block tag goes),
// lstrip_blocks (white space before a block tag that opens its line goes), keep_trailing_newline off; `-` and `+` at a
// tag overrule them. Source: the documentation and the behaviour of Jinja 3.1.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace westlake {

struct JinjaPosition {
  uint32_t line = 1, column = 1;  // column in characters
};

enum class JinjaTokenKind : uint8_t {
  kData,
  kVariableBegin,
  kVariableEnd,
  kBlockBegin,
  kBlockEnd,
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd,
};

struct JinjaToken {
  JinjaTokenKind kind = JinjaTokenKind::kEnd;
  JinjaPosition at;
  std::string text;  // of a string: with its escapes resolved; of a number: without underscores

  bool is_operator(std::string_view name) const { return kind == JinjaTokenKind::kOperator && text == name; }
  bool is_name(std::string_view name) const { return kind == JinjaTokenKind::kName && text == name; }
};

// "place:12:5".
std::string jinja_place(std::string_view place, JinjaPosition at);
// The token as messages show it.
std::string jinja_describe(const JinjaToken& token);

// Ends with one kEnd token. Errors: kCorrupt with place:line:column.
Result<std::vector<JinjaToken>> jinja_tokens(std::string_view source, std::string_view place);

}  // namespace westlake
