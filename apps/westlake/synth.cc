// westlake synth: random weights in the exact shape of a published model.
#include <fmt/format.h>

#include <cstdio>
#include <optional>

#include "base/clock.h"
#include "base/progress.h"
#include "formats/gguf.h"
#include "model/synth.h"
#include "westlake/cancel_flag.h"
#include "westlake/command.h"

namespace westlake {
namespace {

struct Options {
  std::string preset, quant = "q4_0", out;
  uint64_t seed = 0;
  int threads = 0;
  bool list = false, json = false;
};

void print_list() {
  for (const SynthPreset& preset : synth_presets()) fmt::print("{:<22}{}\n", preset.name, preset.description);
}

Result<DType> parse_quant(const std::string& name) {
  const std::optional<DType> dtype = dtype_from_name(name);
  if (dtype && ggml_type_of(*dtype) &&
      (is_quantised(*dtype) || *dtype == DType::kF32 || *dtype == DType::kF16 || *dtype == DType::kBF16))
    return *dtype;
  return make_error(Code::kInvalidArgument,
                    "--quant {}: unknown, expected one of f32 f16 bf16 q8_0 q6_k q5_k q4_k q3_k q2_k q5_0 q5_1 q4_0 "
                    "q4_1 iq4_nl iq4_xs",
                    name);
}

Status synth(const Options& options) {
  if (options.list) {
    print_list();
    return {};
  }
  if (options.preset.empty() || options.out.empty())
    return make_error(Code::kInvalidArgument, "--preset and --out are needed. Hint: --list names the presets");
  TRY_ASSIGN(const ModelConfig config, synth_config(options.preset));
  SynthOptions how;
  TRY_ASSIGN(how.quant, parse_quant(options.quant));
  how.seed = options.seed;
  how.name = options.preset + " with random weights";
  ThreadPool pool(options.threads > 0 ? options.threads : hardware_threads());
  const CancelFlag cancel;
  std::optional<Progress> line;
  const int64_t start = now_ns();
  const auto report = write_synthetic_gguf(pool, config, options.out, how, [&](uint64_t done, uint64_t total) {
    if (!line) line.emplace("writing", total, "bytes");
    line->update(done);
    return !cancel.raised();
  });
  line.reset();
  if (!report.ok()) return report.error();
  for (const std::string& note : report->notes) fmt::print(stderr, "note: {}\n", note);
  const double seconds = static_cast<double>(now_ns() - start) * 1e-9;
  if (options.json) {
    fmt::print("{{\"preset\":\"{}\",\"parameters\":{},\"tensors\":{},\"bytes\":{},\"seconds\":{:.3f}}}\n",
               options.preset, config.parameters(), report->tensors, report->bytes, seconds);
  } else {
    fmt::print(stderr, "{}: {} tensors, {} in {:.1f} s\n", options.out, report->tensors, human_bytes(report->bytes),
               seconds);
  }
  return {};
}

}  // namespace

void add_synth(CLI::App& app, Action* action) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("synth", "write a GGUF of a published model's shape with random weights");
  command->add_option("--preset", options->preset, "the model whose shape to take");
  command->add_flag("--list", options->list, "name the presets");
  command->add_option("--quant", options->quant, "format of the matrices; default q4_0");
  command->add_option("--out", options->out, "the .gguf file to write");
  command->add_option("--seed", options->seed, "another seed, other weights");
  command->add_option("--threads", options->threads, "threads; default all cores");
  command->add_flag("--json", options->json, "print what was done as JSON");
  command->callback([=] { *action = [=] { return synth(*options); }; });
}

}  // namespace westlake
