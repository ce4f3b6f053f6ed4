// westlake tokenize: text to token ids and back, one text or a file of JSON lines.
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

#include "base/file.h"
#include "base/json.h"
#include "formats/text_file.h"
#include "westlake/command.h"
#include "westlake/runtime.h"

namespace westlake {
namespace {

struct Options {
  std::string model, text, jsonl, out;
  bool has_text = false, plain = false, bos = false;
};

// {"ids": [...], "decoded": "..."}
std::string line_for(const TextBundle& bundle, std::string_view text, const Options& options) {
  EncodeOptions encode;
  encode.parse_added_tokens = !options.plain;
  encode.add_special_tokens = options.bos;
  const std::vector<int32_t> ids = bundle.tokenizer.encode(text, encode);
  JsonWriter w;
  w.begin_object().key("ids").begin_array();
  for (int32_t id : ids) w.value(id);
  w.end_array().key("decoded").value(bundle.tokenizer.decode(ids)).end_object();
  return w.text();
}

Result<std::string> text_of_line(const std::string& line, const std::string& place) {
  TRY_ASSIGN(const JsonDocument document, JsonDocument::parse(line, place));
  JsonObject object;
  std::string_view text;
  if (document.root().get(object) != simdjson::SUCCESS || object.at_key("text").get(text) != simdjson::SUCCESS)
    return make_error(Code::kCorrupt, "{}: expected an object with a string \"text\", seen {}", place,
                      json_preview(document.root()));
  return std::string(text);
}

Status run(const Options& options) {
  TRY_ASSIGN(const std::string path, resolve_model(options.model));
  TRY_ASSIGN(const TextBundle bundle, TextBundle::open(path));
  std::string result;
  if (options.has_text) {
    result = line_for(bundle, options.text, options) + "\n";
  } else {
    auto opened =
        options.jsonl == "-" ? TextReader::from_fd(STDIN_FILENO, "standard input") : TextReader::open(options.jsonl);
    TRY_ASSIGN(TextReader reader, std::move(opened));
    for (std::string line;;) {
      TRY_ASSIGN(const bool more, reader.next_line(&line));
      if (!more) break;
      if (line.empty()) continue;
      TRY_ASSIGN(const std::string text, text_of_line(line, fmt::format("{}:{}", options.jsonl, reader.line_number())));
      result += line_for(bundle, text, options) + "\n";
    }
  }
  if (!options.out.empty()) return write_file(options.out, result);
  fmt::print("{}", result);
  return {};
}

}  // namespace

void add_tokenize(CLI::App& app, Action* action) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("tokenize", "turns text into token ids and back");
  command->add_option("MODEL", options->model, "a model, a folder with tokenizer.json, or that file")->required();
  CLI::Option* text = command->add_option("--text", options->text, "the text");
  CLI::Option* jsonl = command->add_option("--jsonl", options->jsonl, "lines {\"text\": ...}, - for standard input");
  jsonl->excludes(text);
  command->add_option("--out", options->out, "where the lines {\"ids\", \"decoded\"} go (default: standard output)");
  command->add_flag("--plain", options->plain, "the names of added tokens in the text are only text");
  command->add_flag("--bos", options->bos, "puts the model's begin and end tokens around the text");
  command->callback([action, options, text, jsonl] {
    if (text->count() == 0 && jsonl->count() == 0) throw CLI::RequiredError("--text or --jsonl");
    options->has_text = text->count() > 0;
    *action = [options] { return run(*options); };
  });
}

}  // namespace westlake
