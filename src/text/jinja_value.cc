// Values and their meter.
#include "text/jinja_value.h"

#include <algorithm>
#include <cmath>

namespace westlake {

namespace {

constexpr size_t kBodyBytes = 96;       // a shared body with its bookkeeping, roughly
constexpr size_t kIndexedDictSize = 8;  // below that a linear search is quicker
constexpr size_t kIndexEntryBytes = 80;

}  // namespace

JinjaValue JinjaValue::undefined(std::string why) {
  return JinjaValue(Store(Undefined{std::make_shared<const std::string>(std::move(why))}));
}

JinjaValue JinjaValue::constant(JinjaString text) {
  auto body = std::make_shared<JinjaStringBody>();
  body->content = text.has_content();
  body->text = std::move(text);
  return JinjaValue(Store(std::shared_ptr<const JinjaStringBody>(std::move(body))));
}

JinjaValue JinjaValue::method(JinjaValue receiver, std::string name) {
  return JinjaValue(
      Store(std::make_shared<const JinjaMethodBody>(JinjaMethodBody{std::move(receiver), std::move(name)})));
}

const std::string& JinjaValue::why_undefined() const {
  static const std::string unknown = "the value is undefined";
  const auto& why = std::get<0>(store_).why;
  return why == nullptr ? unknown : *why;
}

const JinjaString& JinjaValue::as_string() const {
  return std::get<5>(store_)->text;
}

bool JinjaValue::is_list(JinjaFlavour flavour) const {
  return is(JinjaKind::kList) && as_list().flavour == flavour;
}

bool JinjaValue::has_content() const {
  switch (kind()) {
    case JinjaKind::kString:
      return std::get<5>(store_)->content;
    case JinjaKind::kList:
      return content_ || as_list().content;
    case JinjaKind::kDict:
      return content_ || as_dict().content;
    default:
      return content_;
  }
}

bool JinjaValue::truthy() const {
  switch (kind()) {
    case JinjaKind::kUndefined:
    case JinjaKind::kNone:
      return false;
    case JinjaKind::kBool:
      return as_bool();
    case JinjaKind::kInt:
      return as_int() != 0;
    case JinjaKind::kFloat:
      return as_double() != 0;
    case JinjaKind::kString:
      return !as_string().empty();
    case JinjaKind::kList:
      return as_list().flavour == JinjaFlavour::kGenerator || !as_list().items.empty();
    case JinjaKind::kDict:
      return !as_dict().items.empty();
    default:
      return true;
  }
}

bool JinjaValue::same_object(const JinjaValue& other) const {
  if (kind() != other.kind()) return false;
  switch (kind()) {
    case JinjaKind::kUndefined:
      return false;
    case JinjaKind::kNone:
      return true;
    case JinjaKind::kFloat:
      return as_double() == other.as_double();
    case JinjaKind::kBool:
    case JinjaKind::kInt:
      return as_int() == other.as_int();
    case JinjaKind::kString:
      return std::get<5>(store_) == std::get<5>(other.store_);
    case JinjaKind::kList:
      return list_ref() == other.list_ref();
    case JinjaKind::kDict:
      return std::get<7>(store_) == std::get<7>(other.store_);
    case JinjaKind::kNamespace:
      return as_namespace() == other.as_namespace();
    case JinjaKind::kMacro:
      return as_macro() == other.as_macro();
    case JinjaKind::kMethod:
      return std::get<10>(store_) == std::get<10>(other.store_);
    case JinjaKind::kFunction:
      return as_function() == other.as_function();
    case JinjaKind::kLoop:
      return &as_loop() == &other.as_loop();
  }
  return false;
}

int JinjaValue::depth() const {
  if (is(JinjaKind::kList)) return as_list().depth;
  if (is(JinjaKind::kDict)) return as_dict().depth;
  return is(JinjaKind::kMethod) ? as_method().receiver.depth() + 1 : 0;
}

JinjaCharge::~JinjaCharge() {
  if (heap != nullptr) heap->release(bytes);
}

const JinjaValue* JinjaDictBody::find(std::string_view key) const {
  if (!index.empty()) {
    const auto found = index.find(std::string(key));
    return found == index.end() ? nullptr : &items[found->second].second;
  }
  for (const auto& [name, value] : items) {
    if (name.is(JinjaKind::kString) && name.text() == key) return &value;
  }
  return nullptr;
}

const JinjaValue* JinjaNamespace::find(std::string_view name) const {
  for (const auto& [key, value] : attributes) {
    if (key == name) return &value;
  }
  return nullptr;
}

void JinjaHeap::raise_limits_for_input(size_t bytes) {
  limits_.steps += bytes * JinjaLimits::kStepsPerInputByte;
  limits_.live_bytes += bytes * JinjaLimits::kLiveBytesPerInputByte;
  limits_.output_bytes += bytes * JinjaLimits::kLiveBytesPerInputByte;
}

Status JinjaHeap::charge(uint64_t steps) {
  steps_ += std::min(steps, limits_.steps + 1);
  if (steps_ <= limits_.steps) return {};
  return make_error(Code::kExhausted, "the template takes more than {} steps. Hint: does it loop over a loop?",
                    limits_.steps);
}

Status JinjaHeap::reserve(size_t bytes) {
  if (live_bytes_ + bytes >= live_bytes_ && live_bytes_ + bytes <= limits_.live_bytes) return {};
  return make_error(Code::kExhausted, "the template's values take more than {} bytes of memory", limits_.live_bytes);
}

Status JinjaHeap::hold(size_t bytes) {
  TRY(reserve(bytes));
  live_bytes_ += bytes;
  return {};
}

Status JinjaHeap::take(JinjaCharge& charge, size_t bytes) {
  TRY(reserve(bytes));
  TRY(charge_bytes(bytes));
  charge.heap = this;
  charge.bytes = bytes;
  live_bytes_ += bytes;
  return {};
}

Result<JinjaValue> JinjaHeap::string(JinjaString text) {
  auto body = std::make_shared<JinjaStringBody>();
  TRY(take(body->charge, text.footprint_bytes() + kBodyBytes));
  body->content = text.has_content();
  body->text = std::move(text);
  return JinjaValue(JinjaValue::Store(std::shared_ptr<const JinjaStringBody>(std::move(body))));
}

namespace {

Status check_depth(int depth) {
  if (depth <= kJinjaValueDepth) return {};
  return make_error(Code::kExhausted, "lists and dicts nest more than {} deep", kJinjaValueDepth);
}

}  // namespace

Result<JinjaValue> JinjaHeap::list(std::vector<JinjaValue> items, JinjaFlavour flavour) {
  auto body = std::make_shared<JinjaListBody>();
  TRY(take(body->charge, items.size() * sizeof(JinjaValue) + kBodyBytes));
  for (const JinjaValue& item : items) {
    body->content = body->content || item.has_content();
    body->depth = std::max(body->depth, item.depth() + 1);
  }
  TRY(check_depth(body->depth));
  body->items = std::move(items);
  body->flavour = flavour;
  return JinjaValue(JinjaValue::Store(std::move(body)));
}

Result<JinjaValue> JinjaHeap::dict(std::vector<JinjaPair> items) {
  auto body = std::make_shared<JinjaDictBody>();
  TRY(take(body->charge, items.size() * (2 * sizeof(JinjaValue) + kIndexEntryBytes) + kBodyBytes));
  body->items.reserve(items.size());
  const bool indexed = items.size() > kIndexedDictSize;
  for (JinjaPair& item : items) {
    body->content = body->content || item.first.has_content() || item.second.has_content();
    body->depth = std::max({body->depth, item.first.depth() + 1, item.second.depth() + 1});
    const JinjaValue* known = nullptr;
    if (indexed && item.first.is(JinjaKind::kString)) {
      const auto [place, fresh] = body->index.emplace(item.first.text(), body->items.size());
      if (!fresh) known = &body->items[place->second].second;
    } else {
      TRY_ASSIGN(known, jinja_find(*this, *body, item.first));
    }
    if (known != nullptr) {
      *const_cast<JinjaValue*>(known) = std::move(item.second);  // the body is still ours alone
    } else {
      body->items.push_back(std::move(item));
    }
  }
  TRY(check_depth(body->depth));
  return JinjaValue(JinjaValue::Store(std::shared_ptr<const JinjaDictBody>(std::move(body))));
}

Result<JinjaNamespace*> JinjaHeap::make_namespace() {
  TRY(hold(kBodyBytes));
  namespaces_.push_back(std::make_unique<JinjaNamespace>());
  return namespaces_.back().get();
}

Status JinjaHeap::set(JinjaNamespace* space, std::string_view name, JinjaValue value) {
  TRY(charge(1 + space->attributes.size() / 16));
  for (auto& [key, slot] : space->attributes) {
    if (key != name) continue;
    slot = std::move(value);
    return {};
  }
  TRY(hold(kBodyBytes + name.size()));
  space->attributes.emplace_back(std::string(name), std::move(value));
  return {};
}

Result<JinjaValue> JinjaHeap::from_json(const JsonElement& element, int depth) {
  TRY(check_depth(depth));
  JsonArray array;
  JsonObject object;
  std::string_view text;
  bool flag = false;
  int64_t number = 0;
  uint64_t large = 0;
  double real = 0;
  if (element.get(text) == simdjson::SUCCESS) return string(std::string(text), Origin::kContent);
  if (element.get(flag) == simdjson::SUCCESS) return JinjaValue::boolean(flag).mark_content();
  // Integers first: simdjson gives an integer to whoever asks for a double.
  if (element.get(number) == simdjson::SUCCESS) return JinjaValue::integer(number).mark_content();
  if (element.get(large) == simdjson::SUCCESS) return JinjaValue::integer(large).mark_content();
  if (element.get(real) == simdjson::SUCCESS) return JinjaValue::number(real).mark_content();
  if (element.get(array) == simdjson::SUCCESS) {
    std::vector<JinjaValue> items;
    for (const JsonElement item : array) {
      TRY_ASSIGN(JinjaValue value, from_json(item, depth + 1));
      items.push_back(std::move(value));
    }
    TRY_ASSIGN(JinjaValue result, list(std::move(items)));
    return result.mark_content();
  }
  if (element.get(object) == simdjson::SUCCESS) {
    std::vector<JinjaPair> items;
    for (const auto field : object) {
      TRY_ASSIGN(JinjaValue name, string(std::string(field.key), Origin::kContent));
      TRY_ASSIGN(JinjaValue value, from_json(field.value, depth + 1));
      items.emplace_back(std::move(name), std::move(value));
    }
    TRY_ASSIGN(JinjaValue result, dict(std::move(items)));
    return result.mark_content();
  }
  return JinjaValue::none().mark_content();
}

std::string_view jinja_type_name(const JinjaValue& value) {
  switch (value.kind()) {
    case JinjaKind::kUndefined:
      return "Undefined";
    case JinjaKind::kNone:
      return "NoneType";
    case JinjaKind::kBool:
      return "bool";
    case JinjaKind::kInt:
      return "int";
    case JinjaKind::kFloat:
      return "float";
    case JinjaKind::kString:
      return "str";
    case JinjaKind::kDict:
      return "dict";
    case JinjaKind::kNamespace:
      return "Namespace";
    case JinjaKind::kMacro:
      return "Macro";
    case JinjaKind::kMethod:
      return "method";
    case JinjaKind::kFunction:
      return "function";
    case JinjaKind::kLoop:
      return "LoopContext";
    case JinjaKind::kList:
      break;
  }
  switch (value.as_list().flavour) {
    case JinjaFlavour::kList:
      return "list";
    case JinjaFlavour::kTuple:
      return "tuple";
    case JinjaFlavour::kRange:
      return "range";
    case JinjaFlavour::kKeys:
      return "dict_keys";
    case JinjaFlavour::kValues:
      return "dict_values";
    case JinjaFlavour::kItems:
      return "dict_items";
    case JinjaFlavour::kGenerator:
      return "generator";
  }
  return "object";
}

namespace {

Result<bool> equal_items(JinjaHeap& heap, const std::vector<JinjaValue>& a, const std::vector<JinjaValue>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    TRY_ASSIGN(const bool same, jinja_equal(heap, a[i], b[i]));
    if (!same) return false;
  }
  return true;
}

Result<bool> equal_dicts(JinjaHeap& heap, const JinjaDictBody& a, const JinjaDictBody& b) {
  if (a.items.size() != b.items.size()) return false;
  for (const auto& [key, value] : a.items) {
    TRY_ASSIGN(const JinjaValue* other, jinja_find(heap, b, key));
    if (other == nullptr) return false;
    TRY_ASSIGN(const bool same, jinja_equal(heap, value, *other));
    if (!same) return false;
  }
  return true;
}

}  // namespace

Result<bool> jinja_equal(JinjaHeap& heap, const JinjaValue& a, const JinjaValue& b) {
  TRY(heap.charge(1));
  if (a.is_integral() && b.is_integral()) return a.as_int() == b.as_int();
  if (a.is_number() && b.is_number()) return a.as_double() == b.as_double();
  if (a.kind() != b.kind()) return false;
  if (a.is(JinjaKind::kUndefined) || a.same_object(b)) return true;
  switch (a.kind()) {
    case JinjaKind::kString:
      TRY(heap.charge_bytes(std::min(a.text().size(), b.text().size())));
      return a.text() == b.text();
    case JinjaKind::kList:
      if (a.as_list().flavour != b.as_list().flavour) return false;
      if (a.as_list().flavour == JinjaFlavour::kGenerator || a.as_list().flavour == JinjaFlavour::kValues) return false;
      return equal_items(heap, a.as_list().items, b.as_list().items);
    case JinjaKind::kDict:
      return equal_dicts(heap, a.as_dict(), b.as_dict());
    case JinjaKind::kMethod:
      return a.as_method().name == b.as_method().name && a.as_method().receiver.same_object(b.as_method().receiver);
    default:
      return false;
  }
}

Result<bool> jinja_less(JinjaHeap& heap, const JinjaValue& a, const JinjaValue& b) {
  TRY(heap.charge(1));
  if (a.is_integral() && b.is_integral()) return a.as_int() < b.as_int();
  if (a.is_number() && b.is_number()) return a.as_double() < b.as_double();
  if (a.is(JinjaKind::kString) && b.is(JinjaKind::kString)) {
    TRY(heap.charge_bytes(std::min(a.text().size(), b.text().size())));
    return a.text() < b.text();  // the order of UTF-8 bytes is the order of code points
  }
  const bool sequences = a.is(JinjaKind::kList) && b.is(JinjaKind::kList) &&
                         a.as_list().flavour == b.as_list().flavour &&
                         (a.as_list().flavour == JinjaFlavour::kList || a.as_list().flavour == JinjaFlavour::kTuple);
  if (sequences) {
    const auto& left = a.as_list().items;
    const auto& right = b.as_list().items;
    for (size_t i = 0; i < std::min(left.size(), right.size()); ++i) {
      TRY_ASSIGN(const bool same, jinja_equal(heap, left[i], right[i]));
      if (!same) return jinja_less(heap, left[i], right[i]);
    }
    return left.size() < right.size();
  }
  if (a.is(JinjaKind::kUndefined)) return Error{Code::kInvalidArgument, a.why_undefined()};
  if (b.is(JinjaKind::kUndefined)) return Error{Code::kInvalidArgument, b.why_undefined()};
  return make_error(Code::kInvalidArgument, "'{}' and '{}' have no order", jinja_type_name(a), jinja_type_name(b));
}

Result<const JinjaValue*> jinja_find(JinjaHeap& heap, const JinjaDictBody& dict, const JinjaValue& key) {
  if (key.is(JinjaKind::kString)) {
    TRY(heap.charge(1 + (dict.index.empty() ? dict.items.size() / 4 : 0)));
    return dict.find(key.text());
  }
  const bool hashable = !key.is(JinjaKind::kDict) && !key.is_list(JinjaFlavour::kList);
  if (!hashable) return make_error(Code::kInvalidArgument, "'{}' cannot be a key of a dict", jinja_type_name(key));
  for (const auto& [name, value] : dict.items) {
    TRY_ASSIGN(const bool same, jinja_equal(heap, name, key));
    if (same) return &value;
  }
  return static_cast<const JinjaValue*>(nullptr);
}

Result<std::shared_ptr<JinjaListBody>> jinja_iterate(JinjaHeap& heap, const JinjaValue& value) {
  std::vector<JinjaValue> items;
  switch (value.kind()) {
    case JinjaKind::kUndefined:
      break;
    case JinjaKind::kList: {
      JinjaListBody& body = value.as_list();
      if (body.flavour != JinjaFlavour::kGenerator) return value.list_ref();
      items.assign(body.items.begin() + static_cast<std::ptrdiff_t>(body.taken), body.items.end());
      body.taken = body.items.size();
      break;
    }
    case JinjaKind::kDict:
      for (const auto& item : value.as_dict().items) items.push_back(item.first);
      break;
    case JinjaKind::kString: {
      const JinjaString& text = value.as_string();
      TRY(heap.reserve(text.size() * (kBodyBytes + sizeof(JinjaValue))));
      for (size_t i = 0; i < text.size();) {
        const size_t begin = i;
        utf8_next(text.text(), &i);
        TRY_ASSIGN(JinjaValue character, heap.string(text.slice(begin, i)));
        items.push_back(std::move(character));
      }
      break;
    }
    default:
      return make_error(Code::kInvalidArgument, "'{}' object is not iterable", jinja_type_name(value));
  }
  TRY_ASSIGN(const JinjaValue list, heap.list(std::move(items)));
  return list.list_ref();
}

}  // namespace westlake
