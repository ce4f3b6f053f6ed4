// Linear maps under training: y = x W^T for several weights of one input, and their gradients.
//   dx = sum_i dy_i W_i;  dW_i += dy_i^T x
// Idea: x is packed once by rows for all products of the forward pass, and once in panels for those of all dW; the
// panels are what is kept, x itself is not. Cost: 2 T N K FLOPs forward, 4 T N K backward.
#pragma once

#include <span>

#include "kernels/training.h"

namespace westlake {

// What backward needs of x [T, K]: the right operand of dW.
template <typename Real>
struct LinearTape {
  std::byte* memory = nullptr;
  int64_t T = 0, K = 0, panel_bytes = 0;
  RightOperand x() const { return {memory, T, K, panel_bytes}; }
};

// Tapes are taken before the scratch of the layer, so that they stay when it is released; forward fills them.
template <typename Real>
LinearTape<Real> linear_tape(TrainContext<Real>& ctx, int64_t T, int64_t K);

template <typename Real>
struct LinearOut {
  const Param<Real>* w = nullptr;  // [N, K]
  Real* y = nullptr;               // [T, N]
  int64_t ldy = 0;
  bool add = false;
};

template <typename Real>
struct LinearGrad {
  Param<Real>* w = nullptr;  // [N, K]
  const Real* dy = nullptr;  // [T, N]
  int64_t lddy = 0;
};

template <typename Real>
void linear_forward(TrainContext<Real>& ctx, const Real* x, int64_t ldx, std::span<const LinearOut<Real>> outs,
                    const LinearTape<Real>& tape);

// dx [T, K] = or, with `add`, += the gradient of x; null where nobody asks.
template <typename Real>
void linear_backward(TrainContext<Real>& ctx, const LinearTape<Real>& tape, std::span<const LinearGrad<Real>> grads,
                     Real* dx, int64_t lddx, bool add);

// Biases: y[t] += b; db += sum_t dy[t], in the order of t.
template <typename Real>
void bias_forward(TrainContext<Real>& ctx, const Param<Real>& bias, int64_t T, Real* y, int64_t ldy);
template <typename Real>
void bias_backward(TrainContext<Real>& ctx, const Real* dy, int64_t lddy, int64_t T, Param<Real>& bias);

// y = x, and y += x, over n numbers.
template <typename Real>
void copy_numbers(TrainContext<Real>& ctx, const Real* x, int64_t n, Real* y);
template <typename Real>
void add_numbers(TrainContext<Real>& ctx, const Real* x, int64_t n, Real* y);
template <typename Real>
void zero_numbers(TrainContext<Real>& ctx, int64_t n, Real* y);

}  // namespace westlake
