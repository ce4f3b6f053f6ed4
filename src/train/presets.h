// The ladder of sizes: configs of the DeepSeek-V3 architecture that train on a machine with few cores, and dense ones
// to compare with. The vocabulary is the tokenizer's.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "model/config.h"

namespace westlake {

struct TrainPreset {
  std::string_view name;
  std::string_view description;
};
std::span<const TrainPreset> train_presets();

// Errors: kNotFound with the list of names.
Result<ModelConfig> train_config(std::string_view preset, int64_t vocab_size, int64_t max_position_embeddings);

}  // namespace westlake
