// What a config says to each layer: the options of attention and of the router.
#pragma once

#include "layers/gqa.h"
#include "layers/mla.h"
#include "layers/router.h"
#include "model/config.h"

namespace westlake {

// rope_interleaved: the rows of q and k are reordered, as llama's in GGUF files.
GqaOptions gqa_options(const ModelConfig& config, bool rope_interleaved);
MlaOptions mla_options(const ModelConfig& config);
RouterOptions router_options(const ModelConfig& config);

}  // namespace westlake
