// Tags: blocks, assignments, macros; expressions are read by jinja_expression_parser.cc.
#include "text/jinja_parser.h"

#include <algorithm>

#include "text/jinja_expression_parser.h"

namespace westlake {

namespace {

constexpr std::string_view kTags = "break, call, continue, filter, for, generation, if, macro, print, raw, set, with";

class Parser : JinjaExpressionParser {
 public:
  Parser(std::vector<JinjaToken> tokens, std::string_view place) : JinjaExpressionParser(std::move(tokens), place) {}

  Result<std::shared_ptr<const JinjaProgram>> run() {
    auto program = std::make_shared<JinjaProgram>();
    TRY_ASSIGN(program->body, body({}));
    program->place = place_;
    program->names.resize(ids_.size());
    for (const auto& [name, id] : ids_) program->names[static_cast<size_t>(id)] = name;
    return std::shared_ptr<const JinjaProgram>(std::move(program));
  }

 private:
  // Statements up to one of the tags `ends`, whose name is left as the current token; none: up to the template's end.
  Result<JinjaBody> body(std::initializer_list<std::string_view> ends) {
    const Nested nested(&blocks_);
    if (blocks_ > kJinjaBlockDepth) {
      return fail(Code::kExhausted, now().at, "blocks nest more than {} deep", kJinjaBlockDepth);
    }
    JinjaBody out;
    while (true) {
      const JinjaToken& token = now();
      if (++nodes_ > kJinjaNodes) {
        return fail(Code::kExhausted, token.at, "the template has more than {} nodes", kJinjaNodes);
      }
      if (token.kind == JinjaTokenKind::kEnd) {
        if (ends.size() == 0) return out;
        return unexpected(fmt::format("'{{% {} %}}'", fmt::join(ends, " %}' or '{% ")));
      }
      JinjaStatement statement;
      statement.at = token.at;
      if (token.kind == JinjaTokenKind::kData) {
        statement.text = JinjaString(token.text, Origin::kTemplate);
        step();
      } else if (token.kind == JinjaTokenKind::kVariableBegin) {
        step();
        statement.action = JinjaAction::kOutput;
        TRY_ASSIGN(statement.expression, tuple(true, false, {}));
        if (now().kind != JinjaTokenKind::kVariableEnd) return unexpected("'}}'");
        step();
      } else {
        step();
        if (now().kind != JinjaTokenKind::kName) return unexpected("the name of a tag");
        if (std::find(ends.begin(), ends.end(), now().text) != ends.end()) return out;
        TRY(tag(statement));
      }
      out.push_back(std::move(statement));
    }
  }

  Status tag(JinjaStatement& out) {
    const std::string name = now().text;
    out.at = now().at;
    step();
    if (name == "for") return for_tag(out);
    if (name == "if") return if_tag(out);
    if (name == "set") return set_tag(out);
    if (name == "macro") return macro_tag(out);
    if (name == "call") return call_tag(out);
    if (name == "filter") return filter_tag(out);
    if (name == "with") return with_tag(out);
    if (name == "generation") {
      out.action = JinjaAction::kScope;
      TRY(expect_end_of_tag());
      TRY_ASSIGN(out.body, function_body("endgeneration"));
      return expect_end_of_tag();
    }
    if (name == "break" || name == "continue") {
      if (loops_ == 0) return fail(Code::kCorrupt, out.at, "'{}' outside of a loop", name);
      out.action = name == "break" ? JinjaAction::kBreak : JinjaAction::kContinue;
      return expect_end_of_tag();
    }
    if (name == "print") return print_tag(out);
    if (name.starts_with("end") || name == "else" || name == "elif") {
      return fail(Code::kCorrupt, out.at, "the tag '{}' closes nothing that is open here", name);
    }
    return fail(Code::kUnsupported, out.at, "the tag '{}' is not supported. Hint: known are {}", name, kTags);
  }

  Status print_tag(JinjaStatement& out) {
    out.action = JinjaAction::kOutput;
    std::vector<JinjaExpressionPtr> items;
    while (now().kind != JinjaTokenKind::kBlockEnd) {
      if (!items.empty()) TRY(expect_operator(","));
      TRY_ASSIGN(JinjaExpressionPtr item, expression());
      items.push_back(std::move(item));
    }
    TRY_ASSIGN(out.expression, make(JinjaNode::kConcat, out.at, std::move(items)));
    return expect_end_of_tag();
  }

  // A body in which `break` and `continue` cannot reach a loop outside.
  Result<JinjaBody> function_body(std::string_view end) {
    const int loops = std::exchange(loops_, 0);
    auto out = body({end});
    loops_ = loops;
    if (out.ok()) step();
    return out;
  }

  // A name, a namespace's attribute or several with commas.
  Expression target(bool with_namespace, std::string_view end_name) {
    const JinjaPosition at = now().at;
    std::vector<JinjaExpressionPtr> items;
    bool is_tuple = false;
    while (true) {
      if (!items.empty()) TRY(expect_operator(","));
      if (at_tuple_end(end_name) || now().is_operator("=")) break;
      TRY_ASSIGN(JinjaExpressionPtr item, one_target(with_namespace));
      items.push_back(std::move(item));
      if (!now().is_operator(",")) break;
      is_tuple = true;
    }
    if (!is_tuple && !items.empty()) return std::move(items[0]);
    if (items.empty()) return unexpected("a name to assign to");
    return make(JinjaNode::kTuple, at, std::move(items));
  }

  Expression one_target(bool with_namespace) {
    const JinjaPosition at = now().at;
    if (skip_operator("(")) {
      const Nested nested(&depth_);
      if (depth_ > kJinjaExpressionDepth) return too_deep();
      TRY_ASSIGN(JinjaExpressionPtr out, target(with_namespace, {}));
      TRY(expect_operator(")"));
      return out;
    }
    TRY_ASSIGN(const std::string name, any_name());
    static constexpr std::string_view kReserved[] = {"true", "false", "none", "True", "False", "None"};
    if (std::find(std::begin(kReserved), std::end(kReserved), name) != std::end(kReserved)) {
      return fail(Code::kCorrupt, at, "cannot assign to '{}'", name);
    }
    TRY_ASSIGN(JinjaExpressionPtr out, name_node(at, name));
    if (with_namespace && skip_operator(".")) {
      out->node = JinjaNode::kNamespaceTarget;
      TRY_ASSIGN(out->attribute, any_name());
    }
    return out;
  }

  Status for_tag(JinjaStatement& out) {
    out.action = JinjaAction::kFor;
    TRY_ASSIGN(out.target, target(false, "in"));
    TRY(expect_name("in"));
    TRY_ASSIGN(out.expression, tuple(false, false, "recursive"));
    if (skip_name("if")) {
      TRY_ASSIGN(out.condition, expression());
    }
    if (now().is_name("recursive")) {
      return fail(Code::kUnsupported, now().at, "'recursive' loops are not supported");
    }
    TRY(expect_end_of_tag());
    ++loops_;
    TRY_ASSIGN(out.body, body({"else", "endfor"}));
    --loops_;
    if (skip_name("else")) {
      TRY(expect_end_of_tag());
      TRY_ASSIGN(out.otherwise, body({"endfor"}));
    }
    step();
    return expect_end_of_tag();
  }

  Status if_tag(JinjaStatement& out) {
    out.action = JinjaAction::kIf;
    do {
      TRY_ASSIGN(JinjaExpressionPtr test, tuple(false, false, {}));
      TRY(expect_end_of_tag());
      TRY_ASSIGN(JinjaBody branch, body({"elif", "else", "endif"}));
      out.branches.emplace_back(std::move(test), std::move(branch));
    } while (skip_name("elif"));
    if (skip_name("else")) {
      TRY(expect_end_of_tag());
      TRY_ASSIGN(out.otherwise, body({"endif"}));
    }
    step();
    return expect_end_of_tag();
  }

  Status set_tag(JinjaStatement& out) {
    TRY_ASSIGN(out.target, target(true, {}));
    if (skip_operator("=")) {
      out.action = JinjaAction::kSet;
      TRY_ASSIGN(out.expression, tuple(true, false, {}));
      return expect_end_of_tag();
    }
    out.action = JinjaAction::kSetBlock;
    while (skip_operator("|")) {
      TRY_ASSIGN(out.expression, filter(std::move(out.expression)));
    }
    TRY(expect_end_of_tag());
    TRY_ASSIGN(out.body, body({"endset"}));
    step();
    return expect_end_of_tag();
  }

  Status filter_tag(JinjaStatement& out) {
    out.action = JinjaAction::kFilterBlock;
    do {
      TRY_ASSIGN(out.expression, filter(std::move(out.expression)));
    } while (skip_operator("|"));
    TRY(expect_end_of_tag());
    TRY_ASSIGN(out.body, body({"endfilter"}));
    step();
    return expect_end_of_tag();
  }

  Status with_tag(JinjaStatement& out) {
    out.action = JinjaAction::kScope;
    while (now().kind != JinjaTokenKind::kBlockEnd) {
      if (!out.assignments.empty()) TRY(expect_operator(","));
      TRY_ASSIGN(JinjaExpressionPtr name, one_target(false));
      TRY(expect_operator("="));
      TRY_ASSIGN(JinjaExpressionPtr value, expression());
      out.assignments.emplace_back(std::move(name), std::move(value));
    }
    step();
    TRY_ASSIGN(out.body, body({"endwith"}));
    step();
    return expect_end_of_tag();
  }

  // (a, b=1): optional for a call block.
  Status parameters(JinjaMacroDefinition& out) {
    TRY(expect_operator("("));
    while (!now().is_operator(")")) {
      if (!out.parameters.empty()) TRY(expect_operator(","));
      const JinjaPosition at = now().at;
      TRY_ASSIGN(std::string name, any_name());
      JinjaParameter parameter{id_of(name), name, nullptr};
      if (skip_operator("=")) {
        TRY_ASSIGN(parameter.otherwise, expression());
      } else if (!out.parameters.empty() && out.parameters.back().otherwise != nullptr) {
        return fail(Code::kCorrupt, at, "the parameter '{}' needs a default, as the one before it has one", name);
      }
      out.parameters.push_back(std::move(parameter));
    }
    step();
    return {};
  }

  Status macro_body(JinjaMacroDefinition& definition, std::string_view end) {
    JinjaMacroDefinition* outer = std::exchange(macro_, &definition);
    auto out = function_body(end);
    macro_ = outer;
    TRY_ASSIGN(definition.body, std::move(out));
    return {};
  }

  Status macro_tag(JinjaStatement& out) {
    out.action = JinjaAction::kMacro;
    out.macro = std::make_unique<JinjaMacroDefinition>();
    const JinjaPosition at = now().at;
    TRY_ASSIGN(out.macro->name, any_name());
    TRY_ASSIGN(out.target, name_node(at, out.macro->name));
    TRY(parameters(*out.macro));
    TRY(expect_end_of_tag());
    TRY(macro_body(*out.macro, "endmacro"));
    return expect_end_of_tag();
  }

  Status call_tag(JinjaStatement& out) {
    out.action = JinjaAction::kCallBlock;
    out.macro = std::make_unique<JinjaMacroDefinition>();
    out.macro->name = "caller";
    if (now().is_operator("(")) TRY(parameters(*out.macro));
    TRY_ASSIGN(out.expression, expression());
    if (out.expression->node != JinjaNode::kCall) {
      return fail(Code::kCorrupt, out.at, "the tag 'call' needs a call of a macro");
    }
    TRY(expect_end_of_tag());
    TRY(macro_body(*out.macro, "endcall"));
    return expect_end_of_tag();
  }

  int blocks_ = 0, loops_ = 0;
};

}  // namespace

Result<std::shared_ptr<const JinjaProgram>> jinja_parse(std::string_view source, std::string_view place) {
  if (source.size() > kJinjaSourceBytes) {
    return make_error(Code::kExhausted, "{}: the template has {} bytes, at most {}", place, source.size(),
                      kJinjaSourceBytes);
  }
  TRY_ASSIGN(std::vector<JinjaToken> tokens, jinja_tokens(source, place));
  return Parser(std::move(tokens), place).run();
}

}  // namespace westlake
