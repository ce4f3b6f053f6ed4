// westlake check: runs reference folders and prints each difference. A folder holds a model with logits
// (model/reference_case.h), ten steps of training (train/training_case.h), or vectors of a tokenizer or chat template
// (model/text_case.h).
#include <fmt/format.h>

#include <cstdio>
#include <filesystem>

#include "base/file.h"
#include "base/json.h"
#include "model/reference_case.h"
#include "model/text_case.h"
#include "train/training_case.h"
#include "westlake/catalogue.h"
#include "westlake/command.h"
#include "westlake/runtime.h"

namespace westlake {
namespace {

struct Options {
  std::vector<std::string> folders;
  std::string model, tokenizer, dump;
  int threads = 0;
  bool fast = false, json = false;
};

struct Outcome {
  std::string name;
  std::optional<ReferenceReport> model;
  std::optional<TrainingReport> training;
  std::vector<TextReport> texts;
  std::string error;

  bool passed() const {
    bool good = error.empty() && (!model || model->passed()) && (!training || training->passed());
    for (const TextReport& text : texts) good = good && text.passed();
    return good;
  }
};

// The weights of a case that names a file of another place (SmolLM2): --model, or the model of the catalogue that has
// it.
Result<std::string> weights_of(const std::string& folder, const Options& options) {
  if (is_file(folder + "/config.json")) return std::string();
  if (!options.model.empty()) return resolve_model(options.model);
  TRY_ASSIGN(const std::string text, read_file(folder + "/meta.json", 16 << 20));
  TRY_ASSIGN(const JsonDocument document, JsonDocument::parse(text, folder + "/meta.json"));
  std::string file;
  if (JsonObject object; document.root().get(object) == simdjson::SUCCESS)
    TRY(json_read(object, "file", folder + "/meta.json", &file));
  for (const CatalogueEntry& entry : catalogue()) {
    if (!file.empty() && entry.file == file) return cached_model_path(entry.name);
  }
  return make_error(Code::kNotFound, "{}: the weights '{}' are of another place. Hint: --model PATH", folder, file);
}

// The tokenizer of text vectors: --tokenizer, the folder's own, the model's, or by the convention of the reference set
// ../../tokenizers/NAME.tokenizer.json[.zst] for a folder called tokenizer_NAME or chat_NAME.
Result<std::string> tokenizer_of(const std::string& folder, const std::string& name, const Options& options) {
  if (!options.tokenizer.empty()) return options.tokenizer;
  for (const char* own : {"/tokenizer.json", "/tokenizer.json.zst"}) {
    if (is_file(folder + own)) return folder;
  }
  const size_t underscore = name.find('_');
  if (underscore != std::string::npos) {
    const std::filesystem::path root = std::filesystem::path(folder) / ".." / ".." / "tokenizers";
    for (const char* ending : {".tokenizer.json", ".tokenizer.json.zst", ".gguf"}) {
      const std::string path = (root / (name.substr(underscore + 1) + ending)).string();
      if (is_file(path)) return path;
    }
  }
  return weights_of(folder, options);
}

Status run_texts(const std::string& folder, const Options& options, Outcome* outcome) {
  const std::vector<std::string> files = text_vector_files(folder);
  if (files.empty()) return {};
  TRY_ASSIGN(const std::string path, tokenizer_of(folder, outcome->name, options));
  TRY_ASSIGN(const TextBundle bundle, TextBundle::open(path.empty() ? folder : path));
  for (const std::string& file : files) {
    TRY_ASSIGN(TextReport report, run_text_case(bundle, folder + "/" + file));
    report.name = outcome->name + "/" + file;
    outcome->texts.push_back(std::move(report));
  }
  return {};
}

Result<TrainingReport> run_training(Context& ctx, const std::string& folder, const std::string& name,
                                    const Options& options) {
  TrainingCaseOptions training;
  training.precision = options.fast ? Precision::kBf16 : Precision::kFull;
  // Ten steps of a tiny model are nothing, so the plain kernels run them, unless the fast ones are asked for.
  const TrainKernels<float>* kernels = train_kernels_by_name(options.fast ? "" : "ref");
  if (!options.dump.empty()) training.dump = options.folders.size() > 1 ? options.dump + "/" + name : options.dump;
  return run_training_case(ctx.pool, *kernels, folder, training);
}

Outcome run_folder(Context& ctx, std::string folder, const Options& options) {
  while (folder.size() > 1 && folder.ends_with('/')) folder.pop_back();
  Outcome outcome;
  outcome.name = std::filesystem::path(folder).filename().string();
  if (!is_directory(folder)) {
    outcome.error = folder + ": is no folder";
    return outcome;
  }
  if (is_training_case(folder)) {
    auto report = run_training(ctx, folder, outcome.name, options);
    if (report.ok()) {
      outcome.training = std::move(report).value();
    } else {
      outcome.error = report.error().message;
    }
    return outcome;
  }
  const bool model = is_model_case(folder);
  if (!model && text_vector_files(folder).empty()) {
    outcome.error = folder + ": is no reference folder (no tokens.npy with logits.npy, no vectors in .jsonl)";
    return outcome;
  }
  if (model) {
    auto weights = weights_of(folder, options);
    auto report = weights.ok() ? run_model_case(ctx, folder, *weights) : Result<ReferenceReport>(weights.error());
    if (report.ok()) {
      outcome.model = std::move(report).value();
    } else {
      outcome.error = report.error().message;
    }
  }
  if (const Status status = run_texts(folder, options, &outcome); !status.ok() && outcome.error.empty())
    outcome.error = status.error().message;
  return outcome;
}

void print_text(const Outcome& outcome) {
  fmt::print("{} {}", outcome.passed() ? "ok  " : "FAIL", outcome.name);
  if (outcome.model) {
    const ReferenceReport& m = *outcome.model;
    fmt::print("  logits {:.2e} (tolerance {:.1e}), greedy {}/{}", m.max_logit_difference, m.tolerance, m.greedy_equal,
               m.greedy_expected);
    if (m.max_mtp_difference > 0) fmt::print(", mtp {:.2e}", m.max_mtp_difference);
  }
  if (outcome.training) {
    for (const TrainingDifference& d : outcome.training->differences)
      fmt::print("  {} {:.1e}/{:.0e}", d.what, d.difference, d.tolerance);
  }
  for (const TextReport& t : outcome.texts) fmt::print("  {} {}/{}", t.name, t.equal, t.vectors);
  fmt::print("\n");
  if (outcome.training) {
    for (const TrainingDifference& d : outcome.training->differences) {
      if (!d.passed())
        fmt::print("     {} is off by {:.2e} ({}), at most {:.0e}\n", d.what, d.difference, d.worst, d.tolerance);
    }
    for (const std::string& failure : outcome.training->failures) fmt::print("     {}\n", failure);
  }
  if (!outcome.error.empty()) fmt::print("     {}\n", outcome.error);
  if (outcome.model) {
    for (const std::string& failure : outcome.model->failures) fmt::print("     {}\n", failure);
  }
  for (const TextReport& t : outcome.texts) {
    for (const std::string& failure : t.failures) fmt::print("     {}: {}\n", t.name, failure);
  }
}

void put_failures(JsonWriter& w, const std::vector<std::string>& failures) {
  w.key("failures").begin_array();
  for (const std::string& failure : failures) w.value(failure);
  w.end_array();
}

void print_json(const std::vector<Outcome>& outcomes, bool passed) {
  JsonWriter w;
  w.begin_object().key("passed").value(passed).key("cases").begin_array();
  for (const Outcome& o : outcomes) {
    w.begin_object().key("name").value(o.name).key("passed").value(o.passed());
    if (!o.error.empty()) w.key("error").value(o.error);
    if (o.model) {
      const ReferenceReport& m = *o.model;
      w.key("model").begin_object().key("max_logit_difference").value(m.max_logit_difference);
      w.key("tolerance").value(m.tolerance).key("max_hidden_difference").value(m.max_hidden_difference);
      w.key("greedy_equal").value(m.greedy_equal).key("greedy_expected").value(m.greedy_expected);
      w.key("max_mtp_difference").value(m.max_mtp_difference);
      put_failures(w, m.failures);
      w.end_object();
    }
    if (o.training) {
      w.key("training").begin_object().key("differences").begin_array();
      for (const TrainingDifference& d : o.training->differences) {
        w.begin_object().key("what").value(d.what).key("difference").value(d.difference);
        w.key("tolerance").value(d.tolerance).key("worst").value(d.worst).end_object();
      }
      w.end_array();
      put_failures(w, o.training->failures);
      w.end_object();
    }
    w.key("texts").begin_array();
    for (const TextReport& t : o.texts) {
      w.begin_object().key("name").value(t.name).key("vectors").value(t.vectors).key("equal").value(t.equal);
      put_failures(w, t.failures);
      w.end_object();
    }
    w.end_array().end_object();
  }
  w.end_array().end_object();
  fmt::print("{}\n", w.text());
}

Status run(const Options& options) {
  RuntimeOptions machine;
  machine.threads = options.threads;
  machine.exact = !options.fast;
  TRY_ASSIGN(const Runtime runtime, open_machine(machine));
  std::vector<Outcome> outcomes;
  int64_t failed = 0;
  for (const std::string& folder : options.folders) {
    if (is_file(folder) && options.folders.size() > 1) {  // FOLDER/* names a README beside the references
      fmt::print(stderr, "westlake: {}: is a file, not a reference folder: passed over\n", folder);
      continue;
    }
    outcomes.push_back(run_folder(*runtime.context, folder, options));
    failed += !outcomes.back().passed();
    if (!options.json) print_text(outcomes.back());
  }
  if (outcomes.empty()) return make_error(Code::kInvalidArgument, "only files are named, expected reference folders");
  if (options.json) print_json(outcomes, failed == 0);
  std::fflush(stdout);
  if (failed > 0)
    return make_error(Code::kInvalidArgument, "{} of {} reference folders differ", failed, outcomes.size());
  return {};
}

}  // namespace

void add_check(CLI::App& app, Action* action) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("check", "runs reference folders and prints each difference");
  command->add_option("GOLDEN_DIR", options->folders, "reference folders")->required();
  command->add_option("--model", options->model, "the weights, for folders that name a file of another place");
  command->add_option("--tokenizer", options->tokenizer, "the tokenizer of vectors that lie alone");
  command->add_option("--threads", options->threads, "threads (default: all cores)")->check(CLI::Range(1, 1024));
  command->add_option("--dump", options->dump, "folder for our own numbers of training references");
  command->add_flag("--fast", options->fast, "the fast path instead of the exact one (training: bfloat16)");
  command->add_flag("--json", options->json, "one JSON object on stdout");
  command->callback([action, options] { *action = [options] { return run(*options); }; });
}

}  // namespace westlake
