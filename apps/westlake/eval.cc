// westlake eval: the published small tests of a language model, on any checkpoint that opens.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include "base/json.h"
#include "base/progress.h"
#include "infer/eval_tasks.h"
#include "westlake/command.h"
#include "westlake/runtime.h"

namespace westlake {
namespace {

struct Options {
  RuntimeOptions runtime;
  std::vector<std::string> tasks;
  std::string data;
  EvalOptions eval;
  bool json = false;
};

void print_json(const std::vector<EvalFigure>& figures) {
  JsonWriter w;
  w.begin_object().key("figures").begin_array();
  for (const EvalFigure& f : figures) {
    w.begin_object().key("task").value(f.task);
    if (!f.of.empty()) w.key("of").value(f.of);
    w.key("name").value(f.name).key("value").value(f.value);
    if (f.error > 0) w.key("error").value(f.error);
    w.key("n").value(f.n).end_object();
  }
  w.end_array().end_object();
  fmt::print("{}\n", w.text());
}

Status run(const Options& options) {
  const std::vector<std::string> known = eval_task_names();
  for (const std::string& task : options.tasks) {
    if (std::find(known.begin(), known.end(), task) == known.end())
      return make_error(Code::kInvalidArgument, "task '{}' is not known. Tasks: {}", task, fmt::join(known, ", "));
  }
  TRY_ASSIGN(Runtime runtime, open_runtime(options.runtime));
  TRY_ASSIGN(const TextBundle text, TextBundle::open(runtime.checkpoint->path()));
  std::vector<EvalFigure> all;
  for (const std::string& task : options.tasks) {
    std::unique_ptr<Progress> line;
    TRY_ASSIGN(const std::vector<EvalFigure> figures,
               run_eval_task(*runtime.context, *runtime.model, text, task, options.data, options.eval,
                             [&](const std::string& what, int64_t done, int64_t total) {
                               if (!line)
                                 line = std::make_unique<Progress>(what, static_cast<uint64_t>(total), "texts");
                               line->update(static_cast<uint64_t>(done));
                             }));
    line.reset();
    for (const EvalFigure& f : figures) {
      all.push_back(f);
      if (options.json) continue;
      fmt::print("{:<10} {:<28} {:<18} {:.4f}", f.task, f.of, f.name, f.value);
      if (f.error > 0) fmt::print(" +- {:.4f}", f.error);
      fmt::print("  (n = {})\n", f.n);
    }
    std::fflush(stdout);
  }
  if (options.json) print_json(all);
  return {};
}

}  // namespace

void add_eval(CLI::App& app, Action* action) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("eval", "bits per byte, BLiMP, HellaSwag, LAMBADA, ARC");
  add_runtime_options(*command, &options->runtime);
  command->add_option("--task", options->tasks, "tasks, with commas: bpb,blimp,hellaswag,lambada,arc")
      ->delimiter(',')
      ->required();
  command
      ->add_option("--data", options->data, "folder with the tasks' files (.jsonl, .txt; also .zst, .gz), or one file")
      ->required();
  command->add_option("--ctx", options->eval.ctx, "tokens of a window of bpb")->check(CLI::Range(4, 1 << 20));
  command->add_option("--limit", options->eval.limit, "questions of a file at most (bpb: thousands of bytes)")
      ->check(CLI::Range(0, 1 << 30));
  command->add_flag("--json", options->json, "one JSON object on stdout");
  command->callback([action, options] { *action = [options] { return run(*options); }; });
}

}  // namespace westlake
