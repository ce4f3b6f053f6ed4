// westlake convert: a model folder or GGUF file into a GGUF file or a model folder.
#include <fmt/format.h>

#include <cstdio>
#include <optional>

#include "base/clock.h"
#include "base/file.h"
#include "base/progress.h"
#include "model/gguf_export.h"
#include "model/hf_export.h"
#include "westlake/cancel_flag.h"
#include "westlake/command.h"
#include "westlake/runtime.h"

namespace westlake {
namespace {

struct Options {
  std::string in, out, quant;
  int threads = 0;
  bool no_mtp = false, no_tokenizer = false, json = false;
};

Result<ExportReport> write_gguf(const Options& options, ThreadPool& pool, const Checkpoint& checkpoint,
                                const ExportProgress& progress) {
  GgufExportOptions gguf;
  TRY_ASSIGN(gguf.quant, parse_export_dtype(options.quant.empty() ? "f16" : options.quant));
  gguf.mtp = !options.no_mtp;
  gguf.tokenizer = !options.no_tokenizer;
  return export_gguf(pool, checkpoint, options.out, gguf, progress);
}

Result<ExportReport> write_folder(const Options& options, ThreadPool& pool, const Checkpoint& checkpoint,
                                  const ExportProgress& progress) {
  FolderExportOptions folder;
  if (!options.quant.empty()) {
    TRY_ASSIGN(folder.dtype, parse_export_dtype(options.quant));
    if (is_quantised(*folder.dtype)) {
      return make_error(Code::kInvalidArgument,
                        "--quant {}: a model folder holds f32, f16 or bf16. Hint: for blocks name a file, OUT.gguf",
                        options.quant);
    }
  }
  folder.mtp = !options.no_mtp;
  folder.tokenizer = !options.no_tokenizer;
  return export_folder(pool, checkpoint, options.out, folder, progress);
}

Status convert(const Options& options) {
  TRY_ASSIGN(const std::string in, resolve_model(options.in));
  TRY_ASSIGN(const Checkpoint checkpoint, Checkpoint::open(in));
  ThreadPool pool(options.threads > 0 ? options.threads : hardware_threads());
  const CancelFlag cancel;
  std::optional<Progress> line;
  const ExportProgress progress = [&](uint64_t done, uint64_t total) {
    if (!line) line.emplace("writing", total, "bytes");
    line->update(done);
    return !cancel.raised();
  };
  const int64_t start = now_ns();
  const bool gguf = options.out.ends_with(".gguf");
  const auto report =
      gguf ? write_gguf(options, pool, checkpoint, progress) : write_folder(options, pool, checkpoint, progress);
  line.reset();
  if (!report.ok()) return report.error();
  for (const std::string& note : report->notes) fmt::print(stderr, "note: {}\n", note);
  const double seconds = static_cast<double>(now_ns() - start) * 1e-9;
  if (options.json) {
    fmt::print("{{\"out\":\"{}\",\"tensors\":{},\"bytes\":{},\"seconds\":{:.3f}}}\n", options.out, report->tensors,
               report->bytes, seconds);
  } else {
    fmt::print(stderr, "{}: {} tensors, {} in {:.1f} s\n", options.out, report->tensors, human_bytes(report->bytes),
               seconds);
  }
  return {};
}

}  // namespace

void add_convert(CLI::App& app, Action* action) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("convert", "write a model in another format: a .gguf file or a model folder");
  command->add_option("IN", options->in, "model folder, .gguf file or catalogue name")->required();
  command->add_option("OUT", options->out, "FILE.gguf, or the name of a folder")->required();
  command->add_option("--quant", options->quant,
                      "f32 f16 bf16 q8_0 q6_k q5_k q4_k q5_0 q5_1 q4_0 q4_1 (folder: f32 f16 bf16); default f16, "
                      "folder: as the source");
  command->add_option("--threads", options->threads, "threads; default all cores");
  command->add_flag("--no-mtp", options->no_mtp, "leave out multi-token-prediction modules");
  command->add_flag("--no-tokenizer", options->no_tokenizer, "leave out tokenizer and chat template");
  command->add_flag("--json", options->json, "print what was done as JSON");
  command->callback([=] { *action = [=] { return convert(*options); }; });
}

}  // namespace westlake
