// A checkpoint -> one GGUF file that llama.cpp opens too.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "base/thread_pool.h"
#include "formats/gguf_writer.h"
#include "model/checkpoint.h"
#include "model/export_tensors.h"
#include "tensor/dtype.h"

namespace westlake {

struct GgufExportOptions {
  DType quant = DType::kF16;
  bool mtp = true;        // false: without multi-token-prediction modules, for readers that do not know them
  bool tokenizer = true;  // false: without it
};

// A file to be: all that is known of it before the weights are read.
struct GgufPlan {
  ExportSource source;  // what the tensors' rows lie in
  GgufMetadata metadata;
  std::vector<ExportTensor> tensors;
  std::vector<std::string> notes;  // what the user should know
  uint64_t bytes = 0;              // of tensor data
};
// Errors: those of opening the tokenizer; kUnsupported for what the format cannot say.
Result<GgufPlan> plan_gguf(const Checkpoint& checkpoint, const GgufExportOptions& options);
// Requires: the plan's checkpoint is open. Errors: kCorrupt for weights that are no numbers; kIo; kCancelled.
Status write_gguf(ThreadPool& pool, const GgufPlan& plan, const std::string& out, const ExportProgress& progress = {});

// Writes `out` in one go, through a temporary file beside it; an old file stays until the new one is whole.
// Errors: those of opening the tokenizer; kInvalidArgument when `out` is a part of the checkpoint itself; kUnsupported
// for what the format cannot say; kCorrupt for weights that are no numbers; kIo; kCancelled.
Result<ExportReport> export_gguf(ThreadPool& pool, const Checkpoint& checkpoint, const std::string& out,
                                 const GgufExportOptions& options, const ExportProgress& progress = {});

// "q4_k" -> what convert can write; kInvalidArgument with the list.
Result<DType> parse_export_dtype(std::string_view name);

}  // namespace westlake
