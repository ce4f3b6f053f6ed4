// Runs a program over the variables of one request.
// Idea: a tree walk. Output goes into JinjaStrings, so that a macro's or a set block's text keeps its origins when it
// is printed later. Everything that runs is counted by the heap (jinja_value.h) and by the depth of the walk.
#pragma once

#include <ctime>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/jinja_ast.h"
#include "text/jinja_value.h"

namespace westlake {

// The variables of one block. Owns: its values. Kept until the end when a macro was defined in it.
struct JinjaScope {
  JinjaScope* parent = nullptr;
  std::vector<std::pair<int, JinjaValue>> variables;
  bool captured = false;
};

struct JinjaMacro {
  const JinjaMacroDefinition* definition;
  JinjaScope* scope;  // where it was defined
};

class JinjaInterpreter {
 public:
  // Requires: `program` outlives the interpreter.
  JinjaInterpreter(const JinjaProgram& program, const JinjaLimits& limits, std::optional<std::tm> now);
  ~JinjaInterpreter();

  JinjaHeap& heap() { return heap_; }
  // A variable of the template; a name that it does not use is forgotten.
  void define(std::string_view name, JinjaValue value);
  // Requires: called once.
  Result<JinjaString> run();

 private:
  enum class Flow { kOn, kBreak, kContinue };
  using Value = Result<JinjaValue>;
  class ScopeOfBlock;

  // Statements (jinja_interpreter.cc).
  Result<Flow> run_body(const JinjaBody& body, JinjaScope& scope, JinjaString& out);
  Result<Flow> run_statement(const JinjaStatement& statement, JinjaScope& scope, JinjaString& out);
  Result<Flow> run_if(const JinjaStatement& statement, JinjaScope& scope, JinjaString& out);
  Result<Flow> run_for(const JinjaStatement& statement, JinjaScope& scope, JinjaString& out);
  Status run_set(const JinjaStatement& statement, JinjaScope& scope);
  Status run_block(const JinjaStatement& statement, JinjaScope& scope, JinjaString& out);
  Status run_call_block(const JinjaStatement& statement, JinjaScope& scope, JinjaString& out);
  Result<JinjaMacro*> make_macro(const JinjaMacroDefinition& definition, JinjaScope& scope);
  Status write(JinjaString& out, const JinjaString& text, JinjaPosition at);

  // Loops.
  Result<bool> fetch(JinjaLoop& loop, size_t count);
  Value loop_attribute(const JinjaValue& loop, std::string_view name);
  Value loop_method(JinjaLoop& loop, const std::string& name, const JinjaArguments& arguments);

  // Variables.
  Value look_up(int id, JinjaScope& scope);
  void assign(int id, JinjaValue value, JinjaScope& scope);
  Status assign_target(const JinjaExpression& target, JinjaValue value, JinjaScope& scope);

  // Expressions (jinja_evaluate.cc).
  Value evaluate(const JinjaExpression& node, JinjaScope& scope);
  Value dispatch(const JinjaExpression& node, JinjaScope& scope);
  Value evaluate_items(const JinjaExpression& node, JinjaScope& scope);
  Value evaluate_dict(const JinjaExpression& node, JinjaScope& scope);
  Value evaluate_attribute(const JinjaExpression& node, JinjaScope& scope);
  Value evaluate_item(const JinjaExpression& node, JinjaScope& scope);
  Value evaluate_slice(const JinjaExpression& node, JinjaScope& scope);
  Value evaluate_filter(const JinjaExpression& node, JinjaScope& scope);
  Value evaluate_test(const JinjaExpression& node, JinjaScope& scope);
  Value evaluate_concat(const JinjaExpression& node, JinjaScope& scope);
  Value evaluate_compare(const JinjaExpression& node, JinjaScope& scope);
  Value evaluate_condition(const JinjaExpression& node, JinjaScope& scope);
  Value evaluate_call(const JinjaExpression& node, JinjaScope& scope, JinjaMacro* caller = nullptr);
  Value apply_filter(const JinjaExpression& node, JinjaValue input, JinjaScope& scope);
  Value apply_block_filters(const JinjaExpression* node, JinjaValue input, JinjaScope& scope);
  Result<JinjaArguments> evaluate_arguments(const JinjaCallArguments* call, JinjaScope& scope);

  // Calls.
  Value call(const JinjaValue& callee, const JinjaArguments& arguments, JinjaPosition at);
  Value call_macro(const JinjaMacro& macro, const JinjaArguments& arguments, JinjaPosition at);
  Status bind_parameters(const JinjaMacro& macro, const JinjaArguments& arguments, JinjaScope& scope, JinjaPosition at);
  Status bind_rest(const JinjaMacro& macro, const JinjaArguments& arguments, const std::vector<bool>& used,
                   JinjaScope& scope);
  Value call_function(JinjaFunction function, const JinjaArguments& arguments);
  Value call_range(const JinjaArguments& arguments);
  Value call_dict(const JinjaArguments& arguments);
  Value call_namespace(const JinjaArguments& arguments);
  Value call_strftime(const JinjaArguments& arguments);

  Error placed(const Error& error, JinjaPosition at) const;
  template <typename T>
  Result<T> placed(Result<T> result, JinjaPosition at) const {
    if (result.ok()) return result;
    return placed(result.error(), at);
  }
  int id_of(std::string_view name) const;

  const JinjaProgram& program_;
  JinjaHeap heap_;
  std::optional<std::tm> now_;
  int depth_ = 0;
  int loop_id_, caller_id_, varargs_id_, kwargs_id_;  // -1 when the template does not use the name
  JinjaScope root_;
  std::vector<std::optional<JinjaValue>> root_values_;  // of the outermost scope, by id
  std::vector<std::unique_ptr<JinjaMacro>> macros_;
  std::vector<std::unique_ptr<JinjaScope>> captured_scopes_;
};

}  // namespace westlake
