// A training run from the command line: what `train` and `finetune` share, from the flags to the last checkpoint.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "base/result.h"
#include "train/settings.h"

namespace westlake {

struct RunOptions {
  std::string model;      // a preset or a config.json; with `chat` the model to go on from
  std::string tokenizer;  // a folder; with `chat` the model's own is taken
  std::string out, resume;
  std::string tokens, precision = "bf16", optimizer = "muon", schedule = "wsd";
  std::vector<std::string> data, valid, prompts;
  bool chat = false;  // the data are conversations, loss on the assistant's tokens
  TrainSettings settings;
  int threads = 0;
  bool quiet = false, ops = false;
};

// Declares --out, --resume, --valid, --sample, the length of the run, the settings, --threads and --quiet, with the
// values in `options` as defaults.
void add_run_options(CLI::App& command, RunOptions* options);

// Runs to the end, or until Ctrl-C; `resume` goes on with a run of either kind. Errors: kInvalidArgument for flags that
// are missing or do not go together; those of the trainer.
Status run_training(RunOptions options);

}  // namespace westlake
