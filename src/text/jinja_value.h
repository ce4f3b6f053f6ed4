// JinjaValue: what a chat template computes with, as Python would: none, bool, int, float, str, list, dict and the few
// objects of Jinja (undefined, namespace, macro, bound method, loop). JinjaHeap: the meter that every new value passes,
// so that a hostile template meets a stated limit before it meets the end of memory or of patience.
// Strings know their origin piece by piece (jinja_string.h); numbers and containers that came from the request carry
// one flag, so that printing or tojson of message data is content too.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "text/jinja_string.h"

namespace westlake {

class JinjaHeap;
class JinjaValue;
struct JinjaStringBody;
struct JinjaListBody;
struct JinjaDictBody;
struct JinjaMethodBody;
struct JinjaNamespace;
struct JinjaMacro;
struct JinjaLoop;

using JinjaInt = __int128;  // holds every integer of JSON; arithmetic beyond 64 bits is refused

enum class JinjaKind : uint8_t {
  kUndefined,
  kNone,
  kBool,
  kInt,
  kFloat,
  kString,
  kList,
  kDict,
  kNamespace,
  kMacro,
  kMethod,
  kFunction,
  kLoop,
};

// Python's sequences that behave differently in print, index, length or truth.
enum class JinjaFlavour : uint8_t { kList, kTuple, kRange, kKeys, kValues, kItems, kGenerator };

enum class JinjaFunction : uint8_t { kRange, kDict, kNamespace, kRaiseException, kStrftimeNow };

class JinjaValue {
 public:
  struct Undefined {
    std::shared_ptr<const std::string> why;  // the whole message of the error that using it raises
  };

  JinjaValue() = default;  // undefined without a reason
  static JinjaValue undefined(std::string why);
  static JinjaValue none() { return JinjaValue(Store(std::in_place_index<1>)); }
  static JinjaValue boolean(bool flag) { return JinjaValue(Store(std::in_place_index<2>, flag)); }
  static JinjaValue integer(JinjaInt number) { return JinjaValue(Store(std::in_place_index<3>, number)); }
  static JinjaValue number(double number) { return JinjaValue(Store(std::in_place_index<4>, number)); }
  // A string outside any meter: for the constants of a template. Others come from JinjaHeap::string.
  static JinjaValue constant(JinjaString text);
  static JinjaValue of(JinjaNamespace* space) { return JinjaValue(Store(std::in_place_index<8>, space)); }
  static JinjaValue of(JinjaMacro* macro) { return JinjaValue(Store(std::in_place_index<9>, macro)); }
  static JinjaValue of(JinjaFunction function) { return JinjaValue(Store(std::in_place_index<11>, function)); }
  static JinjaValue of(std::shared_ptr<JinjaLoop> loop) { return JinjaValue(Store(std::in_place_index<12>, loop)); }
  static JinjaValue method(JinjaValue receiver, std::string name);

  JinjaKind kind() const { return static_cast<JinjaKind>(store_.index()); }
  bool is(JinjaKind kind) const { return this->kind() == kind; }
  bool is_number() const { return is(JinjaKind::kBool) || is(JinjaKind::kInt) || is(JinjaKind::kFloat); }
  bool is_integral() const { return is(JinjaKind::kBool) || is(JinjaKind::kInt); }

  // Requires: the matching kind; as_int and as_double also take the narrower kinds.
  const std::string& why_undefined() const;
  bool as_bool() const { return std::get<2>(store_); }
  JinjaInt as_int() const { return is(JinjaKind::kBool) ? as_bool() : std::get<3>(store_); }
  double as_double() const { return is_integral() ? static_cast<double>(as_int()) : std::get<4>(store_); }
  const JinjaString& as_string() const;
  const std::string& text() const { return as_string().text(); }
  JinjaListBody& as_list() const { return *std::get<6>(store_); }
  const std::shared_ptr<JinjaListBody>& list_ref() const { return std::get<6>(store_); }
  const JinjaDictBody& as_dict() const { return *std::get<7>(store_); }
  JinjaNamespace* as_namespace() const { return std::get<8>(store_); }
  JinjaMacro* as_macro() const { return std::get<9>(store_); }
  const JinjaMethodBody& as_method() const { return *std::get<10>(store_); }
  JinjaFunction as_function() const { return std::get<11>(store_); }
  JinjaLoop& as_loop() const { return *std::get<12>(store_); }
  bool is_list(JinjaFlavour flavour) const;

  // From the request, or holding anything that is.
  bool has_content() const;
  Origin origin() const { return has_content() ? Origin::kContent : Origin::kTemplate; }
  // Marks a number, bool, none or container as data of the request.
  JinjaValue& mark_content(bool content = true) {
    content_ = content;
    return *this;
  }
  // markupsafe's Markup, which `safe` and `escape` make: `+` escapes what is joined to it.
  bool is_markup() const { return markup_; }
  JinjaValue& mark_markup() {
    markup_ = true;
    return *this;
  }

  bool truthy() const;
  // Python's "is": the same object, or equal small constants.
  bool same_object(const JinjaValue& other) const;
  int depth() const;  // nesting of lists and dicts

 private:
  friend class JinjaHeap;
  using Store =
      std::variant<Undefined, std::monostate, bool, JinjaInt, double, std::shared_ptr<const JinjaStringBody>,
                   std::shared_ptr<JinjaListBody>, std::shared_ptr<const JinjaDictBody>, JinjaNamespace*, JinjaMacro*,
                   std::shared_ptr<const JinjaMethodBody>, JinjaFunction, std::shared_ptr<JinjaLoop>>;
  explicit JinjaValue(Store store) : store_(std::move(store)) {}

  Store store_;
  bool content_ = false;
  bool markup_ = false;
};

using JinjaPair = std::pair<JinjaValue, JinjaValue>;

// The share of a body in the meter; given back when the body dies. Requires: the heap outlives it.
struct JinjaCharge {
  JinjaHeap* heap = nullptr;
  size_t bytes = 0;
  JinjaCharge() = default;
  JinjaCharge(const JinjaCharge&) = delete;
  JinjaCharge& operator=(const JinjaCharge&) = delete;
  ~JinjaCharge();
};

struct JinjaStringBody {
  JinjaString text;
  bool content = false;
  JinjaCharge charge;
};

struct JinjaListBody {
  std::vector<JinjaValue> items;
  JinjaFlavour flavour = JinjaFlavour::kList;
  size_t taken = 0;  // of a generator: items that are gone
  bool content = false;
  int depth = 1;
  JinjaCharge charge;
};

struct JinjaDictBody {
  std::vector<JinjaPair> items;                   // in the order in which keys came
  std::unordered_map<std::string, size_t> index;  // of string keys; filled once there are more than a few
  bool content = false;
  int depth = 1;
  JinjaCharge charge;

  const JinjaValue* find(std::string_view key) const;
};

struct JinjaMethodBody {
  JinjaValue receiver;
  std::string name;
};

// Owned by the heap until the end of the rendering: references between namespaces may be circular.
struct JinjaNamespace {
  std::vector<std::pair<std::string, JinjaValue>> attributes;
  const JinjaValue* find(std::string_view name) const;
};

struct JinjaLimits {
  uint64_t steps = 4'000'000;              // nodes evaluated and elements or 16 bytes handled; some tenths of a second
  size_t live_bytes = size_t{64} << 20;    // strings and containers alive at one time, beyond a multiple of the request
  size_t output_bytes = size_t{64} << 20;  // length of the rendered text, beyond the same multiple
  int depth = 600;                         // nested evaluations: expressions, blocks and macro calls together
  static constexpr size_t kLiveBytesPerInputByte = 64;
  static constexpr uint64_t kStepsPerInputByte = 64;
};

class JinjaHeap {
 public:
  explicit JinjaHeap(const JinjaLimits& limits) : limits_(limits) {}
  JinjaHeap(const JinjaHeap&) = delete;
  JinjaHeap& operator=(const JinjaHeap&) = delete;

  const JinjaLimits& limits() const { return limits_; }
  void raise_limits_for_input(size_t bytes);

  // Counts work. Errors: kExhausted.
  Status charge(uint64_t steps);
  Status charge_bytes(size_t bytes) { return charge(1 + bytes / 16); }
  // Whether `bytes` more could be alive: to be asked before something large is built. Errors: kExhausted.
  Status reserve(size_t bytes);
  // Counts `bytes` as alive until the end. Errors: kExhausted.
  Status hold(size_t bytes);

  Result<JinjaValue> string(JinjaString text);
  Result<JinjaValue> string(std::string text, Origin origin) { return string(JinjaString(std::move(text), origin)); }
  Result<JinjaValue> list(std::vector<JinjaValue> items, JinjaFlavour flavour = JinjaFlavour::kList);
  // Later pairs with an equal key replace earlier ones in place. Errors: kInvalidArgument for a key that has no hash.
  Result<JinjaValue> dict(std::vector<JinjaPair> items);
  Result<JinjaNamespace*> make_namespace();
  Status set(JinjaNamespace* space, std::string_view name, JinjaValue value);

  // A JSON element as Python's json.loads would give it, all of it content.
  Result<JinjaValue> from_json(const JsonElement& element, int depth = 0);

  void release(size_t bytes) { live_bytes_ -= bytes; }

 private:
  Status take(JinjaCharge& charge, size_t bytes);
  JinjaLimits limits_;
  uint64_t steps_ = 0;
  size_t live_bytes_ = 0;
  std::vector<std::unique_ptr<JinjaNamespace>> namespaces_;
};

inline constexpr int kJinjaValueDepth = 128;

// Python's names of types, for messages: "str", "dict" ...
std::string_view jinja_type_name(const JinjaValue& value);

// a == b.
Result<bool> jinja_equal(JinjaHeap& heap, const JinjaValue& a, const JinjaValue& b);
// a < b. Errors: kInvalidArgument for types that Python does not order.
Result<bool> jinja_less(JinjaHeap& heap, const JinjaValue& a, const JinjaValue& b);
// The value under `key`, or null. Errors: kInvalidArgument for a key that has no hash.
Result<const JinjaValue*> jinja_find(JinjaHeap& heap, const JinjaDictBody& dict, const JinjaValue& key);

// What a for loop goes over: items of a list, keys of a dict, characters of a string, nothing of undefined.
// A generator is used up. Errors: kInvalidArgument.
Result<std::shared_ptr<JinjaListBody>> jinja_iterate(JinjaHeap& heap, const JinjaValue& value);

// str(value); with `quoted` repr(value). Errors: kUnsupported for objects without a stable text.
Result<JinjaString> jinja_text(JinjaHeap& heap, const JinjaValue& value, bool quoted = false);

struct JinjaJsonOptions {
  bool ensure_ascii = false;
  bool sort_keys = false;
  bool indented = false;
  std::string indent;
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};
// json.dumps(value).
Result<JinjaString> jinja_json(JinjaHeap& heap, const JinjaValue& value, const JinjaJsonOptions& options);

std::string jinja_int_text(JinjaInt number);
// repr(float): the shortest digits that read back, "1.0", "1e+16", "inf".
std::string jinja_float_text(double number);

}  // namespace westlake
