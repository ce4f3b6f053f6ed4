// A parsed template. Trees are of limited depth (jinja_parser.cc), so walking and freeing them may recurse.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "text/jinja_lexer.h"
#include "text/jinja_library.h"
#include "text/jinja_value.h"

namespace westlake {

struct JinjaExpression;
struct JinjaStatement;
using JinjaExpressionPtr = std::unique_ptr<JinjaExpression>;
using JinjaBody = std::vector<JinjaStatement>;

enum class JinjaNode : uint8_t {
  kConstant,    // value
  kName,        // name, id
  kList,        // operands
  kTuple,       // operands
  kDict,        // operands: key, value, key, value ...
  kAttribute,   // operands[0].name
  kItem,        // operands[0][operands[1]]
  kSlice,       // operands[0][operands[1] : operands[2] : operands[3]]; null where left out
  kCall,        // operands[0](call)
  kFilter,      // operands[0] | name(call); operands[0] is null in a filter block
  kTest,        // operands[0] is name(call)
  kSign,        // name operands[0]: - +
  kNot,         // not operands[0]
  kArithmetic,  // operands[0] name operands[1]
  kConcat,      // operands[0] ~ operands[1] ~ ...
  kCompare,     // operands[0] operations[0] operands[1] operations[1] ...
  kAnd,
  kOr,
  kCondition,        // operands[0] if operands[1] else operands[2]; null when there is no else
  kNamespaceTarget,  // name.attribute on the left of an assignment
};

struct JinjaCallArguments {
  std::vector<JinjaExpressionPtr> positional;
  std::vector<std::pair<std::string, JinjaExpressionPtr>> named;
  JinjaExpressionPtr star, double_star;
};

struct JinjaExpression {
  JinjaNode node = JinjaNode::kConstant;
  JinjaPosition at;
  int depth = 1;
  int id = -1;  // of a name: its index in JinjaProgram::names
  std::string name;
  std::string attribute;
  JinjaValue value;
  std::vector<JinjaExpressionPtr> operands;
  std::vector<std::string> operations;
  std::unique_ptr<JinjaCallArguments> call;
  JinjaFilter filter = nullptr;  // null when there is none of that name: an error once it is reached, as in Jinja
  JinjaTest test = nullptr;      // the same
};

enum class JinjaAction : uint8_t {
  kText,         // text
  kOutput,       // {{ expression }}
  kFor,          // for target in expression if condition: body, otherwise
  kIf,           // branches, otherwise
  kSet,          // set target = expression
  kSetBlock,     // set target | filter: body
  kMacro,        // macro
  kCallBlock,    // call(parameters) expression: body is the macro `caller`
  kFilterBlock,  // filter expression: body
  kScope,        // generation, with: targets = values, then body in a scope of its own
  kBreak,
  kContinue,
};

struct JinjaParameter {
  int id;
  std::string name;
  JinjaExpressionPtr otherwise;  // null: must be given
};

// A macro's definition; JinjaMacro (interpreter) binds it to the scope it was met in.
struct JinjaMacroDefinition {
  std::string name;
  std::vector<JinjaParameter> parameters;
  JinjaBody body;
  bool takes_varargs = false, takes_kwargs = false, takes_caller = false;  // the body reads these names
};

struct JinjaStatement {
  JinjaAction action = JinjaAction::kText;
  JinjaPosition at;
  JinjaString text;
  JinjaExpressionPtr expression, target, condition;
  JinjaBody body, otherwise;
  std::vector<std::pair<JinjaExpressionPtr, JinjaBody>> branches;
  std::vector<std::pair<JinjaExpressionPtr, JinjaExpressionPtr>> assignments;
  std::unique_ptr<JinjaMacroDefinition> macro;
};

struct JinjaProgram {
  std::string place;
  JinjaBody body;
  std::vector<std::string> names;  // every name that the template reads or sets
};

}  // namespace westlake
