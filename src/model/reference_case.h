// Reference folders: a tiny checkpoint with the logits, hidden states and greedy tokens that an independent
// implementation gives for it. Runs the model on it and reports each difference.
// Layout of a folder: config.json, model*.safetensors, tokens.npy [T], logits.npy [T, V], hidden.npy [L+1, T, D],
// greedy.npy [n], mtp_logits.npy [T-1, V], mtp_hidden.npy [T-1, D], meta.json {"tolerance"}; all but the first three
// may be absent. With "file" in meta.json the weights are a GGUF given by the caller, and logits.npy [n, V] are those
// of the last n positions, argmax.npy [T], hidden_last.npy [L+1, D].
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "kernels/context.h"

namespace westlake {

struct ReferenceReport {
  std::string name;
  double tolerance = 1e-3;          // on max |logit - expected|
  double max_logit_difference = 0;  // NaN counts as infinite
  double max_hidden_difference = 0;
  int64_t first_layer_off = -1;  // the first entry of the residual stream off by more than the tolerance
  int64_t greedy_expected = 0, greedy_equal = 0;  // tokens; equal counts up to the first difference
  double max_mtp_difference = 0;
  std::vector<std::string> failures;  // one sentence each
  bool passed() const { return failures.empty(); }
};

// Is `folder` such a case (tokens.npy and logits.npy are there)?
bool is_model_case(const std::string& folder);

// Runs it. `model_path` overrides the folder's own checkpoint (a GGUF). Errors: what cannot be opened.
Result<ReferenceReport> run_model_case(Context& ctx, const std::string& folder, const std::string& model_path = "");

}  // namespace westlake
