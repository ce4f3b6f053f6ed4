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

// Packs x by rows (from the arena, returned) and into the tape.
template <typename Real>
LeftOperand linear_input(TrainContext<Real>& ctx, const Real* x, int64_t ldx, const LinearTape<Real>& tape);
// The same of rows that are computed piece by piece and never lie in memory as a whole: f(begin, end, to) writes rows
// [begin, end) to `to` [.., K].
template <typename Real, typename F>
LeftOperand linear_input_of(TrainContext<Real>& ctx, const LinearTape<Real>& tape, F&& f);

template <typename Real>
void linear_products(TrainContext<Real>& ctx, const LeftOperand& x, std::span<const LinearOut<Real>> outs);
// linear_input, linear_products.
template <typename Real>
void linear_forward(TrainContext<Real>& ctx, const Real* x, int64_t ldx, std::span<const LinearOut<Real>> outs,
                    const LinearTape<Real>& tape);

// dx [T, K] = or, with `add`, += the gradient of x.
template <typename Real>
void linear_backward(TrainContext<Real>& ctx, const LinearTape<Real>& tape, std::span<const LinearGrad<Real>> grads,
                     Real* dx, int64_t lddx, bool add);

// The same of gradients that are operands already.
template <typename Real>
struct LinearPackedGrad {
  Param<Real>* w = nullptr;
  GradOperands dy;
};
template <typename Real>
void linear_backward_packed(TrainContext<Real>& ctx, const LinearTape<Real>& tape,
                            std::span<const LinearPackedGrad<Real>> grads, Real* dx, int64_t lddx, bool add);
// Room for the operands of dy [T, N], from the arena, and its rows [begin, end) into them: dy points at row `begin`.
// Requires: begin is a multiple of kOperandK, and so is end or it is T.
template <typename Real>
GradOperands grad_operands(TrainContext<Real>& ctx, int64_t T, int64_t N);
template <typename Real>
void pack_grad_rows(const TrainContext<Real>& ctx, const Real* dy, int64_t lddy, int64_t begin, int64_t end,
                    const GradOperands& to);

template <typename Real, typename F>
LeftOperand linear_input_of(TrainContext<Real>& ctx, const LinearTape<Real>& tape, F&& f) {
  const Precision p = ctx.precision;
  std::byte* left = ctx.arena.template take<std::byte>(left_bytes<Real>(p, tape.T, tape.K));
  const ArenaScope scope(ctx.arena);
  const int64_t numbers = kOperandK * tape.K;
  Real* temporary = ctx.arena.template take<Real>(numbers * ctx.pool.size());
  ctx.for_pieces(tape.T, kOperandK, [&](int64_t begin, int64_t end, int64_t, int thread) {
    Real* rows = temporary + thread * numbers;
    f(begin, end, rows);
    ctx.kernels.pack_both(p, rows, tape.K, begin, end - begin, tape.T, tape.K, left, tape.memory, false);
  });
  return {left, tape.T, tape.K, left_row_bytes<Real>(p, tape.K)};
}

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
