// Optimiser: which rule moves which parameter, their state, and the norm of the gradient.
// Idea: Muon moves the hidden matrices, AdamW the rest (embedding, head, router, vectors), or AdamW all. Groups have
// their own rates; the schedule's factor multiplies them all.
// Source: Loshchilov & Hutter 2019 (AdamW); muon.h. Order of a step as in docs/training.md: clip, decay, update.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/page_memory.h"
#include "kernels/training.h"
#include "model/train_model.h"
#include "train/muon.h"

namespace westlake {

enum class OptimiserKind { kAdamW, kMuon };

struct OptimiserOptions {
  OptimiserKind kind = OptimiserKind::kMuon;
  double lr = 3e-3;  // of AdamW: matrices, or with Muon all but the hidden ones
  double embedding_lr_factor = 1, head_lr_factor = 1, router_lr_factor = 1, vector_lr_factor = 1;
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8;
  double weight_decay = 0.1;  // AdamW's, on everything with two dimensions
  MuonOptions muon;
  double clip = 1.0;  // largest norm of the gradient; 0: none
};

// A tensor of state, for checkpoints. Values and state of one parameter: "NAME.m", "NAME.v", "NAME.momentum".
template <typename Real>
struct StateTensor {
  std::string name;
  std::vector<int64_t> shape;
  Real* data = nullptr;
  int64_t numbers = 0;
};

template <typename Real>
class Optimiser {
 public:
  // Requires: params outlive the optimiser and stay where they are. Errors: kExhausted, no memory for the state.
  static Result<Optimiser> create(std::span<TrainParam<Real>> params, const OptimiserOptions& options);

  // The l2 norm of all gradients. Pieces of fixed size are added in order: the same for any number of threads.
  double gradient_norm(TrainContext<Real>& ctx) const;

  // Clips (by `norm`) and moves every parameter. lr_factor: the schedule's.
  void step(TrainContext<Real>& ctx, double norm, double lr_factor);

  // Bytes of arena that step needs.
  int64_t plan(const TrainContext<Real>& ctx) const;
  int64_t state_bytes() const;

  std::vector<StateTensor<Real>> state();
  int64_t steps() const { return steps_; }
  void set_steps(int64_t steps) { steps_ = steps; }

 private:
  struct Entry {
    TrainParam<Real>* param;
    bool muon;
    double lr_factor;
    bool decay;
    Real* first;   // m, or Muon's momentum
    Real* second;  // v; null for Muon
  };
  explicit Optimiser(const OptimiserOptions& options) : options_(options) {}
  void muon(TrainContext<Real>& ctx, double scale, double lr_factor) const;

  OptimiserOptions options_;
  std::vector<Entry> entries_;
  PageMemory storage_;
  int64_t numbers_ = 0;
  int64_t steps_ = 0;
};

}  // namespace westlake
