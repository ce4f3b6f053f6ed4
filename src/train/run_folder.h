// RUN: the folder of a training run. At every moment it is a checkpoint that any reader of Hugging Face folders opens:
//
//   config.json, generation_config.json, tokenizer.json ..   written once, at the start
//   model.safetensors                                        the newest checkpoint's weights (a second name of its
//   file) loss.csv, report.html                                    curves trainer/step-00001200/{model.safetensors,
//   optimizer.safetensors, state.json}   the newest two
//
// Idea: a checkpoint is written under trainer/step-N.tmp, synced, and renamed; only then does model.safetensors change,
// by a rename too; older ones go last. A kill or a full disk at any moment leaves the checkpoint before.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "formats/tensor_table.h"
#include "model/checkpoint.h"
#include "model/config.h"
#include "train/optimiser.h"

namespace westlake {

// Numbers of a tensor that are to be written, or the place where they are to be read.
struct RunTensor {
  std::string name;
  std::vector<int64_t> shape;
  float* data = nullptr;
  int64_t numbers = 0;
};

class RunFolder {
 public:
  explicit RunFolder(std::string path) : path_(std::move(path)) {}
  const std::string& path() const { return path_; }
  std::string file(const std::string& name) const { return path_ + "/" + name; }

  // Makes the folder and writes what does not change. `tokenizer`: a folder whose tokenizer files are copied. Errors:
  // kInvalidArgument when a run is there already.
  Status begin(const ModelConfig& config, const std::string& tokenizer, int64_t bos_id,
               const std::vector<int32_t>& eos_ids);
  // The same for a run that goes on from a model: its tokenizer and chat template, folder or GGUF, and how its answers
  // end and are sampled.
  Status begin_from(const Checkpoint& source, const ModelConfig& config, int64_t bos_id,
                    const std::vector<int32_t>& eos_ids, const SamplingDefaults& sampling);

  // Writes the checkpoint of `step`. Errors: kIo (full disk ..); then everything is as before.
  Status save(int64_t step, const std::vector<RunTensor>& weights, const std::vector<RunTensor>& optimiser,
              const std::string& state_json) const;

  // Step of the newest whole checkpoint. Errors: kNotFound.
  Result<int64_t> newest() const;
  Result<std::string> state(int64_t step) const;
  // Fills the tensors. Errors: kCorrupt for a missing one or another shape.
  Status load(int64_t step, const std::vector<RunTensor>& weights, const std::vector<RunTensor>& optimiser) const;

 private:
  Status claim() const;
  std::string step_folder(int64_t step) const;
  std::vector<int64_t> steps() const;  // ascending
  std::string path_;
};

}  // namespace westlake
