// Reads tokenizer_config.json. See tokenizer_config.h.
#include "text/tokenizer_config.h"

#include <algorithm>

#include "base/json.h"

namespace westlake {
namespace {

// transformers writes 10^30 for "no limit" as an integer of 31 digits, which no parser of 64-bit numbers takes:
// integers that long get ".0" behind them and are read as doubles.
std::string with_short_integers(std::string_view text) {
  std::string out;
  out.reserve(text.size() + 16);
  bool in_text = false;
  for (size_t at = 0; at < text.size();) {
    const char c = text[at];
    size_t size = 1;
    if (in_text && c == '\\') {
      size = std::min<size_t>(2, text.size() - at);
    } else if (c == '"') {
      in_text = !in_text;
    } else if (!in_text && c >= '0' && c <= '9') {
      size = std::min(text.find_first_not_of("0123456789.eE+-", at), text.size()) - at;
    }
    const std::string_view part = text.substr(at, size);
    out += part;
    if (size > 18 && part.find_first_not_of("0123456789") == std::string_view::npos) out += ".0";
    at += size;
  }
  return out;
}

// A token is a text, or an AddedToken object with a "content".
Status read_token(const JsonObject& object, std::string_view key, std::string_view place, std::string* out) {
  JsonElement element;
  if (object.at_key(key).get(element) != simdjson::SUCCESS || element.is_null()) return {};
  JsonObject token;
  if (element.get(token) == simdjson::SUCCESS) return json_read(token, "content", place, out);
  return json_read(object, key, place, out);
}

Status read_flag(const JsonObject& object, std::string_view key, std::string_view place, std::optional<bool>* out) {
  if (!json_has(object, key)) return {};
  bool flag = false;
  TRY(json_read(object, key, place, &flag));
  *out = flag;
  return {};
}

Status read_templates(const JsonObject& object, std::string_view place, TokenizerConfig& config) {
  JsonElement element;
  if (object.at_key("chat_template").get(element) != simdjson::SUCCESS || element.is_null()) return {};
  std::string_view text;
  if (element.get(text) == simdjson::SUCCESS) {
    config.chat_templates.emplace_back("default", text);
    return {};
  }
  JsonArray list;
  if (element.get(list) != simdjson::SUCCESS) {
    return make_error(Code::kCorrupt, "{}: 'chat_template' is {}, expected a text or a list", place,
                      json_preview(element));
  }
  for (const JsonElement item : list) {
    JsonObject named;
    std::string name, body;
    if (item.get(named) != simdjson::SUCCESS) {
      return make_error(Code::kCorrupt, "{}: an entry of 'chat_template' is {}, expected an object", place,
                        json_preview(item));
    }
    TRY(json_read(named, "name", place, &name));
    TRY(json_read(named, "template", place, &body));
    config.chat_templates.emplace_back(std::move(name), std::move(body));
  }
  return {};
}

}  // namespace

const std::string* TokenizerConfig::chat_template(std::string_view name) const {
  for (const auto& [known, text] : chat_templates) {
    if (known == name) return &text;
  }
  return nullptr;
}

Result<TokenizerConfig> read_tokenizer_config(std::string_view text, std::string_view place) {
  TRY_ASSIGN(const JsonDocument document, JsonDocument::parse(with_short_integers(text), place));
  JsonObject object;
  if (document.root().get(object) != simdjson::SUCCESS) {
    return make_error(Code::kCorrupt, "{}: is {}, expected an object", place, json_preview(document.root()));
  }
  TokenizerConfig config;
  TRY(read_token(object, "bos_token", place, &config.bos_token));
  TRY(read_token(object, "eos_token", place, &config.eos_token));
  TRY(read_token(object, "pad_token", place, &config.pad_token));
  TRY(read_token(object, "unk_token", place, &config.unk_token));
  TRY(read_flag(object, "add_bos_token", place, &config.add_bos_token));
  TRY(read_flag(object, "add_eos_token", place, &config.add_eos_token));
  TRY(json_read(object, "tokenizer_class", place, &config.tokenizer_class));
  double length = 0;  // transformers writes 1e30 for "no limit"
  TRY(json_read(object, "model_max_length", place, &length));
  if (length > 0 && length < 1e15) config.model_max_length = static_cast<int64_t>(length);
  TRY(read_templates(object, place, config));
  return config;
}

}  // namespace westlake
