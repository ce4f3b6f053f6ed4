// Recursive descent over the tokens, with the precedence of Jinja:
//   x if c else y < or < and < not < comparisons < + - < ~ < * / // % < ** < unary + - < . [] () < | is
#include "text/jinja_expression_parser.h"

#include <charconv>
#include <cstdlib>

namespace westlake {

using Expression = Result<JinjaExpressionPtr>;

namespace {

constexpr std::string_view kComparisons[] = {"==", "!=", "<", "<=", ">", ">="};

}  // namespace

Expression JinjaExpressionParser::condition() {
  const Nested nested(&depth_);
  if (depth_ > kJinjaExpressionDepth) return too_deep();
  TRY_ASSIGN(JinjaExpressionPtr out, any_of());
  while (now().is_name("if")) {
    const JinjaPosition at = now().at;
    step();
    TRY_ASSIGN(JinjaExpressionPtr test, any_of());
    JinjaExpressionPtr otherwise;
    if (skip_name("else")) {
      TRY_ASSIGN(otherwise, condition());
    }
    TRY_ASSIGN(out, join(JinjaNode::kCondition, at, std::move(out), std::move(test), std::move(otherwise)));
  }
  return out;
}

Expression JinjaExpressionParser::any_of() {
  TRY_ASSIGN(JinjaExpressionPtr left, all_of());
  while (now().is_name("or")) {
    const JinjaPosition at = now().at;
    step();
    TRY_ASSIGN(JinjaExpressionPtr right, all_of());
    TRY_ASSIGN(left, join(JinjaNode::kOr, at, std::move(left), std::move(right)));
  }
  return left;
}

Expression JinjaExpressionParser::all_of() {
  TRY_ASSIGN(JinjaExpressionPtr left, negation());
  while (now().is_name("and")) {
    const JinjaPosition at = now().at;
    step();
    TRY_ASSIGN(JinjaExpressionPtr right, negation());
    TRY_ASSIGN(left, join(JinjaNode::kAnd, at, std::move(left), std::move(right)));
  }
  return left;
}

Expression JinjaExpressionParser::negation() {
  if (!now().is_name("not")) return comparison();
  const Nested nested(&depth_);
  if (depth_ > kJinjaExpressionDepth) return too_deep();
  const JinjaPosition at = now().at;
  step();
  TRY_ASSIGN(JinjaExpressionPtr operand, negation());
  return join(JinjaNode::kNot, at, std::move(operand));
}

Expression JinjaExpressionParser::comparison() {
  const JinjaPosition at = now().at;
  TRY_ASSIGN(JinjaExpressionPtr first, sum());
  std::vector<JinjaExpressionPtr> operands;
  std::vector<std::string> operations;
  while (true) {
    std::string operation;
    if (now().kind == JinjaTokenKind::kOperator &&
        std::find(std::begin(kComparisons), std::end(kComparisons), now().text) != std::end(kComparisons)) {
      operation = now().text;
    } else if (now().is_name("in")) {
      operation = "in";
    } else if (now().is_name("not") && ahead().is_name("in")) {
      operation = "notin";
      step();
    } else {
      break;
    }
    step();
    if (operands.empty()) operands.push_back(std::move(first));
    TRY_ASSIGN(JinjaExpressionPtr right, sum());
    operands.push_back(std::move(right));
    operations.push_back(std::move(operation));
  }
  if (operands.empty()) return first;
  TRY_ASSIGN(JinjaExpressionPtr out, make(JinjaNode::kCompare, at, std::move(operands)));
  out->operations = std::move(operations);
  return out;
}

Expression JinjaExpressionParser::arithmetic(Level operand, std::initializer_list<std::string_view> operations) {
  TRY_ASSIGN(JinjaExpressionPtr left, (this->*operand)());
  while (now().kind == JinjaTokenKind::kOperator &&
         std::find(operations.begin(), operations.end(), now().text) != operations.end()) {
    const JinjaPosition at = now().at;
    std::string operation = now().text;
    step();
    TRY_ASSIGN(JinjaExpressionPtr right, (this->*operand)());
    TRY_ASSIGN(left, join(JinjaNode::kArithmetic, at, std::move(left), std::move(right)));
    left->name = std::move(operation);
  }
  return left;
}

Expression JinjaExpressionParser::concatenation() {
  const JinjaPosition at = now().at;
  TRY_ASSIGN(JinjaExpressionPtr first, product());
  if (!now().is_operator("~")) return first;
  std::vector<JinjaExpressionPtr> operands;
  operands.push_back(std::move(first));
  while (skip_operator("~")) {
    TRY_ASSIGN(JinjaExpressionPtr next, product());
    operands.push_back(std::move(next));
  }
  return make(JinjaNode::kConcat, at, std::move(operands));
}

Expression JinjaExpressionParser::sign(bool with_filter) {
  JinjaExpressionPtr out;
  if (now().is_operator("-") || now().is_operator("+")) {
    const Nested nested(&depth_);
    if (depth_ > kJinjaExpressionDepth) return too_deep();
    const JinjaPosition at = now().at;
    std::string operation = now().text;
    step();
    TRY_ASSIGN(JinjaExpressionPtr operand, sign(false));
    TRY_ASSIGN(out, join(JinjaNode::kSign, at, std::move(operand)));
    out->name = std::move(operation);
  } else {
    TRY_ASSIGN(out, primary());
  }
  TRY_ASSIGN(out, postfix(std::move(out)));
  return with_filter ? filters_and_tests(std::move(out)) : Expression(std::move(out));
}

Expression JinjaExpressionParser::primary() {
  const JinjaToken token = now();
  switch (token.kind) {
    case JinjaTokenKind::kName: {
      step();
      const std::string& name = token.text;
      if (name == "true" || name == "True") return constant(token.at, JinjaValue::boolean(true));
      if (name == "false" || name == "False") return constant(token.at, JinjaValue::boolean(false));
      if (name == "none" || name == "None") return constant(token.at, JinjaValue::none());
      return name_node(token.at, name);
    }
    case JinjaTokenKind::kString: {
      std::string text;
      for (; now().kind == JinjaTokenKind::kString; step()) text += now().text;
      return constant(token.at, JinjaValue::constant(JinjaString(std::move(text), Origin::kTemplate)));
    }
    case JinjaTokenKind::kInteger:
    case JinjaTokenKind::kFloat:
      step();
      return number(token);
    default:
      break;
  }
  if (token.is_operator("(")) {
    step();
    TRY_ASSIGN(JinjaExpressionPtr out, tuple(true, true, {}));
    TRY(expect_operator(")"));
    return out;
  }
  if (token.is_operator("[")) return list();
  if (token.is_operator("{")) return dict();
  return unexpected("an expression");
}

Expression JinjaExpressionParser::number(const JinjaToken& token) {
  if (token.kind == JinjaTokenKind::kFloat) {
    return constant(token.at, JinjaValue::number(std::strtod(token.text.c_str(), nullptr)));
  }
  std::string_view digits = token.text;
  int base = 10;
  if (digits.size() > 2 && digits[1] > '9') {
    base = digits[1] == 'x' ? 16 : digits[1] == 'o' ? 8 : 2;
    digits.remove_prefix(2);
  } else if (digits.size() > 1 && digits[0] == '0' && digits.find_first_not_of('0') != digits.npos) {
    return fail(Code::kCorrupt, token.at, "the integer '{}' has a leading zero", digits);
  }
  int64_t value = 0;
  const auto end = std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
  if (end.ec != std::errc()) {
    return fail(Code::kUnsupported, token.at, "the integer '{}' has more than 64 bits", token.text.substr(0, 40));
  }
  return constant(token.at, JinjaValue::integer(value));
}

bool JinjaExpressionParser::at_tuple_end(std::string_view end_name) const {
  return now().kind == JinjaTokenKind::kVariableEnd || now().kind == JinjaTokenKind::kBlockEnd ||
         now().is_operator(")") || (!end_name.empty() && now().is_name(end_name));
}

// One expression, or several with commas between them.
Expression JinjaExpressionParser::tuple(bool with_condition, bool may_be_empty, std::string_view end_name) {
  const JinjaPosition at = now().at;
  std::vector<JinjaExpressionPtr> items;
  bool is_tuple = false;
  while (true) {
    if (!items.empty()) TRY(expect_operator(","));
    if (at_tuple_end(end_name)) break;
    TRY_ASSIGN(JinjaExpressionPtr item, expression(with_condition));
    items.push_back(std::move(item));
    if (!now().is_operator(",")) break;
    is_tuple = true;
  }
  if (!is_tuple && !items.empty()) return std::move(items[0]);
  if (!is_tuple && !may_be_empty) return unexpected("an expression");
  return make(JinjaNode::kTuple, at, std::move(items));
}

Expression JinjaExpressionParser::list() {
  const JinjaPosition at = now().at;
  step();
  std::vector<JinjaExpressionPtr> items;
  while (!now().is_operator("]")) {
    if (!items.empty()) TRY(expect_operator(","));
    if (now().is_operator("]")) break;
    TRY_ASSIGN(JinjaExpressionPtr item, expression());
    items.push_back(std::move(item));
  }
  TRY(expect_operator("]"));
  return make(JinjaNode::kList, at, std::move(items));
}

Expression JinjaExpressionParser::dict() {
  const JinjaPosition at = now().at;
  step();
  std::vector<JinjaExpressionPtr> items;
  while (!now().is_operator("}")) {
    if (!items.empty()) TRY(expect_operator(","));
    if (now().is_operator("}")) break;
    TRY_ASSIGN(JinjaExpressionPtr key, expression());
    TRY(expect_operator(":"));
    TRY_ASSIGN(JinjaExpressionPtr value, expression());
    items.push_back(std::move(key));
    items.push_back(std::move(value));
  }
  TRY(expect_operator("}"));
  return make(JinjaNode::kDict, at, std::move(items));
}

Expression JinjaExpressionParser::postfix(JinjaExpressionPtr out) {
  while (true) {
    const JinjaPosition at = now().at;
    if (skip_operator(".")) {
      TRY_ASSIGN(out, attribute(std::move(out), at));
    } else if (skip_operator("[")) {
      TRY_ASSIGN(out, subscript(std::move(out), at));
    } else if (now().is_operator("(")) {
      TRY_ASSIGN(out, call(std::move(out)));
    } else {
      return out;
    }
  }
}

Expression JinjaExpressionParser::attribute(JinjaExpressionPtr object, JinjaPosition at) {
  const JinjaToken token = now();
  if (token.kind == JinjaTokenKind::kInteger) {
    step();
    TRY_ASSIGN(JinjaExpressionPtr index, number(token));
    return join(JinjaNode::kItem, at, std::move(object), std::move(index));
  }
  TRY_ASSIGN(std::string name, any_name());
  TRY_ASSIGN(JinjaExpressionPtr out, join(JinjaNode::kAttribute, at, std::move(object)));
  out->name = std::move(name);
  return out;
}

Expression JinjaExpressionParser::subscript(JinjaExpressionPtr object, JinjaPosition at) {
  JinjaExpressionPtr parts[3];
  int colons = 0;
  while (!now().is_operator("]")) {
    if (skip_operator(":")) {
      if (++colons > 2) return unexpected("']'");
    } else if (now().is_operator(",")) {
      return fail(Code::kUnsupported, now().at, "an index with a comma is not supported");
    } else {
      if (parts[colons] != nullptr) return unexpected("']'");
      TRY_ASSIGN(parts[colons], expression());
    }
  }
  step();
  if (colons > 0) {
    return join(JinjaNode::kSlice, at, std::move(object), std::move(parts[0]), std::move(parts[1]),
                std::move(parts[2]));
  }
  if (parts[0] == nullptr) return fail(Code::kCorrupt, at, "the index is empty");
  return join(JinjaNode::kItem, at, std::move(object), std::move(parts[0]));
}

Expression JinjaExpressionParser::filters_and_tests(JinjaExpressionPtr out) {
  while (true) {
    if (now().is_operator("|")) {
      step();
      TRY_ASSIGN(out, filter(std::move(out)));
    } else if (now().is_name("is")) {
      TRY_ASSIGN(out, test(std::move(out)));
    } else if (now().is_operator("(")) {
      TRY_ASSIGN(out, call(std::move(out)));
    } else {
      return out;
    }
  }
}

Result<std::string> JinjaExpressionParser::dotted_name() {
  TRY_ASSIGN(std::string name, any_name());
  while (skip_operator(".")) {
    TRY_ASSIGN(const std::string part, any_name());
    name += "." + part;
  }
  return name;
}

// Behind the bar; `input` is null in a filter block.
Expression JinjaExpressionParser::filter(JinjaExpressionPtr input) {
  const JinjaPosition at = now().at;
  TRY_ASSIGN(std::string name, dotted_name());
  TRY_ASSIGN(JinjaExpressionPtr out, join(JinjaNode::kFilter, at, std::move(input)));
  out->filter = jinja_find_filter(name);
  out->name = std::move(name);
  TRY_ASSIGN(out->call, arguments_if_any(out->depth));
  return out;
}

Expression JinjaExpressionParser::test(JinjaExpressionPtr input) {
  step();
  const bool negated = skip_name("not");
  const JinjaPosition at = now().at;
  TRY_ASSIGN(std::string name, dotted_name());
  TRY_ASSIGN(JinjaExpressionPtr out, join(JinjaNode::kTest, at, std::move(input)));
  out->test = jinja_find_test(name);
  out->name = std::move(name);
  TRY_ASSIGN(out->call, arguments_if_any(out->depth));
  if (out->call == nullptr && starts_test_argument()) {
    if (now().is_name("is")) return fail(Code::kCorrupt, now().at, "tests cannot be chained with 'is'");
    TRY_ASSIGN(JinjaExpressionPtr argument, primary());
    TRY_ASSIGN(argument, postfix(std::move(argument)));
    out->depth = std::max(out->depth, argument->depth + 1);
    out->call = std::make_unique<JinjaCallArguments>();
    out->call->positional.push_back(std::move(argument));
  }
  return negated ? join(JinjaNode::kNot, at, std::move(out)) : Expression(std::move(out));
}

bool JinjaExpressionParser::starts_test_argument() const {
  switch (now().kind) {
    case JinjaTokenKind::kName:
      return !now().is_name("else") && !now().is_name("or") && !now().is_name("and");
    case JinjaTokenKind::kString:
    case JinjaTokenKind::kInteger:
    case JinjaTokenKind::kFloat:
      return true;
    default:
      return now().is_operator("[") || now().is_operator("{");
  }
}

Expression JinjaExpressionParser::call(JinjaExpressionPtr callee) {
  TRY_ASSIGN(JinjaExpressionPtr out, join(JinjaNode::kCall, now().at, std::move(callee)));
  TRY_ASSIGN(out->call, arguments_if_any(out->depth));
  return out;
}

Result<std::unique_ptr<JinjaCallArguments>> JinjaExpressionParser::arguments_if_any(int& depth) {
  if (!now().is_operator("(")) return std::unique_ptr<JinjaCallArguments>();
  step();
  auto out = std::make_unique<JinjaCallArguments>();
  for (bool first = true; !now().is_operator(")"); first = false) {
    if (!first) TRY(expect_operator(","));
    if (now().is_operator(")")) break;
    TRY(argument(*out, depth));
  }
  TRY(expect_operator(")"));
  if (depth > kJinjaExpressionDepth) return too_deep();
  return out;
}

Status JinjaExpressionParser::argument(JinjaCallArguments& out, int& depth) {
  const JinjaPosition at = now().at;
  const auto misplaced = [&](bool wrong) {
    return wrong ? Status(fail(Code::kCorrupt, at, "the arguments of the call are in the wrong order")) : Status();
  };
  const auto take = [&](JinjaExpressionPtr& slot) -> Status {
    TRY_ASSIGN(slot, expression());
    depth = std::max(depth, slot->depth + 1);
    return {};
  };
  if (skip_operator("**")) {
    TRY(misplaced(out.double_star != nullptr));
    return take(out.double_star);
  }
  if (skip_operator("*")) {
    TRY(misplaced(out.star != nullptr || out.double_star != nullptr));
    return take(out.star);
  }
  if (now().kind == JinjaTokenKind::kName && ahead().is_operator("=")) {
    TRY(misplaced(out.double_star != nullptr));
    std::string name = now().text;
    step();
    step();
    out.named.emplace_back(std::move(name), nullptr);
    return take(out.named.back().second);
  }
  TRY(misplaced(out.star != nullptr || out.double_star != nullptr || !out.named.empty()));
  out.positional.emplace_back();
  return take(out.positional.back());
}

}  // namespace westlake
