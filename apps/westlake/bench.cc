// westlake bench: tokens a second of prefill, decode, batches and long contexts, beside what this machine's roofs
// allow. decode:  a token reads every chosen weight once, and the cache   -> roof = read bandwidth / bytes a token
// prefill: a piece of text multiplies and reads                    -> roof = tokens / max(operations / peak, bytes /
// bandwidth)
#include "westlake/bench_runs.h"
#include "westlake/command.h"

namespace westlake {
namespace {

Status run(const BenchOptions& options) {
  if (options.roof_only) {
    TRY_ASSIGN(const Runtime machine, open_machine(options.runtime));
    print_roof(measure_roof(*machine.pool), machine.pool->size(), options.json);
    return {};
  }
  if (options.runtime.model.empty())
    return make_error(Code::kInvalidArgument, "bench: no MODEL. Without one there is only bench --roof");
  TRY_ASSIGN(Runtime runtime, open_runtime(options.runtime));
  TRY_ASSIGN(const BenchResult result, run_bench(options, runtime));
  if (options.json) {
    print_bench_json(result, runtime);
  } else {
    print_bench_text(result, runtime);
  }
  return {};
}

}  // namespace

void add_bench(CLI::App& app, Action* action) {
  auto options = std::make_shared<BenchOptions>();
  CLI::App* command = app.add_subcommand("bench", "measures prefill and decode beside this machine's roofs");
  add_runtime_options(*command, &options->runtime);
  command->get_option("MODEL")->required(false);
  command->add_option("--prefill", options->prefill, "tokens of the prompt")->check(CLI::Range(1, 1 << 20));
  command->add_option("--decode", options->decode, "tokens written after it")->check(CLI::Range(0, 1 << 20));
  command->add_option("--repeats", options->repeats, "counted runs")->check(CLI::Range(1, 1000));
  command->add_option("--chunk", options->chunk, "tokens computed at a time")->check(CLI::Range(1, 65536));
  command->add_option("--batch", options->batch, "sequences decoded together, such as 1,8,32")
      ->delimiter(',')
      ->check(CLI::Range(1, 4096));
  command->add_option("--batch-prompt", options->batch_prompt, "tokens of each of them before that")
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--batch-steps", options->batch_steps, "tokens of each of them, counted in a run")
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--context", options->context, "decode after so many positions, such as 8192, beside 128")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 20));
  command->add_flag("--ops", options->ops, "a table of operations: time, bytes, share of the roof");
  command->add_flag("--roof", options->roof_only, "the roofs of this machine alone, without a model");
  command->add_flag("--json", options->json, "one JSON object on stdout");
  command->callback([action, options] { *action = [options] { return run(*options); }; });
}

}  // namespace westlake
