// Values as text: Python's str and repr, and json.dumps.
#include <algorithm>
#include <charconv>
#include <cmath>

#include "text/jinja_value.h"

namespace westlake {

std::string jinja_int_text(JinjaInt number) {
  const bool negative = number < 0;
  unsigned __int128 rest = negative ? -static_cast<unsigned __int128>(number) : static_cast<unsigned __int128>(number);
  std::string digits;
  do {
    digits += static_cast<char>('0' + static_cast<int>(rest % 10));
    rest /= 10;
  } while (rest != 0);
  if (negative) digits += '-';
  std::reverse(digits.begin(), digits.end());
  return digits;
}

std::string jinja_float_text(double number) {
  if (std::isnan(number)) return "nan";
  if (std::isinf(number)) return number < 0 ? "-inf" : "inf";
  char buffer[64];
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), number, std::chars_format::scientific).ptr;
  const std::string_view text(buffer, static_cast<size_t>(end - buffer));
  const size_t e = text.find('e');
  int exponent = 0;
  const char* exponent_begin = text.data() + e + (text[e + 1] == '+' ? 2 : 1);
  std::from_chars(exponent_begin, text.data() + text.size(), exponent);
  std::string digits;
  for (char c : text.substr(0, e)) {
    if (c >= '0' && c <= '9') digits += c;
  }
  std::string out = std::signbit(number) ? "-" : "";
  if (exponent < -4 || exponent >= 16) {
    out += digits[0];
    if (digits.size() > 1) out += "." + digits.substr(1);
    out += exponent < 0 ? "e-" : "e+";
    const int magnitude = std::abs(exponent);
    return out + (magnitude < 10 ? "0" : "") + std::to_string(magnitude);
  }
  if (exponent < 0) return out + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  const size_t whole = static_cast<size_t>(exponent) + 1;
  if (digits.size() <= whole) return out + digits + std::string(whole - digits.size(), '0') + ".0";
  return out + digits.substr(0, whole) + "." + digits.substr(whole);
}

namespace {

void append_repr(std::string& out, std::string_view text) {
  const bool double_quoted = text.find('\'') != text.npos && text.find('"') == text.npos;
  const char quote = double_quoted ? '"' : '\'';
  out += quote;
  for (size_t i = 0; i < text.size();) {
    const uint32_t code = utf8_next(text, &i);
    if (code == static_cast<uint32_t>(quote) || code == '\\') {
      out += '\\';
      out += static_cast<char>(code);
    } else if (code == '\n') {
      out += "\\n";
    } else if (code == '\r') {
      out += "\\r";
    } else if (code == '\t') {
      out += "\\t";
    } else if (is_python_printable(code)) {
      utf8_append(out, code);
    } else {
      out += code < 0x100     ? fmt::format("\\x{:02x}", code)
             : code < 0x10000 ? fmt::format("\\u{:04x}", code)
                              : fmt::format("\\U{:08x}", code);
    }
  }
  out += quote;
}

// Writes repr(value) or json.dumps(value) into one plain string, metered as it grows.
class Writer {
 public:
  explicit Writer(JinjaHeap& heap) : heap_(heap) {}

  Status repr(const JinjaValue& value) {
    TRY(grow(16));
    switch (value.kind()) {
      case JinjaKind::kUndefined:
        return put("Undefined");
      case JinjaKind::kNone:
        return put("None");
      case JinjaKind::kBool:
        return put(value.as_bool() ? "True" : "False");
      case JinjaKind::kInt:
        return put(jinja_int_text(value.as_int()));
      case JinjaKind::kFloat:
        return put(jinja_float_text(value.as_double()));
      case JinjaKind::kString:
        TRY(grow(value.text().size()));
        if (value.is_markup()) out_ += "Markup(";
        append_repr(out_, value.text());
        return put(value.is_markup() ? ")" : "");
      case JinjaKind::kList:
        return repr_list(value);
      case JinjaKind::kDict:
        return repr_dict(value.as_dict());
      default:
        return make_error(Code::kUnsupported, "a {} cannot be printed", jinja_type_name(value));
    }
  }

  Status json(const JinjaValue& value, const JinjaJsonOptions& options, int level) {
    TRY(grow(16));
    switch (value.kind()) {
      case JinjaKind::kNone:
        return put("null");
      case JinjaKind::kBool:
        return put(value.as_bool() ? "true" : "false");
      case JinjaKind::kInt:
        return put(jinja_int_text(value.as_int()));
      case JinjaKind::kFloat:
        return put(json_float(value.as_double()));
      case JinjaKind::kString:
        return json_string(value.text(), options);
      case JinjaKind::kList:
        if (value.is_list(JinjaFlavour::kList) || value.is_list(JinjaFlavour::kTuple)) {
          return json_list(value.as_list().items, options, level);
        }
        break;
      case JinjaKind::kDict:
        return json_dict(value.as_dict(), options, level);
      default:
        break;
    }
    return make_error(Code::kInvalidArgument, "tojson: object of type {} is not JSON serializable",
                      jinja_type_name(value));
  }

  std::string take() { return std::move(out_); }

 private:
  Status put(std::string_view text) {
    out_ += text;
    return {};
  }

  // Room and work for about `bytes` more.
  Status grow(size_t bytes) {
    TRY(heap_.charge_bytes(bytes));
    return heap_.reserve(out_.size() + bytes);
  }

  Status repr_list(const JinjaValue& value) {
    const JinjaListBody& list = value.as_list();
    if (list.flavour == JinjaFlavour::kGenerator) {
      return make_error(Code::kUnsupported, "a generator cannot be printed. Hint: '|list' makes a list of it");
    }
    if (list.flavour == JinjaFlavour::kRange) return repr_range(list);
    const bool tuple = list.flavour == JinjaFlavour::kTuple;
    const bool view = !tuple && list.flavour != JinjaFlavour::kList;
    if (view) out_ += fmt::format("{}(", jinja_type_name(value));
    out_ += tuple ? "(" : "[";
    for (size_t i = 0; i < list.items.size(); ++i) {
      if (i > 0) out_ += ", ";
      TRY(repr(list.items[i]));
    }
    if (tuple && list.items.size() == 1) out_ += ",";
    return put(tuple ? ")" : view ? "])" : "]");
  }

  // The step is not kept: a range that another step made would print differently, so it is refused.
  Status repr_range(const JinjaListBody& list) {
    const auto& items = list.items;
    const bool by_one = items.size() > 1 && items[1].as_int() - items[0].as_int() == 1;
    if (!by_one) return make_error(Code::kUnsupported, "a range cannot be printed. Hint: '|list' makes a list of it");
    return put(
        fmt::format("range({}, {})", jinja_int_text(items[0].as_int()), jinja_int_text(items.back().as_int() + 1)));
  }

  Status repr_dict(const JinjaDictBody& dict) {
    out_ += "{";
    for (size_t i = 0; i < dict.items.size(); ++i) {
      if (i > 0) out_ += ", ";
      TRY(repr(dict.items[i].first));
      out_ += ": ";
      TRY(repr(dict.items[i].second));
    }
    return put("}");
  }

  static std::string json_float(double number) {
    if (std::isnan(number)) return "NaN";
    if (std::isinf(number)) return number < 0 ? "-Infinity" : "Infinity";
    return jinja_float_text(number);
  }

  Status json_string(std::string_view text, const JinjaJsonOptions& options) {
    TRY(grow(text.size()));
    if (!options.ensure_ascii) {
      append_json(text);
      return {};
    }
    TRY(heap_.reserve(out_.size() + 6 * text.size()));
    std::string ascii;
    for (size_t i = 0; i < text.size();) {
      const size_t begin = i;
      const uint32_t code = utf8_next(text, &i);
      if (code < 0x80) {
        ascii.assign(text.substr(begin, i - begin));
        append_json(ascii, ascii_run_);
      } else if (code < 0x10000) {
        ascii_run_ += fmt::format("\\u{:04x}", code);
      } else {
        ascii_run_ +=
            fmt::format("\\u{:04x}\\u{:04x}", 0xd800 + ((code - 0x10000) >> 10), 0xdc00 + ((code - 0x10000) & 0x3ff));
      }
    }
    out_ += '"' + ascii_run_ + '"';
    ascii_run_.clear();
    return {};
  }

  void append_json(std::string_view text) {
    out_ += '"';
    append_json(text, out_);
    out_ += '"';
  }

  static void append_json(std::string_view text, std::string& out) {
    for (const char c : text) {
      const unsigned char byte = static_cast<unsigned char>(c);
      switch (c) {
        case '"':
          out += "\\\"";
          break;
        case '\\':
          out += "\\\\";
          break;
        case '\n':
          out += "\\n";
          break;
        case '\r':
          out += "\\r";
          break;
        case '\t':
          out += "\\t";
          break;
        case '\f':
          out += "\\f";
          break;
        case '\b':
          out += "\\b";
          break;
        default:
          if (byte < 0x20) {
            out += fmt::format("\\u{:04x}", byte);
          } else {
            out += c;
          }
      }
    }
  }

  Status newline(const JinjaJsonOptions& options, int level) {
    if (!options.indented) return {};
    TRY(grow(options.indent.size() * static_cast<size_t>(level) + 1));
    out_ += '\n';
    for (int i = 0; i < level; ++i) out_ += options.indent;
    return {};
  }

  Status json_list(const std::vector<JinjaValue>& items, const JinjaJsonOptions& options, int level) {
    if (items.empty()) return put("[]");
    out_ += '[';
    for (size_t i = 0; i < items.size(); ++i) {
      TRY(grow(options.item_separator.size()));
      if (i > 0) out_ += options.item_separator;
      TRY(newline(options, level + 1));
      TRY(json(items[i], options, level + 1));
    }
    TRY(newline(options, level));
    return put("]");
  }

  Status json_key(const JinjaValue& key, const JinjaJsonOptions& options) {
    switch (key.kind()) {
      case JinjaKind::kString:
        return json_string(key.text(), options);
      case JinjaKind::kNone:
        return put("\"null\"");
      case JinjaKind::kBool:
        return put(key.as_bool() ? "\"true\"" : "\"false\"");
      case JinjaKind::kInt:
        return put("\"" + jinja_int_text(key.as_int()) + "\"");
      case JinjaKind::kFloat:
        return put("\"" + json_float(key.as_double()) + "\"");
      default:
        return make_error(Code::kInvalidArgument, "tojson: a key must be a string or a number, not {}",
                          jinja_type_name(key));
    }
  }

  Status json_dict(const JinjaDictBody& dict, const JinjaJsonOptions& options, int level) {
    if (dict.items.empty()) return put("{}");
    std::vector<const JinjaPair*> items;
    for (const JinjaPair& item : dict.items) items.push_back(&item);
    if (options.sort_keys) {
      for (const JinjaPair* item : items) {
        if (!item->first.is(JinjaKind::kString)) {
          return make_error(Code::kUnsupported, "tojson: sort_keys with a key of type {}",
                            jinja_type_name(item->first));
        }
      }
      std::sort(items.begin(), items.end(),
                [](const JinjaPair* a, const JinjaPair* b) { return a->first.text() < b->first.text(); });
    }
    out_ += '{';
    for (size_t i = 0; i < items.size(); ++i) {
      TRY(grow(options.item_separator.size() + options.key_separator.size()));
      if (i > 0) out_ += options.item_separator;
      TRY(newline(options, level + 1));
      TRY(json_key(items[i]->first, options));
      out_ += options.key_separator;
      TRY(json(items[i]->second, options, level + 1));
    }
    TRY(newline(options, level));
    return put("}");
  }

  JinjaHeap& heap_;
  std::string out_;
  std::string ascii_run_;
};

}  // namespace

Result<JinjaString> jinja_text(JinjaHeap& heap, const JinjaValue& value, bool quoted) {
  if (!quoted && value.is(JinjaKind::kString)) return value.as_string();
  if (!quoted && value.is(JinjaKind::kUndefined)) return JinjaString();
  Writer writer(heap);
  TRY(writer.repr(value));
  return JinjaString(writer.take(), value.origin());
}

Result<JinjaString> jinja_json(JinjaHeap& heap, const JinjaValue& value, const JinjaJsonOptions& options) {
  Writer writer(heap);
  TRY(writer.json(value, options, 0));
  return JinjaString(writer.take(), value.origin());
}

}  // namespace westlake
