// JSON: read with simdjson, written by a small writer.
// It stands in room 0 because formats/ (safetensors headers), text/ (tokenizer.json) and model/ (config.json) all read
// it and equals never meet. The tree that simdjson gives is used as it is (simdjson::dom::element keeps key order).
#pragma once

#include <simdjson.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"

namespace westlake {

using JsonElement = simdjson::dom::element;
using JsonObject = simdjson::dom::object;
using JsonArray = simdjson::dom::array;

// A parsed text. Owns: the tree; elements are valid as long as the document lives (moving it keeps them valid).
class JsonDocument {
 public:
  // `place` opens every message ("config.json"). Errors: kCorrupt with the parser's reason. Depth is limited to 1024 by
  // simdjson, memory is proportional to the text.
  static Result<JsonDocument> parse(std::string_view text, std::string_view place);
  JsonElement root() const { return root_; }

 private:
  std::unique_ptr<simdjson::dom::parser> parser_;
  JsonElement root_;
};

// Members of an object: nullopt-like access without exceptions. A member that is absent or null leaves `out` alone and
// returns ok; a member of another type is an error that names the key, the value seen and the type expected.
Status json_read(const JsonObject& object, std::string_view key, std::string_view place, int64_t* out);
Status json_read(const JsonObject& object, std::string_view key, std::string_view place, double* out);
Status json_read(const JsonObject& object, std::string_view key, std::string_view place, bool* out);
Status json_read(const JsonObject& object, std::string_view key, std::string_view place, std::string* out);

// True when the key is there and its value is not null.
bool json_has(const JsonObject& object, std::string_view key);

// The text of an element, shortened, for messages.
std::string json_preview(JsonElement element);

// Appends `text` as a JSON string with quotes. Invalid UTF-8 becomes U+FFFD.
void json_append_string(std::string& out, std::string_view text);

// Writes one JSON value piece by piece:
//   JsonWriter w; w.begin_object().key("n").value(3).key("ids").begin_array().value(1).end_array().end_object();
class JsonWriter {
 public:
  JsonWriter& begin_object() { return open('{'); }
  JsonWriter& end_object() { return close('}'); }
  JsonWriter& begin_array() { return open('['); }
  JsonWriter& end_array() { return close(']'); }
  JsonWriter& key(std::string_view name);
  JsonWriter& value(std::string_view text);
  JsonWriter& value(const char* text) { return value(std::string_view(text)); }
  JsonWriter& value(const std::string& text) { return value(std::string_view(text)); }
  JsonWriter& value(bool flag);
  JsonWriter& value(double number);  // NaN and infinities become null: JSON has no word for them
  JsonWriter& value(int64_t number);
  JsonWriter& value(int number) { return value(static_cast<int64_t>(number)); }
  JsonWriter& value(uint64_t number);
  JsonWriter& null() { return raw("null"); }
  // A value that is JSON already.
  JsonWriter& raw(std::string_view json);

  const std::string& text() const { return out_; }

 private:
  JsonWriter& open(char bracket);
  JsonWriter& close(char bracket);
  void comma();
  std::string out_;
  bool need_comma_ = false;
};

}  // namespace westlake
