// The half of the parser that reads expressions; jinja_parser.cc adds the tags.
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja_parser.h"

namespace westlake {

class JinjaExpressionParser {
 protected:
  using Expression = Result<JinjaExpressionPtr>;
  using Level = Expression (JinjaExpressionParser::*)();

  JinjaExpressionParser(std::vector<JinjaToken> tokens, std::string_view place)
      : tokens_(std::move(tokens)), place_(place) {}

  // --- tokens ---

  const JinjaToken& now() const { return tokens_[at_]; }
  const JinjaToken& ahead() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  void step() { at_ = std::min(at_ + 1, tokens_.size() - 1); }
  bool skip_operator(std::string_view name) {
    const bool found = now().is_operator(name);
    if (found) step();
    return found;
  }
  bool skip_name(std::string_view name) {
    const bool found = now().is_name(name);
    if (found) step();
    return found;
  }

  template <typename... Args>
  Error fail(Code code, JinjaPosition at, fmt::format_string<Args...> format, Args&&... args) const {
    return make_error(code, "{}: {}", jinja_place(place_, at), fmt::format(format, std::forward<Args>(args)...));
  }
  Error unexpected(std::string_view expected) const {
    return fail(Code::kCorrupt, now().at, "unexpected {}, expected {}", jinja_describe(now()), expected);
  }
  Status expect_operator(std::string_view name) {
    if (skip_operator(name)) return {};
    return unexpected(fmt::format("'{}'", name));
  }
  Status expect_name(std::string_view name) {
    if (skip_name(name)) return {};
    return unexpected(fmt::format("'{}'", name));
  }
  Status expect_end_of_tag() {
    if (now().kind != JinjaTokenKind::kBlockEnd) return unexpected("'%}'");
    step();
    return {};
  }
  Result<std::string> any_name() {
    if (now().kind != JinjaTokenKind::kName) return unexpected("a name");
    std::string name = now().text;
    step();
    return name;
  }

  // --- nodes ---

  // Counts recursion of the parser itself, which parentheses, signs and blocks drive.
  class Nested {
   public:
    explicit Nested(int* depth) : depth_(depth) { ++*depth_; }
    ~Nested() { --*depth_; }

   private:
    int* depth_;
  };

  Error too_deep() const {
    return fail(Code::kExhausted, now().at, "expressions nest more than {} deep", kJinjaExpressionDepth);
  }

  Expression make(JinjaNode node, JinjaPosition at, std::vector<JinjaExpressionPtr> operands = {}) {
    if (++nodes_ > kJinjaNodes) return fail(Code::kExhausted, at, "the template has more than {} nodes", kJinjaNodes);
    auto out = std::make_unique<JinjaExpression>();
    out->node = node;
    out->at = at;
    for (const auto& operand : operands) {
      if (operand != nullptr) out->depth = std::max(out->depth, operand->depth + 1);
    }
    out->operands = std::move(operands);
    if (out->depth > kJinjaExpressionDepth) return too_deep();
    return out;
  }
  template <typename... Operands>
  Expression join(JinjaNode node, JinjaPosition at, Operands... operands) {
    std::vector<JinjaExpressionPtr> list;
    (list.push_back(std::move(operands)), ...);
    return make(node, at, std::move(list));
  }

  Expression constant(JinjaPosition at, JinjaValue value) {
    TRY_ASSIGN(JinjaExpressionPtr out, make(JinjaNode::kConstant, at));
    out->value = std::move(value);
    return out;
  }

  int id_of(const std::string& name) { return ids_.emplace(name, static_cast<int>(ids_.size())).first->second; }

  Expression name_node(JinjaPosition at, const std::string& name) {
    if (name == "self" || name == "super") return fail(Code::kUnsupported, at, "'{}' is not supported", name);
    TRY_ASSIGN(JinjaExpressionPtr out, make(JinjaNode::kName, at));
    out->name = name;
    out->id = id_of(name);
    if (macro_ != nullptr) {
      macro_->takes_varargs |= name == "varargs";
      macro_->takes_kwargs |= name == "kwargs";
      macro_->takes_caller |= name == "caller";
    }
    return out;
  }

  // Expressions, loosest first. `tuple` reads one expression, or several with commas between them.
  Expression tuple(bool with_condition, bool may_be_empty, std::string_view end_name);
  Expression expression(bool with_condition = true) { return with_condition ? condition() : any_of(); }
  Expression condition();
  Expression any_of();
  Expression all_of();
  Expression negation();
  Expression comparison();
  Expression arithmetic(Level operand, std::initializer_list<std::string_view> operations);
  Expression sum() { return arithmetic(&JinjaExpressionParser::concatenation, {"+", "-"}); }
  Expression concatenation();
  Expression product() { return arithmetic(&JinjaExpressionParser::power, {"*", "/", "//", "%"}); }
  Expression power() { return arithmetic(&JinjaExpressionParser::signed_operand, {"**"}); }
  Expression signed_operand() { return sign(true); }
  Expression sign(bool with_filter);
  Expression primary();
  Expression number(const JinjaToken& token);
  Expression list();
  Expression dict();
  Expression postfix(JinjaExpressionPtr out);
  Expression attribute(JinjaExpressionPtr object, JinjaPosition at);
  Expression subscript(JinjaExpressionPtr object, JinjaPosition at);
  Expression filters_and_tests(JinjaExpressionPtr out);
  // Behind the bar; `input` is null in a filter block.
  Expression filter(JinjaExpressionPtr input);
  Expression test(JinjaExpressionPtr input);
  Expression call(JinjaExpressionPtr callee);
  bool at_tuple_end(std::string_view end_name) const;
  bool starts_test_argument() const;
  Result<std::string> dotted_name();
  // Null when no parenthesis stands here; `depth` is raised to what the arguments need.
  Result<std::unique_ptr<JinjaCallArguments>> arguments_if_any(int& depth);
  Status argument(JinjaCallArguments& out, int& depth);

  std::vector<JinjaToken> tokens_;
  std::string place_;
  size_t at_ = 0;
  size_t nodes_ = 0;
  int depth_ = 0;
  JinjaMacroDefinition* macro_ = nullptr;  // whose body is being read
  std::map<std::string, int> ids_;
};

}  // namespace westlake
