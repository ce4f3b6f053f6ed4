// TrainModel: a model under training: the config, its parameters with their gradients, loss and gradient of a batch.
//
// Idea: the names, shapes and members are those of the weight table; the passes are those of the paper's figure, layer
// after layer, each layer's backward beside its forward in layers/. Gradients add up until zero_grads, so that a batch
// may be given in parts.
// Source: DeepSeek-V3 report (arXiv 2412.19437) 2.1 and 2.2; conventions of the loss as in docs/training.md.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "kernels/training.h"
#include "model/checkpoint.h"
#include "model/config.h"
#include "model/weights.h"

namespace westlake {

// What optimisers ask of a parameter.
enum class ParamKind { kMatrix, kEmbedding, kHead, kRouter, kVector };

template <typename Real>
struct TrainParam : Param<Real> {
  std::string name;            // published
  std::vector<int64_t> shape;  // published
  ParamKind kind = ParamKind::kMatrix;
};

// Rows of tokens. targets: -1 where there is no loss. doc_start [B, T]: index in its row of the first token of each
// token's document; attention stays within, positions count from it.
struct TrainBatch {
  int64_t B = 0, T = 0;
  const int32_t* inputs = nullptr;
  const int32_t* targets = nullptr;
  const int32_t* doc_start = nullptr;
};

struct TrainOptions {
  double mtp_weight = 0.3;       // lambda of the MTP loss (report, 2.2); 0: modules are not run
  double balance_weight = 0;     // alpha of the sequence-wise balance loss (report, eq. 17)
  bool recompute = false;        // keep only the layers' inputs, run each layer again in the backward pass
  int64_t loss_denominator = 0;  // 0: the targets of the batch; else of all parts of a step together
};

struct TrainLoss {
  double loss = 0;  // what the gradient is of: main + mtp_weight * mtp + balance, in nats
  double main = 0;  // mean cross-entropy over the targets, in nats
  double mtp = 0;   // sum over the modules
  int64_t targets = 0;
  std::vector<std::vector<int64_t>> load;  // [MoE layers, MTP's last][E]: token-expert pairs
};

template <typename Real>
class TrainModel {
 public:
  // Parameters of that shape, all zero. Errors: kUnsupported for what cannot be trained (names it), kExhausted for
  // memory.
  static Result<TrainModel> create(const ModelConfig& config);
  // Matrices normal with deviation `std` (residual outputs scaled as published), norms one, biases zero.
  void initialise(uint64_t seed, double std);
  // From a checkpoint's tensors, a folder's or a GGUF's. Errors as bind_weights; kUnsupported for quantised weights.
  Status load(const Checkpoint& checkpoint);

  const ModelConfig& config() const;
  std::span<TrainParam<Real>> params();
  int64_t parameter_count() const;
  // e_score_correction_bias of every MoE layer [E], the MTP module's last.
  std::span<float* const> router_biases();
  std::span<const std::string> router_bias_names() const;

  void zero_grads(TrainContext<Real>& ctx);
  // After every change of the values: packs the operands that the products read.
  void pack_weights(TrainContext<Real>& ctx);

  // Bytes that the arena needs for loss_and_gradients of B rows of T tokens; found by a dry run.
  int64_t plan(const TrainContext<Real>& ctx, int64_t B, int64_t T, const TrainOptions& options);

  // Adds to the gradients of all parameters. Requires: pack_weights since the last change.
  TrainLoss loss_and_gradients(TrainContext<Real>& ctx, const TrainBatch& batch, const TrainOptions& options);
  // The main loss alone, forward only; token_loss (may be null) [B, T]: nats of each target.
  TrainLoss loss(TrainContext<Real>& ctx, const TrainBatch& batch, float* token_loss = nullptr);

  // bias_e += gamma sign(mean load - load_e) in every MoE layer (report, 2.1.2).
  void move_biases(const std::vector<std::vector<int64_t>>& load, double gamma);

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace westlake
