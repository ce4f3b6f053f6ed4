// Template text -> program.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "text/jinja_ast.h"

namespace westlake {

// Published chat templates have up to some 30 KB; these bounds keep a hostile one from taking memory or the stack.
inline constexpr size_t kJinjaSourceBytes = 512 << 10;
inline constexpr size_t kJinjaNodes = 100'000;
inline constexpr int kJinjaExpressionDepth = 200;
inline constexpr int kJinjaBlockDepth = 60;

// Errors with place:line:column: kCorrupt for what is no Jinja, kUnsupported for a tag, filter or test that is not
// known here (it is named), kExhausted for the bounds above.
Result<std::shared_ptr<const JinjaProgram>> jinja_parse(std::string_view source, std::string_view place);

}  // namespace westlake
