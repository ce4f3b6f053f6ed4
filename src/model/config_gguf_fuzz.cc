// libFuzzer target: a GGUF as a model: metadata to config, config to the other forms, tensors to weights.
#include <cstdint>
#include <span>

#include "formats/gguf.h"
#include "model/gguf_export_metadata.h"
#include "model/hf_export.h"
#include "model/weights.h"

namespace westlake {
namespace {

void fuzz(std::span<const std::byte> input) {
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

}  // namespace
}  // namespace westlake

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  westlake::fuzz({reinterpret_cast<const std::byte*>(data), size});
  return 0;
}
