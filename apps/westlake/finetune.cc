// westlake finetune: a model that answers, from one that continues: conversations through its own chat template, loss
// on the assistant's tokens. The run's folder is as train's, and --resume goes on.
#include "westlake/command.h"
#include "westlake/train_run.h"

namespace westlake {
namespace {

constexpr double kEpochs = 2;  // where no length is given

// What serves a trained model: lower rates that fall in a straight line, and routers that stay as they were balanced,
// since padding would count as load.
RunOptions defaults() {
  RunOptions options;
  options.chat = true;
  options.prompts = {"Hello!", "Tell me a story about a dog and a red ball."};
  options.schedule = "linear";
  TrainSettings& s = options.settings;
  s.batch_tokens = 8192;
  s.optimiser.lr = 3e-4;
  s.optimiser.muon.lr = 2e-3;
  s.warmup_fraction = 0.05;
  s.mtp_weight = s.mtp_final_weight = 0.1;
  s.bias_rate = 0;
  return options;
}

Status run(RunOptions options) {
  if (options.resume.empty()) {
    if (options.model.empty())
      return make_error(Code::kInvalidArgument, "a model to begin from is needed. Hint: westlake finetune --help");
    if (options.out.empty()) return make_error(Code::kInvalidArgument, "--out is needed to begin a run");
    if (options.data.empty()) return make_error(Code::kInvalidArgument, "--chat is needed to begin a run");
    TrainSettings& s = options.settings;
    if (options.tokens.empty() && s.minutes == 0 && s.epochs == 0) s.epochs = kEpochs;
  }
  return run_training(std::move(options));
}

}  // namespace

void add_finetune(CLI::App& app, Action* action) {
  auto options = std::make_shared<RunOptions>(defaults());
  CLI::App* command = app.add_subcommand("finetune", "trains a model on conversations; --resume goes on");
  command->add_option("MODEL", options->model, "a run, a model folder, or a .gguf in f32, f16 or bf16");
  command->add_option(
      "--chat", options->data,
      "conversations: .jsonl (also .zst, .gz) of {\"messages\": [{\"role\", \"content\"}, ...]}, folders, "
      "- for standard input");
  command->add_option("--valid", options->valid, "held-out conversations");
  add_run_options(*command, options.get());
  command->callback([action, options] { *action = [options] { return run(*options); }; });
}

}  // namespace westlake
