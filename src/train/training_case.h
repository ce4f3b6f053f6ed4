// Training references: a tiny checkpoint, some batches, and what an independent implementation makes of them in ten
// steps. Runs them in float32 and compares every number that the folder has.
// Layout of a folder: config.json, model.safetensors, batch.npy [steps, B, T+1], loss.npy [steps], grads.safetensors
// (of step 0, before clipping), grad_norm.npy [steps], final.safetensors, meta.json; loss_main.npy, loss_mtp.npy,
// load.npy [steps, layers, E], bias.npy [steps, layers, E] where they apply.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "base/thread_pool.h"
#include "kernels/training.h"

namespace westlake {

// A quantity, its largest difference, and how far that may go.
struct TrainingDifference {
  std::string what;
  std::string worst;  // step or tensor
  double difference = 0, tolerance = 0;
  bool passed() const { return difference <= tolerance; }  // NaN fails
};

struct TrainingReport {
  std::string name;
  std::vector<TrainingDifference> differences;
  std::vector<std::string> failures;
  bool passed() const {
    bool good = failures.empty();
    for (const TrainingDifference& d : differences) good = good && d.passed();
    return good;
  }
};

bool is_training_case(const std::string& folder);

struct TrainingCaseOptions {
  Precision precision = Precision::kFull;
  std::string
      dump;  // a folder for our loss.npy, grad_norm.npy, grads.safetensors, final.safetensors, load.npy, bias.npy
};

// Errors: what cannot be opened, a meta.json that asks for what is not known.
Result<TrainingReport> run_training_case(ThreadPool& pool, const TrainKernels<float>& kernels,
                                         const std::string& folder, const TrainingCaseOptions& options = {});

}  // namespace westlake
