// What the fuzz target of GGUF configs does with its bytes, and what the replay in the tests does with the kept ones.
#pragma once

#include <cstddef>
#include <span>

#include "base/check.h"
#include "formats/gguf.h"
#include "model/gguf_export_metadata.h"
#include "model/hf_export.h"
#include "model/weights.h"

namespace westlake {

// A GGUF as a model: metadata to config, config to the other forms and back, tensors to weights.
inline void fuzz_config_gguf(std::span<const std::byte> input) {
  const auto gguf = Gguf::from_bytes(input, "fuzz");
  if (!gguf.ok()) return;
  const auto config = ModelConfig::from_gguf(*gguf, "fuzz");
  if (!config.ok()) return;
  if (const auto published = published_config(*config, "fuzz"); published.ok()) {
    const auto back = ModelConfig::from_json(published->to_json(), "fuzz");
    CHECK(back.ok(), "{}", back.error().message);
    CHECK(*back == *published);
  }
  GgufMetadata metadata;
  ExportNotes notes;
  (void)set_architecture_keys(*config, "fuzz", &metadata, &notes).ok();
  (void)rope_factors(*config);
  TensorSource source;
  source.place = "fuzz";
  source.format = WeightFormat::kGguf;
  for (const NamedTensor& tensor : gguf->tensors()) source.names.push_back(tensor.name);
  source.find = [&](std::string_view name) { return gguf->find(name); };
  Weights weights;
  (void)bind_weights(*config, source, &weights).ok();
}

}  // namespace westlake
