#include "base/json.h"

#include <cmath>

namespace westlake {

Result<JsonDocument> JsonDocument::parse(std::string_view text, std::string_view place) {
  JsonDocument document;
  document.parser_ = std::make_unique<simdjson::dom::parser>();
  const auto result = document.parser_->parse(text.data(), text.size());  // copies into a padded buffer
  if (const auto failure = result.get(document.root_); failure != simdjson::SUCCESS) {
    return make_error(Code::kCorrupt, "{}: is not valid JSON: {}", place, simdjson::error_message(failure));
  }
  return document;
}

bool json_has(const JsonObject& object, std::string_view key) {
  JsonElement element;
  return object.at_key(key).get(element) == simdjson::SUCCESS && !element.is_null();
}

std::string json_preview(JsonElement element) {
  std::string text = simdjson::minify(element);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

namespace {

template <typename T>
Status read_as(const JsonObject& object, std::string_view key, std::string_view place, const char* expected, T* out) {
  JsonElement element;
  if (object.at_key(key).get(element) != simdjson::SUCCESS || element.is_null()) return {};
  if (element.get(*out) != simdjson::SUCCESS) {
    return make_error(Code::kCorrupt, "{}: '{}' is {}, expected {}", place, key, json_preview(element), expected);
  }
  return {};
}

}  // namespace

Status json_read(const JsonObject& object, std::string_view key, std::string_view place, int64_t* out) {
  // Some writers put 1.0 where an integer is meant; a whole double is one.
  JsonElement element;
  double number = 0;
  if (object.at_key(key).get(element) == simdjson::SUCCESS && element.is_double() &&
      element.get(number) == simdjson::SUCCESS && number == std::floor(number) && std::fabs(number) < 9e15) {
    *out = static_cast<int64_t>(number);
    return {};
  }
  return read_as(object, key, place, "an integer", out);
}

Status json_read(const JsonObject& object, std::string_view key, std::string_view place, double* out) {
  return read_as(object, key, place, "a number", out);
}

Status json_read(const JsonObject& object, std::string_view key, std::string_view place, bool* out) {
  return read_as(object, key, place, "true or false", out);
}

Status json_read(const JsonObject& object, std::string_view key, std::string_view place, std::string* out) {
  std::string_view text;
  TRY(read_as(object, key, place, "a string", &text));
  if (text.data() != nullptr) out->assign(text);
  return {};
}

void json_append_string(std::string& out, std::string_view text) {
  out += '"';
  for (size_t i = 0; i < text.size();) {
    const unsigned char c = static_cast<unsigned char>(text[i]);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
      ++i;
    } else if (c == '\n') {
      out += "\\n";
      ++i;
    } else if (c == '\t') {
      out += "\\t";
      ++i;
    } else if (c == '\r') {
      out += "\\r";
      ++i;
    } else if (c < 0x20) {
      out += fmt::format("\\u{:04x}", c);
      ++i;
    } else if (c < 0x80) {
      out += static_cast<char>(c);
      ++i;
    } else {
      // A multi-byte character: pass it on when it is whole, shortest-form and no surrogate, else U+FFFD for one byte.
      const int length = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;
      bool good = c >= 0xc2 && c <= 0xf4 && i + length <= text.size();
      uint32_t code = c & (0x7f >> length);
      for (int k = 1; good && k < length; ++k) {
        const unsigned char next = static_cast<unsigned char>(text[i + k]);
        good = (next & 0xc0) == 0x80;
        code = code << 6 | (next & 0x3f);
      }
      good = good && !(length == 3 && (code < 0x800 || (code >= 0xd800 && code < 0xe000))) &&
             !(length == 4 && (code < 0x10000 || code > 0x10ffff));
      if (good) {
        out.append(text.substr(i, length));
        i += length;
      } else {
        out += "\xef\xbf\xbd";
        ++i;
      }
    }
  }
  out += '"';
}

void JsonWriter::comma() {
  if (need_comma_) out_ += ',';
  need_comma_ = true;
}

JsonWriter& JsonWriter::open(char bracket) {
  comma();
  out_ += bracket;
  need_comma_ = false;
  return *this;
}

JsonWriter& JsonWriter::close(char bracket) {
  out_ += bracket;
  need_comma_ = true;
  return *this;
}

JsonWriter& JsonWriter::key(std::string_view name) {
  comma();
  json_append_string(out_, name);
  out_ += ':';
  need_comma_ = false;
  return *this;
}

JsonWriter& JsonWriter::value(std::string_view text) {
  comma();
  json_append_string(out_, text);
  return *this;
}

JsonWriter& JsonWriter::value(bool flag) { return raw(flag ? "true" : "false"); }

JsonWriter& JsonWriter::value(double number) {
  return std::isfinite(number) ? raw(fmt::format("{}", number)) : null();
}

JsonWriter& JsonWriter::value(int64_t number) { return raw(fmt::format("{}", number)); }

JsonWriter& JsonWriter::value(uint64_t number) { return raw(fmt::format("{}", number)); }

JsonWriter& JsonWriter::raw(std::string_view json) {
  comma();
  out_ += json;
  return *this;
}

}  // namespace westlake
