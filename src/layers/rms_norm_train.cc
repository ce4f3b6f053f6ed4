#include "layers/rms_norm_train.h"

#include <algorithm>

namespace westlake {
namespace {

// Rows of a piece: some 64 thousand numbers, so that a partial sum of dweight is small beside what it sums.
int64_t piece_rows(int64_t D) {
  return std::max<int64_t>(1, 65536 / D);
}

constexpr int64_t kColumnPiece = 64;

}  // namespace

template <typename Real>
RmsNormTape<Real> rms_norm_tape(TrainContext<Real>& ctx, int64_t T) {
  RmsNormTape<Real> tape;
  tape.inv = ctx.arena.template take<Real>(T);
  return tape;
}

template <typename Real>
void rms_norm_forward(TrainContext<Real>& ctx, const Real* x, int64_t ldx, const Param<Real>& weight, double eps,
                      int64_t T, Real* y, int64_t ldy, RmsNormTape<Real>& tape) {
  const OpTimer timer(ctx.profile, "norm");
  const int64_t D = weight.cols;
  tape.x = x;
  tape.ldx = ldx;
  ctx.for_pieces(T, piece_rows(D), [&](int64_t begin, int64_t end, int64_t, int) {
    for (int64_t t = begin; t < end; ++t)
      tape.inv[t] = ctx.kernels.rms_norm(x + t * ldx, weight.value, static_cast<Real>(eps), D, y + t * ldy);
  });
}

template <typename Real>
void rms_norm_backward(TrainContext<Real>& ctx, const RmsNormTape<Real>& tape, Param<Real>& weight, const Real* dy,
                       int64_t lddy, int64_t T, Real* dx, int64_t lddx) {
  const OpTimer timer(ctx.profile, "norm backward");
  const ArenaScope scope(ctx.arena);
  const int64_t D = weight.cols, rows = piece_rows(D), n_pieces = (T + rows - 1) / rows;
  Real* partial = ctx.arena.template take<Real>(n_pieces * D);
  ctx.for_pieces(T, rows, [&](int64_t begin, int64_t end, int64_t piece, int) {
    Real* dweight = partial + piece * D;
    std::fill(dweight, dweight + D, Real(0));
    for (int64_t t = begin; t < end; ++t) {
      ctx.kernels.rms_norm_backward(tape.x + t * tape.ldx, weight.value, tape.inv[t], dy + t * lddy, D, dx + t * lddx,
                                    dweight);
    }
  });
  ctx.for_pieces(D, kColumnPiece, [&](int64_t begin, int64_t end, int64_t, int) {
    for (int64_t p = 0; p < n_pieces; ++p)
      ctx.kernels.axpy(1, partial + p * D + begin, end - begin, weight.grad + begin);
  });
}

#define WESTLAKE_FOR_REAL(Real)                                                                                      \
  template RmsNormTape<Real> rms_norm_tape(TrainContext<Real>&, int64_t);                                            \
  template void rms_norm_forward(TrainContext<Real>&, const Real*, int64_t, const Param<Real>&, double, int64_t,     \
                                 Real*, int64_t, RmsNormTape<Real>&);                                                \
  template void rms_norm_backward(TrainContext<Real>&, const RmsNormTape<Real>&, Param<Real>&, const Real*, int64_t, \
                                  int64_t, Real*, int64_t);
WESTLAKE_FOR_REAL(float)
WESTLAKE_FOR_REAL(double)
#undef WESTLAKE_FOR_REAL

}  // namespace westlake
