#include "layers/attention_train.h"

#include <vector>

namespace westlake {
namespace {

constexpr int64_t kTokenPiece = 32;

}  // namespace

template <typename Real>
TrainAngles<Real> train_angles(TrainContext<Real>& ctx, const Rope& rope, int64_t T) {
  const int64_t half = rope.dim() / 2;
  Real* cos = ctx.arena.template take<Real>(T * half);
  Real* sin = ctx.arena.template take<Real>(T * half);
  ctx.for_pieces(T, kTokenPiece, [&](int64_t begin, int64_t end, int64_t, int) {
    std::vector<float> c(half), s(half);
    for (int64_t position = begin; position < end; ++position) {
      rope.angles(position, c.data(), s.data());
      std::copy(c.begin(), c.end(), cos + position * half);
      std::copy(s.begin(), s.end(), sin + position * half);
    }
  });
  return {cos, sin, half};
}

template <typename Real>
void rotate_heads(TrainContext<Real>& ctx, const TrainRows& rows, const TrainAngles<Real>& angles, Real* x, int64_t ldx,
                  int64_t heads, int64_t stride, bool halves, bool back) {
  const OpTimer timer(ctx.profile, "rope");
  ctx.for_pieces(rows.tokens(), kTokenPiece, [&](int64_t begin, int64_t end, int64_t, int) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t at = (t % rows.T - rows.doc_start[t]) * angles.half;
      for (int64_t h = 0; h < heads; ++h) {
        ctx.kernels.rope(x + t * ldx + h * stride, angles.cos + at, angles.sin + at, 2 * angles.half, halves, back);
      }
    }
  });
}

#define WESTLAKE_FOR_REAL(Real)                                                                                        \
  template TrainAngles<Real> train_angles(TrainContext<Real>&, const Rope&, int64_t);                                  \
  template void rotate_heads(TrainContext<Real>&, const TrainRows&, const TrainAngles<Real>&, Real*, int64_t, int64_t, \
                             int64_t, bool, bool);
WESTLAKE_FOR_REAL(float)
WESTLAKE_FOR_REAL(double)
#undef WESTLAKE_FOR_REAL

}  // namespace westlake
