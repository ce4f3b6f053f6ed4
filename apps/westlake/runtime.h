// What most subcommands begin with: a model opened by path or catalogue name, threads, kernels.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <optional>
#include <string>

#include "base/result.h"
#include "base/thread_pool.h"
#include "kernels/context.h"
#include "model/checkpoint.h"
#include "model/model.h"
#include "model/text_bundle.h"

namespace westlake {

struct RuntimeOptions {
  std::string model;
  int threads = 0;  // 0: all cores this process may use
  bool exact = false;
  std::string kv = "auto";  // the type of the cache: f32, or q8 where heads allow, as auto
  bool no_panels = false;   // weights are read as the file has them
  std::string quant;        // the type to quantise to on first load; empty: the weights as they are
};

// Declares MODEL, --quant, --threads and what else open_runtime() goes by.
void add_runtime_options(CLI::App& command, RuntimeOptions* options);

struct Runtime {
  std::unique_ptr<ThreadPool> pool;
  std::unique_ptr<Context> context;
  std::unique_ptr<Checkpoint> checkpoint;  // what the user named: texts and advice are read there
  std::unique_ptr<Checkpoint> quantised;   // its copy in blocks; null without --quant
  std::unique_ptr<Model> model;
  double load_s = 0;
  std::string isa;  // what WESTLAKE_ISA asks for; empty: the fastest

  // What the model's weights lie in.
  const Checkpoint& weights() const { return quantised ? *quantised : *checkpoint; }
};

// Threads and kernels alone. WESTLAKE_ISA names the level; an unknown one is an error that lists those of this machine.
Result<Runtime> open_machine(const RuntimeOptions& options);

// Threads, kernels, and the model.
Result<Runtime> open_runtime(const RuntimeOptions& options);

// A path that exists stays as it is; a catalogue name becomes the path of its file in the cache.
// Errors: kNotFound with what was tried, and how to pull it.
Result<std::string> resolve_model(const std::string& name);

// "1,2,3" or "@file.npy" -> ids.
Result<std::vector<int32_t>> parse_ids(const std::string& text);

// Requires every id in [0, vocab_size): an error that names the first that is not.
Status check_ids(const std::vector<int32_t>& ids, int64_t vocab_size);

}  // namespace westlake
