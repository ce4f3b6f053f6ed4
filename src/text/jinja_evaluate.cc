// Expressions and calls.
#include <algorithm>
#include <ctime>

#include "text/jinja_frame.h"
#include "text/jinja_interpreter.h"

namespace westlake {

using Value = Result<JinjaValue>;

Value JinjaInterpreter::evaluate(const JinjaExpression& node, JinjaScope& scope) {
  if (depth_ >= heap_.limits().depth) {
    return placed(make_error(Code::kExhausted, "blocks and calls nest more than {} deep", heap_.limits().depth),
                  node.at);
  }
  if (auto charged = heap_.charge(1); !charged.ok()) return placed(charged.error(), node.at);
  ++depth_;
  Value result = dispatch(node, scope);
  --depth_;
  return result;
}

Value JinjaInterpreter::dispatch(const JinjaExpression& node, JinjaScope& scope) {
  switch (node.node) {
    case JinjaNode::kConstant:
      return node.value;
    case JinjaNode::kName:
      return placed(look_up(node.id, scope), node.at);
    case JinjaNode::kList:
    case JinjaNode::kTuple:
      return evaluate_items(node, scope);
    case JinjaNode::kDict:
      return evaluate_dict(node, scope);
    case JinjaNode::kAttribute:
      return evaluate_attribute(node, scope);
    case JinjaNode::kItem:
      return evaluate_item(node, scope);
    case JinjaNode::kSlice:
      return evaluate_slice(node, scope);
    case JinjaNode::kCall:
      return evaluate_call(node, scope);
    case JinjaNode::kFilter:
      return evaluate_filter(node, scope);
    case JinjaNode::kTest:
      return evaluate_test(node, scope);
    case JinjaNode::kSign: {
      TRY_ASSIGN(const JinjaValue value, evaluate(*node.operands[0], scope));
      return placed(jinja_negate(value, node.name), node.at);
    }
    case JinjaNode::kNot: {
      TRY_ASSIGN(const JinjaValue value, evaluate(*node.operands[0], scope));
      return JinjaValue::boolean(!value.truthy());
    }
    case JinjaNode::kArithmetic: {
      TRY_ASSIGN(const JinjaValue a, evaluate(*node.operands[0], scope));
      TRY_ASSIGN(const JinjaValue b, evaluate(*node.operands[1], scope));
      return placed(jinja_arithmetic(heap_, node.name, a, b), node.at);
    }
    case JinjaNode::kConcat:
      return evaluate_concat(node, scope);
    case JinjaNode::kCompare:
      return evaluate_compare(node, scope);
    case JinjaNode::kAnd:
    case JinjaNode::kOr: {
      TRY_ASSIGN(JinjaValue left, evaluate(*node.operands[0], scope));
      if (left.truthy() == (node.node == JinjaNode::kOr)) return left;
      return evaluate(*node.operands[1], scope);
    }
    case JinjaNode::kCondition:
      return evaluate_condition(node, scope);
    case JinjaNode::kNamespaceTarget:
      break;
  }
  CHECK(false, "an assignment's target was evaluated");
}

Value JinjaInterpreter::evaluate_items(const JinjaExpression& node, JinjaScope& scope) {
  std::vector<JinjaValue> items;
  for (const auto& operand : node.operands) {
    TRY_ASSIGN(JinjaValue item, evaluate(*operand, scope));
    items.push_back(std::move(item));
  }
  const bool tuple = node.node == JinjaNode::kTuple;
  return placed(heap_.list(std::move(items), tuple ? JinjaFlavour::kTuple : JinjaFlavour::kList), node.at);
}

Value JinjaInterpreter::evaluate_dict(const JinjaExpression& node, JinjaScope& scope) {
  std::vector<JinjaPair> items;
  for (size_t i = 0; i + 1 < node.operands.size(); i += 2) {
    TRY_ASSIGN(JinjaValue key, evaluate(*node.operands[i], scope));
    TRY_ASSIGN(JinjaValue value, evaluate(*node.operands[i + 1], scope));
    items.emplace_back(std::move(key), std::move(value));
  }
  return placed(heap_.dict(std::move(items)), node.at);
}

Value JinjaInterpreter::evaluate_attribute(const JinjaExpression& node, JinjaScope& scope) {
  TRY_ASSIGN(const JinjaValue object, evaluate(*node.operands[0], scope));
  if (object.is(JinjaKind::kLoop)) return placed(loop_attribute(object, node.name), node.at);
  return placed(jinja_attribute(heap_, object, node.name), node.at);
}

Value JinjaInterpreter::evaluate_item(const JinjaExpression& node, JinjaScope& scope) {
  TRY_ASSIGN(const JinjaValue object, evaluate(*node.operands[0], scope));
  TRY_ASSIGN(const JinjaValue key, evaluate(*node.operands[1], scope));
  if (object.is(JinjaKind::kLoop) && key.is(JinjaKind::kString)) {
    return placed(loop_attribute(object, key.text()), node.at);
  }
  return placed(jinja_item(heap_, object, key), node.at);
}

Value JinjaInterpreter::evaluate_slice(const JinjaExpression& node, JinjaScope& scope) {
  TRY_ASSIGN(const JinjaValue object, evaluate(*node.operands[0], scope));
  JinjaValue bounds[3];
  for (size_t i = 0; i < 3; ++i) {
    bounds[i] = JinjaValue::none();
    if (node.operands[i + 1] != nullptr) {
      TRY_ASSIGN(bounds[i], evaluate(*node.operands[i + 1], scope));
    }
  }
  return placed(jinja_slice(heap_, object, bounds[0], bounds[1], bounds[2]), node.at);
}

Value JinjaInterpreter::evaluate_concat(const JinjaExpression& node, JinjaScope& scope) {
  JinjaString out;
  for (const auto& operand : node.operands) {
    TRY_ASSIGN(const JinjaValue value, evaluate(*operand, scope));
    TRY_ASSIGN(const JinjaString text, placed(jinja_text(heap_, value), operand->at));
    TRY(write(out, text, node.at));
  }
  return placed(heap_.string(std::move(out)), node.at);
}

Value JinjaInterpreter::evaluate_compare(const JinjaExpression& node, JinjaScope& scope) {
  TRY_ASSIGN(JinjaValue left, evaluate(*node.operands[0], scope));
  for (size_t i = 0; i < node.operations.size(); ++i) {
    TRY_ASSIGN(JinjaValue right, evaluate(*node.operands[i + 1], scope));
    TRY_ASSIGN(const bool holds, placed(jinja_compare(heap_, node.operations[i], left, right), node.at));
    if (!holds) return JinjaValue::boolean(false);
    left = std::move(right);
  }
  return JinjaValue::boolean(true);
}

Value JinjaInterpreter::evaluate_condition(const JinjaExpression& node, JinjaScope& scope) {
  TRY_ASSIGN(const JinjaValue test, evaluate(*node.operands[1], scope));
  if (test.truthy()) return evaluate(*node.operands[0], scope);
  if (node.operands[2] != nullptr) return evaluate(*node.operands[2], scope);
  return JinjaValue::undefined("the inline 'if' was false and has no 'else'");
}

Result<JinjaArguments> JinjaInterpreter::evaluate_arguments(const JinjaCallArguments* call, JinjaScope& scope) {
  JinjaArguments out;
  if (call == nullptr) return out;
  for (const auto& argument : call->positional) {
    TRY_ASSIGN(JinjaValue value, evaluate(*argument, scope));
    out.positional.push_back(std::move(value));
  }
  if (call->star != nullptr) {
    TRY_ASSIGN(const JinjaValue more, evaluate(*call->star, scope));
    TRY_ASSIGN(const auto list, placed(jinja_iterate(heap_, more), call->star->at));
    out.positional.insert(out.positional.end(), list->items.begin(), list->items.end());
  }
  for (const auto& [name, argument] : call->named) {
    TRY_ASSIGN(JinjaValue value, evaluate(*argument, scope));
    out.named.emplace_back(name, std::move(value));
  }
  if (call->double_star != nullptr) {
    TRY_ASSIGN(const JinjaValue more, evaluate(*call->double_star, scope));
    if (!more.is(JinjaKind::kDict)) {
      return placed(make_error(Code::kInvalidArgument, "'**' needs a dict, not '{}'", jinja_type_name(more)),
                    call->double_star->at);
    }
    for (const auto& [name, value] : more.as_dict().items) {
      if (!name.is(JinjaKind::kString)) {
        return placed(make_error(Code::kInvalidArgument, "'**' needs strings as keys"), call->double_star->at);
      }
      out.named.emplace_back(name.text(), value);
    }
  }
  return out;
}

Value JinjaInterpreter::apply_filter(const JinjaExpression& node, JinjaValue input, JinjaScope& scope) {
  if (node.filter == nullptr) {
    return placed(make_error(Code::kUnsupported, "the filter '{}' is not supported. Hint: known are {}", node.name,
                             jinja_filter_names()),
                  node.at);
  }
  TRY_ASSIGN(const JinjaArguments arguments, evaluate_arguments(node.call.get(), scope));
  return placed(node.filter(heap_, input, arguments), node.at);
}

Value JinjaInterpreter::evaluate_filter(const JinjaExpression& node, JinjaScope& scope) {
  TRY_ASSIGN(JinjaValue input, evaluate(*node.operands[0], scope));
  return apply_filter(node, std::move(input), scope);
}

// The filters of a block: the innermost one has no operand and takes the block's text.
Value JinjaInterpreter::apply_block_filters(const JinjaExpression* node, JinjaValue input, JinjaScope& scope) {
  if (node == nullptr) return input;
  TRY_ASSIGN(JinjaValue value, apply_block_filters(node->operands[0].get(), std::move(input), scope));
  return apply_filter(*node, std::move(value), scope);
}

Value JinjaInterpreter::evaluate_test(const JinjaExpression& node, JinjaScope& scope) {
  if (node.test == nullptr) {
    return placed(make_error(Code::kUnsupported, "the test '{}' is not supported. Hint: known are {}", node.name,
                             jinja_test_names()),
                  node.at);
  }
  TRY_ASSIGN(const JinjaValue value, evaluate(*node.operands[0], scope));
  TRY_ASSIGN(const JinjaArguments arguments, evaluate_arguments(node.call.get(), scope));
  TRY_ASSIGN(const bool holds, placed(node.test(heap_, value, arguments), node.at));
  return JinjaValue::boolean(holds);
}

Value JinjaInterpreter::evaluate_call(const JinjaExpression& node, JinjaScope& scope, JinjaMacro* caller) {
  TRY_ASSIGN(const JinjaValue callee, evaluate(*node.operands[0], scope));
  TRY_ASSIGN(JinjaArguments arguments, evaluate_arguments(node.call.get(), scope));
  if (caller != nullptr) arguments.named.emplace_back("caller", JinjaValue::of(caller));
  return call(callee, arguments, node.at);
}

// --- calls ---

Value JinjaInterpreter::call(const JinjaValue& callee, const JinjaArguments& arguments, JinjaPosition at) {
  switch (callee.kind()) {
    case JinjaKind::kMacro:
      return call_macro(*callee.as_macro(), arguments, at);
    case JinjaKind::kFunction:
      return placed(call_function(callee.as_function(), arguments), at);
    case JinjaKind::kMethod: {
      const JinjaMethodBody& method = callee.as_method();
      if (method.receiver.is(JinjaKind::kLoop)) {
        return placed(loop_method(method.receiver.as_loop(), method.name, arguments), at);
      }
      return placed(jinja_call_method(heap_, method.receiver, method.name, arguments), at);
    }
    case JinjaKind::kUndefined:
      return placed(Error{Code::kInvalidArgument, callee.why_undefined()}, at);
    default:
      return placed(make_error(Code::kInvalidArgument, "'{}' object is not callable", jinja_type_name(callee)), at);
  }
}

Value JinjaInterpreter::call_macro(const JinjaMacro& macro, const JinjaArguments& arguments, JinjaPosition at) {
  JinjaString text;
  ScopeOfBlock scope(this, macro.scope);
  TRY(bind_parameters(macro, arguments, *scope, at));
  auto flow = run_body(macro.definition->body, *scope, text);
  if (!flow.ok()) return flow.error();
  return placed(heap_.string(std::move(text)), at);
}

Status JinjaInterpreter::bind_parameters(const JinjaMacro& macro, const JinjaArguments& arguments, JinjaScope& scope,
                                         JinjaPosition at) {
  const JinjaMacroDefinition& definition = *macro.definition;
  const size_t count = definition.parameters.size();
  if (arguments.positional.size() > count && !definition.takes_varargs) {
    return placed(make_error(Code::kInvalidArgument, "the macro '{}' takes at most {} arguments, not {}",
                             definition.name, count, arguments.positional.size()),
                  at);
  }
  std::vector<bool> used(arguments.named.size(), false);
  const auto take_named = [&](std::string_view name) -> const JinjaValue* {
    for (size_t i = 0; i < used.size(); ++i) {
      if (used[i] || arguments.named[i].first != name) continue;
      used[i] = true;
      return &arguments.named[i].second;
    }
    return nullptr;
  };
  if (auto paid = heap_.charge(count * (1 + used.size() / 16)); !paid.ok()) return placed(paid.error(), at);
  for (size_t i = 0; i < count; ++i) {
    const JinjaParameter& parameter = definition.parameters[i];
    const JinjaValue* named = i < arguments.positional.size() ? nullptr : take_named(parameter.name);
    JinjaValue value;
    if (i < arguments.positional.size()) {
      value = arguments.positional[i];
    } else if (named != nullptr) {
      value = *named;
    } else if (parameter.otherwise != nullptr) {
      TRY_ASSIGN(value, evaluate(*parameter.otherwise, scope));  // its errors have their own place
    } else {
      value = JinjaValue::undefined(fmt::format("parameter '{}' was not provided", parameter.name));
    }
    assign(parameter.id, std::move(value), scope);
  }
  if (definition.takes_caller && caller_id_ >= 0) {
    const JinjaValue* caller = take_named("caller");
    assign(caller_id_, caller == nullptr ? JinjaValue::undefined("No caller defined") : *caller, scope);
  }
  auto rest = bind_rest(macro, arguments, used, scope);
  return rest.ok() ? rest : Status(placed(rest.error(), at));
}

// kwargs and varargs: what the parameters left over.
Status JinjaInterpreter::bind_rest(const JinjaMacro& macro, const JinjaArguments& arguments,
                                   const std::vector<bool>& used, JinjaScope& scope) {
  const JinjaMacroDefinition& definition = *macro.definition;
  std::vector<JinjaPair> rest;
  for (size_t i = 0; i < used.size(); ++i) {
    if (used[i]) continue;
    const std::string& name = arguments.named[i].first;
    if (!definition.takes_kwargs) {
      return make_error(Code::kInvalidArgument, "the macro '{}' has no argument '{}'", definition.name, name);
    }
    rest.emplace_back(JinjaValue::constant(JinjaString(name, Origin::kTemplate)), arguments.named[i].second);
  }
  if (definition.takes_kwargs) {
    TRY_ASSIGN(JinjaValue kwargs, heap_.dict(std::move(rest)));
    assign(kwargs_id_, std::move(kwargs), scope);
  }
  if (definition.takes_varargs) {
    const auto& given = arguments.positional;
    const size_t skipped = std::min(definition.parameters.size(), given.size());
    TRY_ASSIGN(JinjaValue varargs,
               heap_.list({given.begin() + static_cast<std::ptrdiff_t>(skipped), given.end()}, JinjaFlavour::kTuple));
    assign(varargs_id_, std::move(varargs), scope);
  }
  return {};
}

Value JinjaInterpreter::call_function(JinjaFunction function, const JinjaArguments& arguments) {
  switch (function) {
    case JinjaFunction::kRange:
      return call_range(arguments);
    case JinjaFunction::kDict:
      return call_dict(arguments);
    case JinjaFunction::kNamespace:
      return call_namespace(arguments);
    case JinjaFunction::kStrftimeNow:
      return call_strftime(arguments);
    case JinjaFunction::kRaiseException:
      break;
  }
  TRY_ASSIGN(const auto given, jinja_bind("raise_exception", arguments, {"message"}, 1));
  TRY_ASSIGN(const JinjaString message, jinja_text(heap_, *given[0]));
  return make_error(Code::kInvalidArgument, "the template refuses: {}", message.text());
}

Value JinjaInterpreter::call_range(const JinjaArguments& arguments) {
  static constexpr JinjaInt kLongest = 100'000;  // as Jinja's sandbox has it
  TRY_ASSIGN(const auto given, jinja_bind("range", arguments, {"start", "stop", "step"}, 1));
  TRY_ASSIGN(const int64_t first, jinja_to_index("range", given[0], 0));
  TRY_ASSIGN(const int64_t second, jinja_to_index("range", given[1], 0));
  TRY_ASSIGN(const int64_t step, jinja_to_index("range", given[2], 1));
  const JinjaInt start = given[1] == nullptr ? 0 : first, stop = given[1] == nullptr ? first : second;
  if (step == 0) return make_error(Code::kInvalidArgument, "the step of a range is 0");
  const JinjaInt distance = step > 0 ? stop - start : start - stop;
  const JinjaInt magnitude = step > 0 ? JinjaInt{step} : -JinjaInt{step};
  const JinjaInt count = distance <= 0 ? 0 : (distance + magnitude - 1) / magnitude;
  if (count > kLongest) {
    return make_error(Code::kExhausted, "a range of {} numbers, at most {}", jinja_int_text(count),
                      jinja_int_text(kLongest));
  }
  std::vector<JinjaValue> items;
  for (JinjaInt i = 0; i < count; ++i) items.push_back(JinjaValue::integer(start + i * step));
  return heap_.list(std::move(items), JinjaFlavour::kRange);
}

Value JinjaInterpreter::call_dict(const JinjaArguments& arguments) {
  std::vector<JinjaPair> items;
  if (arguments.positional.size() > 1) return make_error(Code::kInvalidArgument, "dict takes one positional argument");
  if (!arguments.positional.empty()) {
    const JinjaValue& source = arguments.positional[0];
    if (source.is(JinjaKind::kDict)) {
      items = source.as_dict().items;
    } else {
      TRY_ASSIGN(const auto pairs, jinja_iterate(heap_, source));
      for (const JinjaValue& value : pairs->items) {
        TRY_ASSIGN(const auto pair, jinja_iterate(heap_, value));
        if (pair->items.size() != 2) return make_error(Code::kInvalidArgument, "dict needs pairs of key and value");
        items.emplace_back(pair->items[0], pair->items[1]);
      }
    }
  }
  for (const auto& [name, value] : arguments.named) {
    items.emplace_back(JinjaValue::constant(JinjaString(name, Origin::kTemplate)), value);
  }
  return heap_.dict(std::move(items));
}

Value JinjaInterpreter::call_namespace(const JinjaArguments& arguments) {
  TRY_ASSIGN(const JinjaValue attributes, call_dict(arguments));
  TRY_ASSIGN(JinjaNamespace * space, heap_.make_namespace());
  for (const auto& [name, value] : attributes.as_dict().items) {
    if (!name.is(JinjaKind::kString) || name.text().starts_with('_')) {
      return make_error(Code::kInvalidArgument, "a namespace's attributes are names without a leading underscore");
    }
    TRY(heap_.set(space, name.text(), value));
  }
  return JinjaValue::of(space);
}

// The letters that C's strftime and Python's share; other ones are refused, not guessed.
Value JinjaInterpreter::call_strftime(const JinjaArguments& arguments) {
  static constexpr std::string_view kLetters = "aAbBcdDeFGhHIjklmMnpRSTuUVwWxXyYZ%";
  TRY_ASSIGN(const auto given, jinja_bind("strftime_now", arguments, {"format"}, 1));
  TRY_ASSIGN(const JinjaString* format, jinja_to_string("strftime_now", given[0]));
  const std::string& text = format->text();
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\0') return make_error(Code::kUnsupported, "strftime_now: a NUL in the format");
    if (text[i] != '%') continue;
    ++i;
    if (i < text.size() && text[i] == '-') ++i;
    if (i >= text.size() || kLetters.find(text[i]) == kLetters.npos) {
      return make_error(Code::kUnsupported, "strftime_now: '%{}' is not supported", text.substr(i, 1));
    }
  }
  std::tm now{};
  if (now_.has_value()) {
    now = *now_;
  } else {
    const std::time_t clock = std::time(nullptr);
    localtime_r(&clock, &now);
  }
  TRY(heap_.reserve(text.size() * 64 + 1));
  std::string out(text.size() * 64 + 1, '\0');
  out.resize(std::strftime(out.data(), out.size(), text.c_str(), &now));
  return heap_.string(std::move(out), format->origin());
}

}  // namespace westlake
