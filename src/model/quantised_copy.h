// A checkpoint of plain numbers (float32, half precision, FP8), run in blocks: quantised once into a kept GGUF file.
// Idea: the copy is what convert would write, but for the tokenizer and what else is text, which stay with the source;
// it lies in a folder of kept files (kept_folder.h), named by a hash of the weights, the config and the type, and is
// opened as any other GGUF from then on. A copy is trusted when its header says that it is of this source, its tensors
// are those of the plan, and rows of some of them are what the source gives today.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "base/thread_pool.h"
#include "model/checkpoint.h"
#include "tensor/dtype.h"

namespace westlake {

struct QuantiseOptions {
  DType dtype = DType::kQ4_0;  // what parse_export_dtype() knows
  std::string folder;          // where copies are kept
};

struct QuantisedCopy {
  Checkpoint checkpoint;
  bool made = false;               // now, not before
  std::vector<std::string> notes;  // of making it: what the user should know
};

// Errors: kInvalidArgument when the source is quantised already; kExhausted when the disk is full, nothing is left
// then; kIo; those of writing a GGUF.
Result<QuantisedCopy> open_quantised_copy(const Checkpoint& source, const QuantiseOptions& options, ThreadPool& pool);

}  // namespace westlake
