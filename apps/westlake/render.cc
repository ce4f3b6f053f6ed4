// westlake render: a conversation through the model's chat template: the text and the ids that the model would get.
// Text of messages and tools is encoded apart, as plain text, so nothing a user writes becomes a control token; the ids
// are those. "ids_joined" is what a program gives that encodes the rendered text as a whole: for comparing.
#include <fmt/format.h>

#include "base/file.h"
#include "base/json.h"
#include "formats/text_file.h"
#include "model/chat_render.h"
#include "westlake/command.h"
#include "westlake/runtime.h"

namespace westlake {
namespace {

struct Options {
  std::string model, messages, out;
};

void put_ids(JsonWriter& w, std::string_view key, const std::vector<int32_t>& ids) {
  w.key(key).begin_array();
  for (int32_t id : ids) w.value(id);
  w.end_array();
}

Result<std::string> render_json(const TextBundle& bundle, std::string_view json, const std::string& place) {
  TRY_ASSIGN(const JsonDocument document, JsonDocument::parse(json, place));
  TRY_ASSIGN(const ChatInput input, ChatInput::render(bundle, document.root(), place));
  JsonWriter w;
  w.begin_object().key("text").value(input.text);
  put_ids(w, "ids", input.ids);
  put_ids(w, "ids_joined", bundle.tokenizer.encode(input.text));
  w.end_object();
  return w.text();
}

Status run(const Options& options) {
  TRY_ASSIGN(const std::string path, resolve_model(options.model));
  TRY_ASSIGN(const TextBundle bundle, TextBundle::open(path));
  TRY_ASSIGN(TextReader reader, TextReader::open(options.messages));
  std::string result;
  if (options.messages.ends_with(".jsonl")) {
    for (std::string line;;) {
      TRY_ASSIGN(const bool more, reader.next_line(&line));
      if (!more) break;
      if (line.empty()) continue;
      TRY_ASSIGN(const std::string row,
                 render_json(bundle, line, fmt::format("{}:{}", options.messages, reader.line_number())));
      result += row + "\n";
    }
  } else {
    TRY_ASSIGN(const std::string json, reader.read_all(uint64_t{1} << 30));
    TRY_ASSIGN(result, render_json(bundle, json, options.messages));
    result += "\n";
  }
  if (!options.out.empty()) return write_file(options.out, result);
  fmt::print("{}", result);
  return {};
}

}  // namespace

void add_render(CLI::App& app, Action* action) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("render", "renders a conversation with the model's chat template");
  command->add_option("MODEL", options->model, "a model, a folder with tokenizer.json, or that file")->required();
  command
      ->add_option("--messages", options->messages,
                   "{\"messages\", \"add_generation_prompt\", \"tools\"}; a .jsonl has one a line")
      ->required();
  command->add_option("--out", options->out, "where {\"text\", \"ids\"} goes (default: standard output)");
  command->callback([action, options] { *action = [options] { return run(*options); }; });
}

}  // namespace westlake
