// westlake train-tokenizer: learns a vocabulary from text and writes it as Hugging Face does.
#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <optional>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/progress.h"
#include "text/tokenizer_trainer.h"
#include "train/documents.h"
#include "westlake/command.h"

namespace westlake {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::vector<std::string> data;
  std::string out;
  TokenizerTrainerOptions trainer;
  int threads = 0;
  bool json = false;
};

struct Counted {
  uint64_t documents = 0, bytes = 0;
};

// As much text as is counted at once: enough parts for all threads, little next to the table of words.
constexpr uint64_t kRoundBytes = uint64_t{16} << 20;

Result<Counted> count_words(std::vector<std::string> files, ThreadPool& pool, TokenizerTrainer& trainer) {
  DocumentReader reader(std::move(files));
  Progress progress("reading", reader.bytes_total(), "bytes");
  Counted counted;
  for (bool more = true; more;) {
    std::vector<TextPart> parts;
    TRY_ASSIGN(more, reader.read_parts(kRoundBytes, &parts));
    std::vector<std::string_view> texts;
    for (const TextPart& part : parts) {
      texts.push_back(part.text);
      counted.bytes += part.text.size();
      counted.documents += part.ends ? 1 : 0;
    }
    trainer.feed(pool, texts);
    progress.update(reader.bytes_read());
  }
  return counted;
}

// The folder is written once: another tokenizer in it belongs to checkpoints, perhaps, that would no longer fit.
Status check_free(const std::string& path, std::string_view content) {
  if (!is_file(path)) return {};
  TRY_ASSIGN(const std::string old, read_file(path));
  if (old == content) return {};
  return make_error(Code::kInvalidArgument,
                    "{}: is there already, and it is another one. Hint: name another folder, or remove it first", path);
}

Status write_folder(const std::string& folder, const std::string& tokenizer, const std::string& config) {
  const std::string tokenizer_path = folder + "/tokenizer.json", config_path = folder + "/tokenizer_config.json";
  TRY(check_free(tokenizer_path, tokenizer));
  TRY(check_free(config_path, config));
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) return make_error(Code::kIo, "{}: cannot make the folder: {}", folder, error.message());
  TRY(write_file(tokenizer_path, tokenizer));
  return write_file(config_path, config);
}

Status run(const Options& options) {
  std::error_code error;
  if (fs::exists(options.out, error) && !is_directory(options.out))
    return make_error(Code::kInvalidArgument, "{}: is there and is no folder", options.out);
  TRY_ASSIGN(std::vector<std::string> files, list_data_files(options.data));
  TRY_ASSIGN(TokenizerTrainer trainer, TokenizerTrainer::create(options.trainer));
  const int64_t start = now_ns();
  ThreadPool pool(options.threads > 0 ? options.threads : hardware_threads());
  TRY_ASSIGN(const Counted counted, count_words(std::move(files), pool, trainer));
  if (counted.documents == 0) return make_error(Code::kInvalidArgument, "the data has no text: every file is empty");
  const int64_t read = now_ns();
  std::optional<Progress> line(std::in_place, "merging", static_cast<uint64_t>(options.trainer.vocab_size), "tokens");
  TRY_ASSIGN(Tokenizer tokenizer, trainer.train([&](int64_t size) { line->update(static_cast<uint64_t>(size)); }));
  line.reset();
  const double read_s = static_cast<double>(read - start) * 1e-9;
  const double merge_s = static_cast<double>(now_ns() - read) * 1e-9;
  TRY(write_folder(options.out, tokenizer.to_json() + "\n", trained_tokenizer_config() + "\n"));
  if (options.json) {
    JsonWriter w;
    w.begin_object().key("out").value(options.out).key("vocab_size").value(tokenizer.vocab_size());
    w.key("documents").value(counted.documents).key("bytes").value(counted.bytes);
    w.key("count_s").value(read_s).key("merge_s").value(merge_s).end_object();
    fmt::print("{}\n", w.text());
    return {};
  }
  fmt::print(stderr, "{}: {} tokens from {} documents, {} ({:.1f} s counting words, {:.1f} s merging)\n", options.out,
             tokenizer.vocab_size(), counted.documents, human_bytes(counted.bytes), read_s, merge_s);
  if (tokenizer.vocab_size() < options.trainer.vocab_size)
    fmt::print(stderr, "note: the text has no more pairs to merge; --vocab {} was asked for\n",
               options.trainer.vocab_size);
  return {};
}

}  // namespace

void add_train_tokenizer(CLI::App& app, Action* action) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("train-tokenizer", "learns a vocabulary from text: tokenizer.json and its config");
  command->add_option("DATA", options->data, ".txt or .jsonl files (also .zst, .gz), folders, - for standard input")
      ->required();
  command->add_option("--vocab", options->trainer.vocab_size, "tokens in all, special ones and 256 bytes included")
      ->capture_default_str();
  command->add_option("--out", options->out, "the folder to write")->required();
  command->add_option("--min-frequency", options->trainer.min_frequency, "a pair seen less often becomes no token");
  command
      ->add_option("--pipeline", options->trainer.pipeline,
                   "how text is split before merging, by its name in GGUF: deepseek-v3 (numbers in threes), qwen2 "
                   "(single digits), gpt-2, llama-bpe ...")
      ->capture_default_str();
  command->add_option("--threads", options->threads, "threads (default: all cores)")->check(CLI::Range(1, 1024));
  command->add_flag("--json", options->json, "one JSON object on stdout");
  command->callback([action, options] { *action = [options] { return run(*options); }; });
}

}  // namespace westlake
