// Statements, loops and variables.
#include "text/jinja_interpreter.h"

#include <algorithm>

#include "text/jinja_frame.h"

namespace westlake {

JinjaInterpreter::JinjaInterpreter(const JinjaProgram& program, const JinjaLimits& limits, std::optional<std::tm> now)
    : program_(program),
      heap_(limits),
      now_(now),
      loop_id_(id_of("loop")),
      caller_id_(id_of("caller")),
      varargs_id_(id_of("varargs")),
      kwargs_id_(id_of("kwargs")),
      root_values_(program.names.size()) {
  define("range", JinjaValue::of(JinjaFunction::kRange));
  define("dict", JinjaValue::of(JinjaFunction::kDict));
  define("namespace", JinjaValue::of(JinjaFunction::kNamespace));
  define("raise_exception", JinjaValue::of(JinjaFunction::kRaiseException));
  define("strftime_now", JinjaValue::of(JinjaFunction::kStrftimeNow));
}

JinjaInterpreter::~JinjaInterpreter() = default;

int JinjaInterpreter::id_of(std::string_view name) const {
  const auto found = std::find(program_.names.begin(), program_.names.end(), name);
  return found == program_.names.end() ? -1 : static_cast<int>(found - program_.names.begin());
}

void JinjaInterpreter::define(std::string_view name, JinjaValue value) {
  if (const int id = id_of(name); id >= 0) root_values_[static_cast<size_t>(id)] = std::move(value);
}

Error JinjaInterpreter::placed(const Error& error, JinjaPosition at) const {
  return error.at(jinja_place(program_.place, at));
}

Result<JinjaString> JinjaInterpreter::run() {
  JinjaString out;
  auto flow = run_body(program_.body, root_, out);
  if (!flow.ok()) return flow.error();
  return out;
}

// --- variables ---

Result<JinjaValue> JinjaInterpreter::look_up(int id, JinjaScope& scope) {
  size_t looked_at = 1;
  for (JinjaScope* place = &scope; place != nullptr; place = place->parent) {
    if (place == &root_) {
      const auto& value = root_values_[static_cast<size_t>(id)];
      if (value.has_value()) return *value;
      break;
    }
    looked_at += place->variables.size();
    for (const auto& [name, value] : place->variables) {
      if (name == id) return value;
    }
    TRY(heap_.charge(looked_at / 16));
  }
  return JinjaValue::undefined(fmt::format("'{}' is undefined", program_.names[static_cast<size_t>(id)]));
}

void JinjaInterpreter::assign(int id, JinjaValue value, JinjaScope& scope) {
  if (&scope == &root_) {
    root_values_[static_cast<size_t>(id)] = std::move(value);
    return;
  }
  for (auto& [name, slot] : scope.variables) {
    if (name != id) continue;
    slot = std::move(value);
    return;
  }
  scope.variables.emplace_back(id, std::move(value));
}

Status JinjaInterpreter::assign_target(const JinjaExpression& target, JinjaValue value, JinjaScope& scope) {
  if (target.node == JinjaNode::kName) {
    TRY(heap_.charge(1 + scope.variables.size() / 16));
    assign(target.id, std::move(value), scope);
    return {};
  }
  if (target.node == JinjaNode::kNamespaceTarget) {
    TRY_ASSIGN(const JinjaValue space, look_up(target.id, scope));
    if (!space.is(JinjaKind::kNamespace)) {
      return placed(make_error(Code::kInvalidArgument, "cannot assign '{}.{}': '{}' is no namespace", target.name,
                               target.attribute, target.name),
                    target.at);
    }
    if (target.attribute.starts_with('_')) {
      return placed(make_error(Code::kInvalidArgument, "a namespace has no attribute '{}'", target.attribute),
                    target.at);
    }
    auto done = heap_.set(space.as_namespace(), target.attribute, std::move(value));
    return done.ok() ? done : Status(placed(done.error(), target.at));
  }
  TRY_ASSIGN(const auto items, placed(jinja_iterate(heap_, value), target.at));
  if (items->items.size() != target.operands.size()) {
    return placed(
        make_error(Code::kInvalidArgument, "{} values for {} names", items->items.size(), target.operands.size()),
        target.at);
  }
  for (size_t i = 0; i < target.operands.size(); ++i) {
    TRY(assign_target(*target.operands[i], items->items[i], scope));
  }
  return {};
}

// --- statements ---

Status JinjaInterpreter::write(JinjaString& out, const JinjaString& text, JinjaPosition at) {
  const size_t limit = heap_.limits().output_bytes;
  if (out.size() + text.size() > limit) {
    return placed(make_error(Code::kExhausted, "the text is longer than {} bytes", limit), at);
  }
  if (auto charged = heap_.charge_bytes(text.footprint_bytes()); !charged.ok()) return placed(charged.error(), at);
  if (auto room = heap_.reserve(out.footprint_bytes()); !room.ok()) return placed(room.error(), at);
  out.append(text);
  return {};
}

Result<JinjaInterpreter::Flow> JinjaInterpreter::run_body(const JinjaBody& body, JinjaScope& scope, JinjaString& out) {
  if (depth_ >= heap_.limits().depth) {
    return make_error(Code::kExhausted, "{}: blocks and calls nest more than {} deep", program_.place,
                      heap_.limits().depth);
  }
  ++depth_;
  Result<Flow> flow = Flow::kOn;
  for (const JinjaStatement& statement : body) {
    flow = run_statement(statement, scope, out);
    if (!flow.ok() || *flow != Flow::kOn) break;
  }
  --depth_;
  return flow;
}

Result<JinjaInterpreter::Flow> JinjaInterpreter::run_statement(const JinjaStatement& statement, JinjaScope& scope,
                                                               JinjaString& out) {
  switch (statement.action) {
    case JinjaAction::kText:
      TRY(write(out, statement.text, statement.at));
      break;
    case JinjaAction::kOutput: {
      TRY_ASSIGN(const JinjaValue value, evaluate(*statement.expression, scope));
      if (value.is(JinjaKind::kString)) {
        TRY(write(out, value.as_string(), statement.at));
      } else {
        TRY_ASSIGN(const JinjaString text, placed(jinja_text(heap_, value), statement.expression->at));
        TRY(write(out, text, statement.at));
      }
      break;
    }
    case JinjaAction::kIf:
      return run_if(statement, scope, out);
    case JinjaAction::kFor:
      return run_for(statement, scope, out);
    case JinjaAction::kSet:
    case JinjaAction::kSetBlock:
      TRY(run_set(statement, scope));
      break;
    case JinjaAction::kMacro: {
      TRY_ASSIGN(JinjaMacro * macro, make_macro(*statement.macro, scope));
      assign(statement.target->id, JinjaValue::of(macro), scope);
      break;
    }
    case JinjaAction::kCallBlock:
      TRY(run_call_block(statement, scope, out));
      break;
    case JinjaAction::kFilterBlock:
    case JinjaAction::kScope:
      TRY(run_block(statement, scope, out));
      break;
    case JinjaAction::kBreak:
      return Flow::kBreak;
    case JinjaAction::kContinue:
      return Flow::kContinue;
  }
  return Flow::kOn;
}

Result<JinjaInterpreter::Flow> JinjaInterpreter::run_if(const JinjaStatement& statement, JinjaScope& scope,
                                                        JinjaString& out) {
  for (const auto& [test, branch] : statement.branches) {
    TRY_ASSIGN(const JinjaValue value, evaluate(*test, scope));
    if (value.truthy()) return run_body(branch, scope, out);
  }
  return run_body(statement.otherwise, scope, out);
}

Status JinjaInterpreter::run_set(const JinjaStatement& statement, JinjaScope& scope) {
  if (statement.action == JinjaAction::kSet) {
    TRY_ASSIGN(JinjaValue value, evaluate(*statement.expression, scope));
    return assign_target(*statement.target, std::move(value), scope);
  }
  JinjaString text;
  {
    ScopeOfBlock inner(this, &scope);
    auto flow = run_body(statement.body, *inner, text);
    if (!flow.ok()) return flow.error();
  }
  TRY_ASSIGN(JinjaValue value, placed(heap_.string(std::move(text)), statement.at));
  TRY_ASSIGN(value, apply_block_filters(statement.expression.get(), std::move(value), scope));
  return assign_target(*statement.target, std::move(value), scope);
}

// filter, with and generation: a body in a scope of its own.
Status JinjaInterpreter::run_block(const JinjaStatement& statement, JinjaScope& scope, JinjaString& out) {
  ScopeOfBlock inner(this, &scope);
  for (const auto& [target, expression] : statement.assignments) {
    TRY_ASSIGN(JinjaValue value, evaluate(*expression, scope));
    TRY(assign_target(*target, std::move(value), *inner));
  }
  if (statement.action == JinjaAction::kScope) {
    auto flow = run_body(statement.body, *inner, out);
    return flow.ok() ? Status() : Status(flow.error());
  }
  JinjaString text;
  auto flow = run_body(statement.body, *inner, text);
  if (!flow.ok()) return flow.error();
  TRY_ASSIGN(JinjaValue value, placed(heap_.string(std::move(text)), statement.at));
  TRY_ASSIGN(value, apply_block_filters(statement.expression.get(), std::move(value), scope));
  TRY_ASSIGN(const JinjaString filtered, placed(jinja_text(heap_, value), statement.at));
  return write(out, filtered, statement.at);
}

Status JinjaInterpreter::run_call_block(const JinjaStatement& statement, JinjaScope& scope, JinjaString& out) {
  TRY_ASSIGN(JinjaMacro * caller, make_macro(*statement.macro, scope));
  TRY_ASSIGN(const JinjaValue value, evaluate_call(*statement.expression, scope, caller));
  TRY_ASSIGN(const JinjaString text, placed(jinja_text(heap_, value), statement.at));
  return write(out, text, statement.at);
}

Result<JinjaMacro*> JinjaInterpreter::make_macro(const JinjaMacroDefinition& definition, JinjaScope& scope) {
  TRY(heap_.hold(sizeof(JinjaMacro) + sizeof(JinjaScope)));
  for (JinjaScope* place = &scope; place != nullptr && !place->captured; place = place->parent) {
    TRY(heap_.hold(sizeof(JinjaScope)));
    place->captured = true;
  }
  macros_.push_back(std::make_unique<JinjaMacro>(JinjaMacro{&definition, &scope}));
  return macros_.back().get();
}

// --- loops ---

// Whether the loop has at least `count` items; its condition is asked no further than that.
Result<bool> JinjaInterpreter::fetch(JinjaLoop& loop, size_t count) {
  if (loop.statement->condition == nullptr) return count <= loop.source->items.size();
  while (loop.passed.size() < count && loop.taken < loop.source->items.size()) {
    const JinjaValue item = loop.source->items[loop.taken++];
    ScopeOfBlock inner(this, loop.outer);
    TRY_ASSIGN(const JinjaValue chosen, [&]() -> Value {
      TRY(assign_target(*loop.statement->target, item, *inner));
      return evaluate(*loop.statement->condition, *inner);
    }());
    if (!chosen.truthy()) continue;
    TRY(heap_.reserve((loop.passed.size() + 1) * sizeof(JinjaValue)));
    loop.passed.push_back(item);
  }
  return loop.passed.size() >= count;
}

namespace {

const JinjaValue& item_of(const JinjaLoop& loop, size_t index) {
  return loop.statement->condition == nullptr ? loop.source->items[index] : loop.passed[index];
}

}  // namespace

Result<JinjaInterpreter::Flow> JinjaInterpreter::run_for(const JinjaStatement& statement, JinjaScope& scope,
                                                         JinjaString& out) {
  TRY_ASSIGN(const JinjaValue iterable, evaluate(*statement.expression, scope));
  auto loop = std::make_shared<JinjaLoop>();
  loop->statement = &statement;
  loop->outer = &scope;
  TRY_ASSIGN(loop->source, placed(jinja_iterate(heap_, iterable), statement.expression->at));
  bool completed = false;  // a round ran to its end: Jinja's `else` looks at nothing else
  Status failure;
  {
    ScopeOfBlock inner(this, &scope);
    for (;; ++loop->index0) {
      auto more = fetch(*loop, loop->index0 + 1);
      if (!more.ok()) failure = more.error();
      if (!more.ok() || !*more) break;
      inner.renew();
      if (loop_id_ >= 0) assign(loop_id_, JinjaValue::of(loop), *inner);
      failure = assign_target(*statement.target, item_of(*loop, loop->index0), *inner);
      if (failure.ok()) failure = placed(heap_.charge(1), statement.at);
      if (!failure.ok()) break;
      auto flow = run_body(statement.body, *inner, out);
      if (!flow.ok()) failure = flow.error();
      if (!flow.ok() || *flow == Flow::kBreak) break;
      completed = completed || *flow == Flow::kOn;
    }
  }
  loop->ended = true;
  loop->passed.clear();
  loop->changed.reset();
  loop->source.reset();
  if (!failure.ok()) return failure.error();
  if (completed || statement.otherwise.empty()) return Flow::kOn;
  ScopeOfBlock inner(this, &scope);
  return run_body(statement.otherwise, *inner, out);
}

Result<JinjaValue> JinjaInterpreter::loop_attribute(const JinjaValue& value, std::string_view name) {
  JinjaLoop& loop = value.as_loop();
  if (loop.ended) return make_error(Code::kUnsupported, "'loop' is used after the end of its loop");
  const auto number = [](size_t n) { return JinjaValue::integer(static_cast<JinjaInt>(n)); };
  if (name == "index") return number(loop.index0 + 1);
  if (name == "index0") return number(loop.index0);
  if (name == "first") return JinjaValue::boolean(loop.index0 == 0);
  if (name == "depth") return number(1);
  if (name == "depth0") return number(0);
  if (name == "previtem") {
    if (loop.index0 == 0) return JinjaValue::undefined("there is no previous item");
    return item_of(loop, loop.index0 - 1);
  }
  if (name == "last" || name == "nextitem") {
    TRY_ASSIGN(const bool more, fetch(loop, loop.index0 + 2));
    if (name == "last") return JinjaValue::boolean(!more);
    if (!more) return JinjaValue::undefined("there is no next item");
    return item_of(loop, loop.index0 + 1);
  }
  if (name == "length" || name == "revindex" || name == "revindex0") {
    TRY_ASSIGN([[maybe_unused]] const bool all, fetch(loop, loop.source->items.size()));
    const size_t length = loop.statement->condition == nullptr ? loop.source->items.size() : loop.passed.size();
    return number(name == "length" ? length : length - loop.index0 - (name == "revindex" ? 0 : 1));
  }
  if (name == "cycle" || name == "changed") return JinjaValue::method(value, std::string(name));
  return make_error(Code::kUnsupported, "'loop.{}' is not supported", name);
}

Result<JinjaValue> JinjaInterpreter::loop_method(JinjaLoop& loop, const std::string& name,
                                                 const JinjaArguments& arguments) {
  if (loop.ended) return make_error(Code::kUnsupported, "'loop' is used after the end of its loop");
  if (name == "cycle") {
    if (arguments.positional.empty()) return make_error(Code::kInvalidArgument, "loop.cycle needs values");
    return arguments.positional[loop.index0 % arguments.positional.size()];
  }
  TRY_ASSIGN(JinjaValue values, heap_.list(arguments.positional, JinjaFlavour::kTuple));
  bool same = false;
  if (loop.changed.has_value()) {
    TRY_ASSIGN(same, jinja_equal(heap_, *loop.changed, values));
  }
  loop.changed = std::move(values);
  return JinjaValue::boolean(!same);
}

}  // namespace westlake
