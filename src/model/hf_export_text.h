// The texts of a model folder: config.json, generation_config.json, tokenizer.json, tokenizer_config.json.
// Idea: a folder's own tokenizer files are carried over as they are; a GGUF's are written from what it holds.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "model/checkpoint.h"
#include "model/config.h"
#include "tensor/dtype.h"

namespace westlake {

// Requires: `config` is in published form. Errors: those of the tokenizer, kIo.
Status write_folder_texts(const Checkpoint& checkpoint, const ModelConfig& config, DType dtype, bool tokenizer,
                          const std::string& folder, std::vector<std::string>* notes);

}  // namespace westlake
