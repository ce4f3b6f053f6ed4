// westlake train: a model from text, into a folder that every reader of Hugging Face checkpoints opens; --resume goes
// on.
#include "westlake/command.h"
#include "westlake/train_run.h"

namespace westlake {
namespace {

Status run(const RunOptions& options) {
  if (!options.resume.empty()) return run_training(options);
  for (const auto& [flag, value] :
       {std::pair{"--model", &options.model}, {"--tokenizer", &options.tokenizer}, {"--out", &options.out}}) {
    if (value->empty())
      return make_error(Code::kInvalidArgument, "{} is needed to begin a run. Hint: westlake train --help", flag);
  }
  if (options.data.empty()) return make_error(Code::kInvalidArgument, "--data is needed to begin a run");
  return run_training(options);
}

}  // namespace

void add_train(CLI::App& app, Action* action) {
  auto options = std::make_shared<RunOptions>();
  options->prompts = {"Once upon a time"};
  CLI::App* command = app.add_subcommand("train", "trains a model from text; --resume goes on");
  command->add_option("--model", options->model, "a preset (story-1m .. story-100m, dense-30m ..) or a config.json");
  command->add_option("--tokenizer", options->tokenizer, "folder with tokenizer.json");
  command->add_option("--data", options->data, ".txt, .jsonl (also .zst, .gz), folders, - for standard input");
  command->add_option("--valid", options->valid, "held-out text, the same kinds");
  add_run_options(*command, options.get());
  command->callback([action, options] { *action = [options] { return run(*options); }; });
}

}  // namespace westlake
