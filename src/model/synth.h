// Synthetic models: the exact shape of published ones, with random weights, as GGUF. For benches, for trying what a
// machine can hold, and for tests; what they write is noise.
// Idea: a preset is a published config.json; the tensors follow from the weight table, their bytes from random blocks.
// Matrices have deviation 1/sqrt(row length), norms are near one, so activations keep their size through any depth.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/thread_pool.h"
#include "model/config.h"
#include "model/export_tensors.h"
#include "tensor/dtype.h"

namespace westlake {

struct SynthPreset {
  std::string_view name;
  std::string_view description;
  std::string_view config_json;  // the keys of the published file that say something
};
std::span<const SynthPreset> synth_presets();

// Errors: kNotFound with the list of names.
Result<ModelConfig> synth_config(std::string_view preset);

struct SynthOptions {
  DType quant = DType::kQ4_0;
  uint64_t seed = 0;
  std::string name;  // general.name
};

// Writes the file; the same config and options give the same bytes, whatever the number of threads. Errors:
// kUnsupported for what GGUF cannot say, kIo, kCancelled.
Result<ExportReport> write_synthetic_gguf(ThreadPool& pool, const ModelConfig& config, const std::string& out,
                                          const SynthOptions& options, const ExportProgress& progress = {});

}  // namespace westlake
