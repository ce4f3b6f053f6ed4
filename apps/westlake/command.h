// The subcommands of the binary, one file each. A file's add_NAME() declares the flags and returns what to run; only
// apps/ reads argv and the environment and prints.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>

#include "base/result.h"

namespace westlake {

// What main() runs for the subcommand that was chosen. An error is printed as one line and ends with exit code 1.
using Action = std::function<Status()>;

// Declares the subcommand under `app`; sets *action in its callback.
void add_bench(CLI::App& app, Action* action);
void add_chat(CLI::App& app, Action* action);
void add_check(CLI::App& app, Action* action);
void add_convert(CLI::App& app, Action* action);
void add_eval(CLI::App& app, Action* action);
void add_finetune(CLI::App& app, Action* action);
void add_generate(CLI::App& app, Action* action);
void add_inspect(CLI::App& app, Action* action);
void add_logits(CLI::App& app, Action* action);
void add_perplexity(CLI::App& app, Action* action);
void add_pull(CLI::App& app, Action* action);
void add_render(CLI::App& app, Action* action);
void add_synth(CLI::App& app, Action* action);
void add_train(CLI::App& app, Action* action);
void add_tokenize(CLI::App& app, Action* action);
void add_train_tokenizer(CLI::App& app, Action* action);

}  // namespace westlake
