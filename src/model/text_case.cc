#include "model/text_case.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>

#include "base/json.h"
#include "formats/text_file.h"
#include "model/chat_render.h"

namespace westlake {
namespace {

constexpr size_t kMostFailures = 20;

class Vectors {
 public:
  Vectors(const TextBundle& bundle, TextReport* report) : bundle_(bundle), report_(report) {}

  Status run_line(const std::string& line, const std::string& place) {
    TRY_ASSIGN(const JsonDocument document, JsonDocument::parse(line, place));
    JsonObject object;
    if (document.root().get(object) != simdjson::SUCCESS)
      return make_error(Code::kCorrupt, "{}: is no JSON object", place);
    good_ = true;
    place_ = place;
    if (json_has(object, "messages")) {
      TRY(run_chat(object));
    } else {
      TRY(run_tokenizer(object));
    }
    ++report_->vectors;
    report_->equal += good_;
    return {};
  }

 private:
  Result<std::vector<int32_t>> ids_of(const JsonObject& object, std::string_view key) const {
    JsonArray array;
    if (object.at_key(key).get(array) != simdjson::SUCCESS)
      return make_error(Code::kCorrupt, "{}: '{}' is no list", place_, key);
    std::vector<int32_t> ids;
    for (JsonElement element : array) {
      int64_t id = 0;
      if (element.get(id) != simdjson::SUCCESS)
        return make_error(Code::kCorrupt, "{}: '{}' holds {}", place_, key, json_preview(element));
      ids.push_back(static_cast<int32_t>(id));
    }
    return ids;
  }

  Status run_tokenizer(const JsonObject& object) {
    std::string text, decoded;
    bool special = true;
    TRY(json_read(object, "text", place_, &text));
    TRY(json_read(object, "decoded", place_, &decoded));
    TRY(json_read(object, "special", place_, &special));
    TRY_ASSIGN(const std::vector<int32_t> expected, ids_of(object, "ids"));
    EncodeOptions options;
    options.parse_added_tokens = special;
    compare("ids", bundle_.tokenizer.encode(text, options), expected);
    if (json_has(object, "decoded")) compare("decoded", bundle_.tokenizer.decode(expected), decoded);
    return {};
  }

  Status run_chat(const JsonObject& object) {
    // Only the request is given to the template, not the expected results beside it.
    JsonWriter request;
    request.begin_object();
    for (std::string_view key : {"messages", "add_generation_prompt", "tools"}) {
      JsonElement value;
      if (object.at_key(key).get(value) == simdjson::SUCCESS) request.key(key).raw(simdjson::minify(value));
    }
    TRY_ASSIGN(const JsonDocument document, JsonDocument::parse(request.end_object().text(), place_));
    auto input = ChatInput::render(bundle_, document.root(), place_);
    if (!input.ok()) {
      fail(input.error().message);
      return {};
    }
    std::string text;
    TRY(json_read(object, "text", place_, &text));
    compare("text", input->text, text);
    if (json_has(object, "ids")) {
      TRY_ASSIGN(const std::vector<int32_t> expected, ids_of(object, "ids"));
      compare("ids", bundle_.tokenizer.encode(input->text), expected);
    }
    if (json_has(object, "ids_apart")) {
      TRY_ASSIGN(const std::vector<int32_t> expected, ids_of(object, "ids_apart"));
      compare("ids_apart", input->ids, expected);
    }
    return {};
  }

  void fail(std::string text) {
    good_ = false;
    if (report_->failures.size() < kMostFailures) report_->failures.push_back(std::move(text));
  }

  template <typename T>
  void compare(std::string_view what, const T& seen, const T& expected) {
    if (seen == expected) return;
    const size_t at = static_cast<size_t>(
        std::mismatch(seen.begin(), seen.end(), expected.begin(), expected.end()).first - seen.begin());
    auto around = [&](const T& x) {
      const size_t begin = at > 8 ? at - 8 : 0;
      return T(x.begin() + std::min(begin, x.size()), x.begin() + std::min(at + 8, x.size()));
    };
    fail(fmt::format("{}: {} differs at {}: seen {}, expected {}", place_, what, at, around(seen), around(expected)));
  }

  const TextBundle& bundle_;
  TextReport* report_;
  std::string place_;
  bool good_ = true;
};

}  // namespace

std::vector<std::string> text_vector_files(const std::string& folder) {
  std::vector<std::string> files;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    if (entry.path().extension() == ".jsonl") files.push_back(entry.path().filename().string());
  }
  std::sort(files.begin(), files.end());
  return files;
}

Result<TextReport> run_text_case(const TextBundle& bundle, const std::string& path) {
  TextReport report;
  report.name = path;
  Vectors vectors(bundle, &report);
  TRY_ASSIGN(TextReader reader, TextReader::open(path));
  for (std::string line;;) {
    TRY_ASSIGN(const bool more, reader.next_line(&line));
    if (!more) return report;
    if (line.empty()) continue;
    TRY(vectors.run_line(line, fmt::format("{}:{}", path, reader.line_number())));
  }
}

}  // namespace westlake
