// Training references: a folder with a tiny checkpoint and what an independent trainer did with it: the loss and the
// gradients of the first step, and losses, norms, loads and weights through all steps.
// Layout: config.json, model.safetensors, batch.npy [steps, B, T+1], loss.npy [steps], grads.safetensors (step 0,
// before clipping), grad_norm.npy [steps], final.safetensors, meta.json with the hyper-parameters and tolerances; where
// it applies loss_main.npy, loss_mtp.npy [steps], load.npy [steps, MoE layers, E], bias.npy (the same shape). Idea:
// this file opens a folder and checks the first step; whoever knows optimisers runs the others.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "formats/safetensors.h"
#include "model/train_model.h"

namespace westlake {

struct TrainCase {
  std::string folder, name;
  std::string meta;  // the text of meta.json
  ModelConfig config;
  int64_t steps = 0, B = 0, T = 0;
  double mtp_weight = 0;
  double loss_rel = 1e-6, grad_norm_rel = 1e-5, grads_rel_l2 = 2e-5, update_rel_l2 = 6e-4, final_abs = 1e-4;
  std::vector<int32_t> inputs, targets, doc_start;  // [steps, B, T]
  std::vector<float> loss, grad_norm;               // [steps]
  std::vector<float> loss_main, loss_mtp;           // [steps], or empty
  std::vector<int32_t> load;                        // [steps, MoE layers, E], or empty
  std::vector<float> bias;                          // [steps, MoE layers, E], or empty

  TrainBatch batch(int64_t step) const;
  TrainOptions options() const;
  int64_t moe_layers() const;
};

// Is `folder` such a case (batch.npy and loss.npy are there)?
bool is_train_case(const std::string& folder);

// Errors: what cannot be opened or contradicts itself.
Result<TrainCase> open_train_case(const std::string& folder);

// The model of a case with its initial weights.
template <typename Real>
Result<TrainModel<Real>> load_train_case_model(const TrainCase& c);

// Holds a loss, and where they are known its parts and the load, against those of a step; one sentence a failure.
void check_train_loss(const TrainCase& c, int64_t step, const TrainLoss& loss, double rel_tolerance,
                      std::vector<std::string>* failures);

// The l2 norm over all gradients.
template <typename Real>
double gradient_norm(TrainModel<Real>& model);

struct TensorDifference {
  std::string worst;     // tensor
  double rel_l2 = 0;     // norm(ours - expected) / norm(expected) of it
  double max_abs = 0;    // largest difference of any entry of any tensor
  int64_t compared = 0;  // tensors
};

// Parameters (or gradients) against a file of the case: minus_initial subtracts the initial weights from both sides.
template <typename Real>
Result<TensorDifference> compare_tensors(const TrainCase& c, TrainModel<Real>& model, const std::string& file,
                                         bool gradients, bool minus_initial);

struct TrainStepReport {
  double loss_rel = 0, grad_norm_rel = 0;
  TensorDifference grads;
  std::vector<std::string> failures;  // one sentence each
  bool passed() const { return failures.empty(); }
};

// Loss and gradients of step 0. Leaves them in the model.
template <typename Real>
Result<TrainStepReport> check_first_step(TrainContext<Real>& ctx, const TrainCase& c, TrainModel<Real>& model);

}  // namespace westlake
