// Checkpoint: a published model opened as it is, a Hugging Face folder or a GGUF file: config, tensors, generation ids.
// Idea: the files stay mapped; nothing is copied. What is text (tokenizer, chat template) is opened apart by
// text_bundle.h, so that a tokenizer folder without weights is a thing of its own.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "formats/gguf.h"
#include "formats/safetensors.h"
#include "model/config.h"
#include "model/weights.h"

namespace westlake {

// How the makers of a model want it sampled; what they do not say is empty.
struct SamplingDefaults {
  std::optional<double> temperature, top_p, min_p, repetition_penalty;
  std::optional<int64_t> top_k;
};

class Checkpoint {
 public:
  // `path`: a folder with config.json and safetensors, or a .gguf file (any part of a split one).
  static Result<Checkpoint> open(const std::string& path);

  const std::string& path() const { return path_; }
  const ModelConfig& config() const { return config_; }
  WeightFormat format() const { return gguf_ ? WeightFormat::kGguf : WeightFormat::kPublished; }
  const Gguf* gguf() const { return gguf_.get(); }  // null for a folder
  int64_t file_bytes() const;
  std::vector<std::string> files() const;           // the paths of all files with weights
  const std::vector<NamedTensor>& tensors() const;  // in file order
  // Views into the mapped files. Requires: the checkpoint outlives them.
  TensorSource tensor_source() const;
  // Tokens that end an answer, from generation_config.json or config.json; for a GGUF its metadata (the tokenizer knows
  // more: TextBundle::stop_ids).
  const std::vector<int32_t>& eos_token_ids() const { return eos_token_ids_; }
  // From generation_config.json, or a GGUF's general.sampling.*. Values out of their range are left out.
  const SamplingDefaults& sampling_defaults() const { return sampling_defaults_; }
  // Tells the kernel that all weights are about to be read.
  void will_need() const;

 private:
  std::string path_;
  ModelConfig config_;
  std::unique_ptr<Gguf> gguf_;
  std::unique_ptr<SafetensorsSet> safetensors_;
  std::vector<int32_t> eos_token_ids_;
  SamplingDefaults sampling_defaults_;
};

}  // namespace westlake
