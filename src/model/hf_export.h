// A checkpoint -> a model folder as the families publish them: config.json, safetensors, tokenizer.
#pragma once

#include <optional>
#include <string>

#include "base/result.h"
#include "base/thread_pool.h"
#include "model/checkpoint.h"
#include "model/export_tensors.h"
#include "tensor/dtype.h"

namespace westlake {

struct FolderExportOptions {
  // f32, f16 or bf16. Unset: as the source has its matrices; bf16 for FP8, f16 for blocks.
  std::optional<DType> dtype;
  bool mtp = true;
  bool tokenizer = true;
  uint64_t shard_limit_bytes = 5'000'000'000;
};

// Writes the folder under a temporary name and swaps it into place when it is whole. An existing folder is replaced
// only when all in it looks like a model's files. Errors: as export_gguf.
Result<ExportReport> export_folder(ThreadPool& pool, const Checkpoint& checkpoint, const std::string& out,
                                   const FolderExportOptions& options, const ExportProgress& progress = {});

// The config with its rope scaling in published form: frequency factors of a GGUF become the llama3 rule that gives
// them. Errors: kUnsupported for what config.json has no key for.
Result<ModelConfig> published_config(const ModelConfig& config, std::string_view place);

}  // namespace westlake
