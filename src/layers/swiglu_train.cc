#include "layers/swiglu_train.h"

#include "base/check.h"

namespace westlake {
template <typename Real>
SwigluTape<Real> swiglu_tape(TrainContext<Real>& ctx, const SwigluTrainParams<Real>& params, int64_t T) {
  const int64_t D = params.gate_proj->cols, F = params.gate_proj->rows;
  SwigluTape<Real> tape;
  tape.x = linear_tape(ctx, T, D);
  tape.gate = ctx.arena.template take<Real>(T * F);
  tape.up = ctx.arena.template take<Real>(T * F);
  tape.hidden = linear_tape(ctx, T, F);
  return tape;
}

template <typename Real>
void swiglu_forward(TrainContext<Real>& ctx, const SwigluTrainParams<Real>& params, const Real* x, int64_t T, Real* out,
                    SwigluTape<Real>& tape) {
  CHECK(tape.x.T == T);
  const OpTimer timer(ctx.profile, "feed-forward");
  const int64_t D = params.gate_proj->cols, F = params.gate_proj->rows;
  const ArenaScope scope(ctx.arena);
  const LinearOut<Real> gate_up[] = {{params.gate_proj, tape.gate, F}, {params.up_proj, tape.up, F}};
  linear_forward<Real>(ctx, x, D, gate_up, tape.x);
  const LeftOperand hidden = linear_input_of(ctx, tape.hidden, [&](int64_t begin, int64_t end, Real* rows) {
    ctx.kernels.silu_mul(tape.gate + begin * F, tape.up + begin * F, (end - begin) * F, rows);
  });
  if (out == nullptr) return;
  const LinearOut<Real> down[] = {{params.down_proj, out, D, /*add=*/true}};
  linear_products<Real>(ctx, hidden, down);
}

template <typename Real>
void swiglu_backward(TrainContext<Real>& ctx, const SwigluTrainParams<Real>& params, SwigluTape<Real>& tape,
                     const Real* dout, int64_t T, Real* dx) {
  const OpTimer timer(ctx.profile, "feed-forward backward");
  const int64_t D = params.gate_proj->cols, F = params.gate_proj->rows;
  const ArenaScope scope(ctx.arena);
  Real* dhidden = ctx.arena.template take<Real>(T * F);
  const LinearGrad<Real> down[] = {{params.down_proj, dout, D}};
  linear_backward<Real>(ctx, tape.hidden, down, dhidden, F, false);
  // dgate and dup of some tokens go into their operands while they are in the cache.
  const GradOperands dgate = grad_operands(ctx, T, F), dup = grad_operands(ctx, T, F);
  ctx.for_pieces(T, kOperandK, [&](int64_t begin, int64_t end, int64_t, int) {
    Real* gate = tape.gate + begin * F;
    Real* up = tape.up + begin * F;
    ctx.kernels.silu_mul_backward(gate, up, dhidden + begin * F, (end - begin) * F, gate, up);
    pack_grad_rows(ctx, gate, F, begin, end, dgate);
    pack_grad_rows(ctx, up, F, begin, end, dup);
  });
  const LinearPackedGrad<Real> gate_up[] = {{params.gate_proj, dgate}, {params.up_proj, dup}};
  linear_backward_packed<Real>(ctx, tape.x, gate_up, dx, D, false);
}

#define WESTLAKE_FOR_REAL(Real)                                                                                      \
  template SwigluTape<Real> swiglu_tape(TrainContext<Real>&, const SwigluTrainParams<Real>&, int64_t);               \
  template void swiglu_forward(TrainContext<Real>&, const SwigluTrainParams<Real>&, const Real*, int64_t, Real*,     \
                               SwigluTape<Real>&);                                                                   \
  template void swiglu_backward(TrainContext<Real>&, const SwigluTrainParams<Real>&, SwigluTape<Real>&, const Real*, \
                                int64_t, Real*);
WESTLAKE_FOR_REAL(float)
WESTLAKE_FOR_REAL(double)
#undef WESTLAKE_FOR_REAL

}  // namespace westlake
