// The steps of normalisation. See normalizer.h.
#include "text/normalizer.h"

#include <utf8proc.h>

#include <algorithm>

#include "text/char_table.h"
#include "text/unicode.h"

namespace westlake {
namespace {

constexpr double kMostGrowth = 256;
constexpr size_t kMostSteps = 32;

// Canonical or compatible decomposition of `text`, marks in canonical order. Sorted here and not by utf8proc, whose
// exchange sort takes n^2 steps on a long run of marks. Characters that the reference's tables do not know yet stay.
void decompose(std::string_view text, bool compatible, std::vector<utf8proc_int32_t>& codes) {
  const auto options =
      static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compatible ? UTF8PROC_COMPAT : 0));
  const CharTable& table = char_table();
  const auto order = [](utf8proc_int32_t code) { return utf8proc_get_property(code)->combining_class; };
  utf8proc_int32_t parts[32];
  int boundary = 0;
  codes.clear();
  size_t marks = 0;  // where the run of marks at the end of `codes` begins
  const auto sort_marks = [&] {
    std::stable_sort(codes.begin() + static_cast<ptrdiff_t>(marks), codes.end(),
                     [&](auto a, auto b) { return order(a) < order(b); });
  };
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = utf8_at(text.data() + at);
    at += c.size;
    parts[0] = static_cast<utf8proc_int32_t>(c.code);
    utf8proc_ssize_t count = 1;
    const bool active = char_bits(table.classes, c.code) & kDecomposes;
    if (active) count = utf8proc_decompose_char(parts[0], parts, 32, options, &boundary);
    for (utf8proc_ssize_t i = 0; i < count && i < 32; ++i) {
      if (!active || order(parts[i]) == 0) {
        sort_marks();
        codes.push_back(parts[i]);
        marks = codes.size();
      } else {
        codes.push_back(parts[i]);
      }
    }
  }
  sort_marks();
}

void normalize_part(std::string_view text, bool compatible, bool compose, std::string& out) {
  std::vector<utf8proc_int32_t> codes;
  decompose(text, compatible, codes);
  auto count = static_cast<utf8proc_ssize_t>(codes.size());
  if (compose) {
    count = utf8proc_normalize_utf32(codes.data(), count,
                                     static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  }
  for (utf8proc_ssize_t i = 0; i < count; ++i) utf8_append(out, static_cast<uint32_t>(codes[i]));
}

// NFC. A character that is not "unsafe" is a starter, stays as it is and joins nothing before it: so only runs of
// unsafe characters, with the one character before them, go through utf8proc.
bool nfc(std::string_view text, std::string& out) {
  const CharTable& table = char_table();
  const char* const stop = text.data() + text.size();
  const char* done = text.data();
  bool changed = false;
  for (const char* p = done; p < stop;) {
    p = table.skip_other(p, stop, kNfcUnsafe);
    if (p == stop) break;
    const char* begin = p > done ? utf8_before(done, p) : p;
    const char* end = table.skip(p, stop, kNfcUnsafe);
    if (!changed) out.clear();
    changed = true;
    out.append(done, begin);
    normalize_part({begin, static_cast<size_t>(end - begin)}, false, true, out);
    done = p = end;
  }
  if (changed) out.append(done, stop);
  return changed;
}

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

void lowercase(std::string_view text, std::string& out) {
  out.clear();
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = utf8_at(text.data() + at);
    if (c.code == 0x130) {
      out += "i\xcc\x87";  // the one capital whose small form is two characters
    } else {
      utf8_append(out, static_cast<uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c.code))));
    }
    at += c.size;
  }
}

std::string_view strip(std::string_view text, bool left, bool right) {
  const CharTable& table = char_table();
  const char* begin = text.data();
  const char* end = begin + text.size();
  if (left) begin = table.skip(begin, end, kSpace);
  while (right && end > begin) {
    const char* before = utf8_before(begin, end);
    if (!(table.at(before).bits & kSpace)) break;
    end = before;
  }
  return {begin, static_cast<size_t>(end - begin)};
}

}  // namespace

Result<Normalizer> Normalizer::from_json(JsonElement element, std::string_view place) {
  Normalizer made;
  double growth = 1;
  if (!element.is_null()) TRY(made.add(element, place, &growth));
  if (growth > kMostGrowth) {
    return make_error(Code::kUnsupported, "{}: its steps can make a text {:.0f} times as long, at most {} is run",
                      place, growth, kMostGrowth);
  }
  return made;
}

Status Normalizer::add(JsonElement element, std::string_view place, double* growth) {
  JsonObject object;
  std::string type;
  if (element.get(object) != simdjson::SUCCESS) {
    return make_error(Code::kCorrupt, "{}: is {}, expected an object", place, json_preview(element));
  }
  TRY(json_read(object, "type", place, &type));
  if (steps_.size() > kMostSteps) {
    return make_error(Code::kUnsupported, "{}: more than {} steps", place, kMostSteps);
  }
  if (type == "Sequence") {
    JsonArray steps;
    if (object.at_key("normalizers").get(steps) != simdjson::SUCCESS) {
      return make_error(Code::kCorrupt, "{}: a Sequence without the list 'normalizers'", place);
    }
    for (const JsonElement step : steps) TRY(add(step, place, growth));
    return {};
  }
  Step step{Kind::kNfc, {}, nullptr};
  if (type == "NFC") {
    step.kind = Kind::kNfc;
  } else if (type == "NFD" || type == "NFKC" || type == "NFKD") {
    step.kind = type == "NFD" ? Kind::kNfd : type == "NFKC" ? Kind::kNfkc : Kind::kNfkd;
  } else if (type == "Lowercase") {
    step.kind = Kind::kLowercase;
  } else if (type == "Prepend") {
    step.kind = Kind::kPrepend;
    TRY(json_read(object, "prepend", place, &step.text));
    *growth *= 1 + static_cast<double>(step.text.size());
  } else if (type == "Strip") {
    step.kind = Kind::kStrip;
    TRY(json_read(object, "strip_left", place, &step.left));
    TRY(json_read(object, "strip_right", place, &step.right));
  } else if (type == "Replace") {
    step.kind = Kind::kReplace;
    TRY(json_read(object, "content", place, &step.text));
    JsonObject pattern;
    std::string_view text;
    if (object.at_key("pattern").get(pattern) != simdjson::SUCCESS) {
      return make_error(Code::kCorrupt, "{}: a Replace without the object 'pattern'", place);
    }
    double per_match = 1;  // the shortest match, in bytes
    if (pattern.at_key("String").get(text) == simdjson::SUCCESS) {
      TRY_ASSIGN(step.pattern, make_literal_pattern(text, place));
      per_match = static_cast<double>(text.size());
    } else if (pattern.at_key("Regex").get(text) == simdjson::SUCCESS) {
      TRY_ASSIGN(step.pattern, make_pattern(text, place));
    } else {
      return make_error(Code::kCorrupt, "{}: the 'pattern' of a Replace has neither 'Regex' nor 'String'", place);
    }
    *growth *= std::max(1.0, static_cast<double>(step.text.size()) / per_match);
  } else {
    return make_error(Code::kUnsupported,
                      "{}: '{}' is not supported. Supported: Sequence, NFC, NFD, NFKC, NFKD, Lowercase, Prepend, "
                      "Replace, Strip",
                      place, type);
  }
  steps_.push_back(std::move(step));
  return {};
}

bool Normalizer::apply_step(const Step& step, std::string_view text, std::string& out) {
  switch (step.kind) {
    case Kind::kNfc:
      return nfc(text, out);
    case Kind::kNfd:
    case Kind::kNfkc:
    case Kind::kNfkd:
      if (is_ascii(text)) return false;
      out.clear();
      normalize_part(text, step.kind != Kind::kNfd, step.kind == Kind::kNfkc, out);
      return true;
    case Kind::kLowercase:
      lowercase(text, out);
      return true;
    case Kind::kPrepend:
      if (text.empty()) return false;
      out = step.text;
      out += text;
      return true;
    case Kind::kStrip:
      out = strip(text, step.left, step.right);
      return true;
    case Kind::kReplace: {
      StretchWalk walk(*step.pattern, text);
      Stretch stretch;
      out.clear();
      while (walk.next(&stretch)) {
        out += stretch.is_match ? std::string_view(step.text) : text.substr(stretch.begin, stretch.end - stretch.begin);
      }
      return true;
    }
  }
  return false;
}

std::string_view Normalizer::apply(std::string_view text, std::string& buffer) const {
  std::string other;
  for (const Step& step : steps_) {
    if (!apply_step(step, text, other)) continue;
    buffer.swap(other);
    text = buffer;
  }
  return text;
}

std::string Normalizer::signature() const {
  static constexpr const char* kNames[] = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Prepend", "Replace", "Strip"};
  std::string out;
  for (const Step& step : steps_) {
    out += kNames[static_cast<int>(step.kind)];
    if (step.pattern) out += " " + step.pattern->name();
    if (!step.text.empty()) out += " by " + step.text;
    out += "; ";
  }
  return out;
}

}  // namespace westlake
