#include "westlake/runtime.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>

#include "base/clock.h"
#include "base/file.h"
#include "formats/npy.h"
#include "model/gguf_export.h"
#include "model/quantised_copy.h"
#include "westlake/catalogue.h"

namespace westlake {
namespace {

Status open_quantised(const std::string& quant, Runtime* runtime) {
  QuantiseOptions options;
  TRY_ASSIGN(options.dtype, parse_export_dtype(quant));
  TRY_ASSIGN(const std::string cache, cache_folder());
  options.folder = cache + "/quantised";
  Result<QuantisedCopy> copy = open_quantised_copy(*runtime->checkpoint, options, *runtime->pool);
  if (!copy.ok()) {
    Error error = copy.error();
    if (error.code == Code::kExhausted || error.code == Code::kIo)
      error.message += ". Hint: --quant keeps its copies in WESTLAKE_CACHE, which may lie on another disk";
    return error;
  }
  for (const std::string& note : copy->notes) fmt::print(stderr, "westlake: {}\n", note);
  runtime->quantised = std::make_unique<Checkpoint>(std::move(copy->checkpoint));
  return {};
}

}  // namespace

void add_runtime_options(CLI::App& command, RuntimeOptions* options) {
  command.add_option("MODEL", options->model, "a model folder, a .gguf file, or a catalogue name")->required();
  command.add_option("--threads", options->threads, "threads (default: all cores)")->check(CLI::Range(1, 1024));
  command.add_flag("--exact", options->exact, "float32 activations and accumulation, weights dequantised to float32");
  command
      .add_option(
          "--kv", options->kv,
          "the cache: f32, or q8 (int8) where its heads allow; auto: q8 but for models of width up to 1024, whose "
          "answers feel the rounding; --exact always has f32")
      ->check(CLI::IsMember({"auto", "q8", "f32"}));
  command.add_option("--quant", options->quant,
                     "quantises a model of plain or FP8 weights on first load, to q8_0 q6_k q5_k q4_k q5_0 q5_1 q4_0 "
                     "q4_1 (or f16 bf16 f32), into a copy in the cache that later starts run at once");
  command.add_flag("--no-panels", options->no_panels,
                   "reads the weights as the file has them, slower, instead of a copy laid out for this program");
}

Result<Runtime> open_machine(const RuntimeOptions& options) {
  const char* isa = std::getenv("WESTLAKE_ISA");
  const KernelTable* kernels = kernels_by_name(isa != nullptr ? isa : "");
  if (kernels == nullptr) {
    std::string names;
    for (const KernelTable* table : available_kernels())
      names += (names.empty() ? "" : ", ") + std::string(table->name);
    return make_error(Code::kUnsupported, "WESTLAKE_ISA: '{}' is not a level of this machine. It has: {}", isa, names);
  }
  Runtime runtime;
  if (isa != nullptr) runtime.isa = isa;
  runtime.pool = std::make_unique<ThreadPool>(options.threads > 0 ? options.threads : hardware_threads());
  runtime.context = std::make_unique<Context>(Context{*kernels, *runtime.pool, options.exact});
  return runtime;
}

Result<Runtime> open_runtime(const RuntimeOptions& options) {
  const int64_t start = now_ns();
  TRY_ASSIGN(Runtime runtime, open_machine(options));
  if (!options.quant.empty()) TRY(parse_export_dtype(options.quant));  // before anything is opened
  TRY_ASSIGN(const std::string path, resolve_model(options.model));
  TRY_ASSIGN(Checkpoint checkpoint, Checkpoint::open(path));
  runtime.checkpoint = std::make_unique<Checkpoint>(std::move(checkpoint));
  if (!options.quant.empty()) TRY(open_quantised(options.quant, &runtime));
  TRY_ASSIGN(Model model, Model::bind(runtime.weights()));
  const bool fast = !options.exact && runtime.context->kernels.name != "ref";
  if (fast && !options.no_panels) {
    PanelOptions panels;
    if (const Result<std::string> cache = cache_folder(); cache.ok()) panels.folder = *cache + "/panels";
    TRY(model.lay_out(runtime.weights(), panels, *runtime.pool));
    if (!model.panels().note().empty()) fmt::print(stderr, "westlake: {}\n", model.panels().note());
  }
  const bool q8 = options.kv == "q8" || (options.kv == "auto" && !model.fine());
  if (!options.exact && q8) model.use_q8_cache();
  runtime.model = std::make_unique<Model>(std::move(model));
  runtime.load_s = seconds_since(start);
  return runtime;
}

Result<std::string> resolve_model(const std::string& name) {
  if (is_directory(name) || is_file(name)) return name;
  return cached_model_path(name);
}

Result<std::vector<int32_t>> parse_ids(const std::string& text) {
  if (text.starts_with('@')) {
    TRY_ASSIGN(const Npy array, Npy::open(text.substr(1)));
    return array.int32s();
  }
  std::vector<int32_t> ids;
  const char* at = text.data();
  const char* end = at + text.size();
  while (at < end) {
    int32_t id = 0;
    const auto [next, error] = std::from_chars(at, end, id);
    if (error != std::errc() || (next < end && *next != ',')) {
      return make_error(Code::kInvalidArgument, "--ids: '{}' at character {}, expected numbers like 1,2,3 or @file.npy",
                        text.substr(at - text.data(), 12), at - text.data());
    }
    ids.push_back(id);
    at = next < end ? next + 1 : end;
  }
  return ids;
}

Status check_ids(const std::vector<int32_t>& ids, int64_t vocab_size) {
  if (ids.empty()) return make_error(Code::kInvalidArgument, "--ids: no token ids, expected at least one");
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < vocab_size) continue;
    return make_error(Code::kInvalidArgument, "--ids: token {} is {}, the model's vocabulary is 0..{}", i, ids[i],
                      vocab_size - 1);
  }
  return {};
}

}  // namespace westlake
