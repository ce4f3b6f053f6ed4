#include "layers/linear_train.h"

#include <algorithm>
#include <vector>

namespace westlake {
namespace {

constexpr int64_t kRowPiece = 64;          // rows of a task of row-wise work
constexpr int64_t kColumnPiece = 64;       // columns of a task that walks all rows: a few cache lines of each
constexpr int64_t kNumberPiece = 1 << 16;  // numbers of a task of streaming work

}  // namespace

template <typename Real>
LinearTape<Real> linear_tape(TrainContext<Real>& ctx, int64_t T, int64_t K) {
  return {ctx.arena.template take<std::byte>(right_bytes<Real>(ctx.precision, T, K)), T, K,
          right_panel_bytes<Real>(ctx.precision, T)};
}

template <typename Real>
LeftOperand linear_input(TrainContext<Real>& ctx, const Real* x, int64_t ldx, const LinearTape<Real>& tape) {
  return pack_input(ctx, x, ldx, tape.T, tape.K, /*rows=*/nullptr, tape.memory).rows;
}

template <typename Real>
void linear_products(TrainContext<Real>& ctx, const LeftOperand& x, std::span<const LinearOut<Real>> outs) {
  std::vector<Product<Real>> products;
  for (const LinearOut<Real>& out : outs) products.push_back({x, out.w->forward, out.y, out.ldy, out.add});
  multiply<Real>(ctx, products);
}

template <typename Real>
void linear_forward(TrainContext<Real>& ctx, const Real* x, int64_t ldx, std::span<const LinearOut<Real>> outs,
                    const LinearTape<Real>& tape) {
  const ArenaScope scope(ctx.arena);
  linear_products(ctx, linear_input(ctx, x, ldx, tape), outs);
}

template <typename Real>
void linear_backward(TrainContext<Real>& ctx, const LinearTape<Real>& tape, std::span<const LinearGrad<Real>> grads,
                     Real* dx, int64_t lddx, bool add) {
  const ArenaScope scope(ctx.arena);
  std::vector<LinearPackedGrad<Real>> packed;
  for (const LinearGrad<Real>& g : grads) packed.push_back({g.w, pack_grad(ctx, g.dy, g.lddy, tape.T, g.w->rows)});
  linear_backward_packed<Real>(ctx, tape, packed, dx, lddx, add);
}

template <typename Real>
void linear_backward_packed(TrainContext<Real>& ctx, const LinearTape<Real>& tape,
                            std::span<const LinearPackedGrad<Real>> grads, Real* dx, int64_t lddx, bool add) {
  // Sums into one dx must not run side by side: the first goes with all dW, the others follow.
  std::vector<Product<Real>> first, rest;
  for (const LinearPackedGrad<Real>& g : grads) {
    const bool is_first = &g == &grads[0];
    first.push_back({g.dy.columns, tape.x(), g.w->grad, tape.K, true});
    (is_first ? first : rest).push_back({g.dy.rows, g.w->backward, dx, lddx, add || !is_first});
  }
  multiply<Real>(ctx, first);
  for (const Product<Real>& product : rest) multiply<Real>(ctx, {&product, 1});
}

template <typename Real>
GradOperands grad_operands(TrainContext<Real>& ctx, int64_t T, int64_t N) {
  const Precision p = ctx.precision;
  return {{ctx.arena.template take<std::byte>(left_bytes<Real>(p, T, N)), T, N, left_row_bytes<Real>(p, N)},
          {ctx.arena.template take<std::byte>(left_bytes<Real>(p, N, T)), N, T, left_row_bytes<Real>(p, T)}};
}

template <typename Real>
void pack_grad_rows(const TrainContext<Real>& ctx, const Real* dy, int64_t lddy, int64_t begin, int64_t end,
                    const GradOperands& to) {
  ctx.kernels.pack_both(ctx.precision, dy, lddy, begin, end - begin, to.rows.M, to.rows.K,
                        const_cast<std::byte*>(to.rows.data), const_cast<std::byte*>(to.columns.data), true);
}

template <typename Real>
void bias_forward(TrainContext<Real>& ctx, const Param<Real>& bias, int64_t T, Real* y, int64_t ldy) {
  ctx.for_pieces(T, kRowPiece, [&](int64_t begin, int64_t end, int64_t, int) {
    for (int64_t t = begin; t < end; ++t) ctx.kernels.axpy(1, bias.value, bias.cols, y + t * ldy);
  });
}

template <typename Real>
void bias_backward(TrainContext<Real>& ctx, const Real* dy, int64_t lddy, int64_t T, Param<Real>& bias) {
  ctx.for_pieces(bias.cols, kColumnPiece, [&](int64_t begin, int64_t end, int64_t, int) {
    for (int64_t t = 0; t < T; ++t) ctx.kernels.axpy(1, dy + t * lddy + begin, end - begin, bias.grad + begin);
  });
}

template <typename Real>
void copy_numbers(TrainContext<Real>& ctx, const Real* x, int64_t n, Real* y) {
  ctx.for_pieces(n, kNumberPiece,
                 [&](int64_t begin, int64_t end, int64_t, int) { std::copy(x + begin, x + end, y + begin); });
}

template <typename Real>
void add_numbers(TrainContext<Real>& ctx, const Real* x, int64_t n, Real* y) {
  ctx.for_pieces(n, kNumberPiece, [&](int64_t begin, int64_t end, int64_t, int) {
    ctx.kernels.axpy(1, x + begin, end - begin, y + begin);
  });
}

template <typename Real>
void zero_numbers(TrainContext<Real>& ctx, int64_t n, Real* y) {
  ctx.for_pieces(n, kNumberPiece,
                 [&](int64_t begin, int64_t end, int64_t, int) { std::fill(y + begin, y + end, Real(0)); });
}

#define WESTLAKE_FOR_REAL(Real)                                                                                  \
  template LinearTape<Real> linear_tape(TrainContext<Real>&, int64_t, int64_t);                                  \
  template LeftOperand linear_input(TrainContext<Real>&, const Real*, int64_t, const LinearTape<Real>&);         \
  template void linear_products(TrainContext<Real>&, const LeftOperand&, std::span<const LinearOut<Real>>);      \
  template void linear_forward(TrainContext<Real>&, const Real*, int64_t, std::span<const LinearOut<Real>>,      \
                               const LinearTape<Real>&);                                                         \
  template void linear_backward(TrainContext<Real>&, const LinearTape<Real>&, std::span<const LinearGrad<Real>>, \
                                Real*, int64_t, bool);                                                           \
  template void linear_backward_packed(TrainContext<Real>&, const LinearTape<Real>&,                             \
                                       std::span<const LinearPackedGrad<Real>>, Real*, int64_t, bool);           \
  template GradOperands grad_operands(TrainContext<Real>&, int64_t, int64_t);                                    \
  template void pack_grad_rows(const TrainContext<Real>&, const Real*, int64_t, int64_t, int64_t,                \
                               const GradOperands&);                                                             \
  template void bias_forward(TrainContext<Real>&, const Param<Real>&, int64_t, Real*, int64_t);                  \
  template void bias_backward(TrainContext<Real>&, const Real*, int64_t, int64_t, Param<Real>&);                 \
  template void copy_numbers(TrainContext<Real>&, const Real*, int64_t, Real*);                                  \
  template void add_numbers(TrainContext<Real>&, const Real*, int64_t, Real*);                                   \
  template void zero_numbers(TrainContext<Real>&, int64_t, Real*);
WESTLAKE_FOR_REAL(float)
WESTLAKE_FOR_REAL(double)
#undef WESTLAKE_FOR_REAL

}  // namespace westlake
