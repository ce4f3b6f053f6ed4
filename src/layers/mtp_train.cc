#include "layers/mtp_train.h"

namespace westlake {

template <typename Real>
MtpTape<Real> mtp_tape(TrainContext<Real>& ctx, const MtpTrainParams<Real>& params, int64_t N) {
  MtpTape<Real> tape;
  tape.enorm = rms_norm_tape(ctx, N);
  tape.hnorm = rms_norm_tape(ctx, N);
  tape.pair = linear_tape(ctx, N, params.eh_proj->cols);
  return tape;
}

template <typename Real>
void mtp_forward(TrainContext<Real>& ctx, const MtpTrainParams<Real>& params, double eps, const Real* embedding,
                 const Real* hidden, int64_t N, Real* x, MtpTape<Real>& tape) {
  const OpTimer timer(ctx.profile, "mtp input");
  const int64_t D = params.eh_proj->rows;
  const ArenaScope scope(ctx.arena);
  Real* pair = ctx.arena.template take<Real>(N * 2 * D);
  rms_norm_forward(ctx, embedding, D, *params.enorm, eps, N, pair, 2 * D, tape.enorm);
  rms_norm_forward(ctx, hidden, D, *params.hnorm, eps, N, pair + D, 2 * D, tape.hnorm);
  const LinearOut<Real> out[] = {{params.eh_proj, x, D}};
  linear_forward<Real>(ctx, pair, 2 * D, out, tape.pair);
}

template <typename Real>
void mtp_backward(TrainContext<Real>& ctx, const MtpTrainParams<Real>& params, const MtpTape<Real>& tape,
                  const Real* dx, int64_t N, Real* dembedding, Real* dhidden) {
  const OpTimer timer(ctx.profile, "mtp input backward");
  const int64_t D = params.eh_proj->rows;
  const ArenaScope scope(ctx.arena);
  Real* dpair = ctx.arena.template take<Real>(N * 2 * D);
  const LinearGrad<Real> grads[] = {{params.eh_proj, dx, D}};
  linear_backward<Real>(ctx, tape.pair, grads, dpair, 2 * D, false);
  zero_numbers(ctx, N * D, dembedding);
  zero_numbers(ctx, N * D, dhidden);
  rms_norm_backward(ctx, tape.enorm, *params.enorm, dpair, 2 * D, N, dembedding, D);
  rms_norm_backward(ctx, tape.hnorm, *params.hnorm, dpair + D, 2 * D, N, dhidden, D);
}

#define WESTLAKE_FOR_REAL(Real)                                                                                   \
  template MtpTape<Real> mtp_tape(TrainContext<Real>&, const MtpTrainParams<Real>&, int64_t);                     \
  template void mtp_forward(TrainContext<Real>&, const MtpTrainParams<Real>&, double, const Real*, const Real*,   \
                            int64_t, Real*, MtpTape<Real>&);                                                      \
  template void mtp_backward(TrainContext<Real>&, const MtpTrainParams<Real>&, const MtpTape<Real>&, const Real*, \
                             int64_t, Real*, Real*);
WESTLAKE_FOR_REAL(float)
WESTLAKE_FOR_REAL(double)
#undef WESTLAKE_FOR_REAL

}  // namespace westlake
