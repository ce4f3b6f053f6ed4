// Muon: momentum, made orthogonal. The update of a matrix is the nearest orthogonal matrix to its momentum, so that all
// directions move alike instead of the few that gradients prefer.
//   m = mu m + (1 - mu) g;  u = (1 - mu) g + mu m  (Nesterov);  U = newton_schulz(u)
//   p *= 1 - lr decay;  p -= lr sqrt(max(1, rows / cols)) U
// newton_schulz: X = u / (|u| + 1e-7), rows <= cols by transposition; five times A = X X^T, X = a X + (b A + c A A) X.
// Source: Keller Jordan et al., "Muon", 2024; the coefficients and the scale of torch.optim.Muon ("original").
// Cost a matrix m x n, m <= n: 5 (4 m^2 n + 2 m^3) FLOPs on the matrix units.
#pragma once

#include <span>

#include "kernels/training.h"

namespace westlake {

struct MuonOptions {
  double lr = 0.02;
  double momentum = 0.95;
  double weight_decay = 0;
  int newton_schulz_steps = 5;
};

// One matrix [rows, cols] and its momentum.
template <typename Real>
struct MuonMatrix {
  int64_t rows = 0, cols = 0;
  Real* value = nullptr;
  const Real* grad = nullptr;
  Real* momentum = nullptr;
};

// Moves them all. grad_scale: of clipping. Memory from ctx.arena; while planning nothing is read.
template <typename Real>
void muon_step(TrainContext<Real>& ctx, const MuonOptions& options, double grad_scale,
               std::span<const MuonMatrix<Real>> matrices);

}  // namespace westlake
