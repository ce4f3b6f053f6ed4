#include "layers/embedding_train.h"

#include "base/check.h"

namespace westlake {
namespace {

constexpr int64_t kRowPiece = 64;
constexpr int64_t kColumnPiece = 64;

}  // namespace

template <typename Real>
void embedding_forward(TrainContext<Real>& ctx, const Param<Real>& embed_tokens, const int32_t* tokens, int64_t T,
                       Real* x) {
  const OpTimer timer(ctx.profile, "embedding");
  const int64_t D = embed_tokens.cols;
  ctx.for_pieces(T, kRowPiece, [&](int64_t begin, int64_t end, int64_t, int) {
    for (int64_t t = begin; t < end; ++t) {
      CHECK(tokens[t] >= 0 && tokens[t] < embed_tokens.rows, "token {} of {}", tokens[t], embed_tokens.rows);
      const Real* row = embed_tokens.value + tokens[t] * D;
      std::copy(row, row + D, x + t * D);
    }
  });
}

template <typename Real>
void embedding_backward(TrainContext<Real>& ctx, Param<Real>& embed_tokens, const int32_t* tokens, int64_t T,
                        const Real* dx) {
  const OpTimer timer(ctx.profile, "embedding backward");
  const int64_t D = embed_tokens.cols;
  ctx.for_pieces(D, kColumnPiece, [&](int64_t begin, int64_t end, int64_t, int) {
    for (int64_t t = 0; t < T; ++t)
      ctx.kernels.axpy(1, dx + t * D + begin, end - begin, embed_tokens.grad + tokens[t] * D + begin);
  });
}

#define WESTLAKE_FOR_REAL(Real)                                                                             \
  template void embedding_forward(TrainContext<Real>&, const Param<Real>&, const int32_t*, int64_t, Real*); \
  template void embedding_backward(TrainContext<Real>&, Param<Real>&, const int32_t*, int64_t, const Real*);
WESTLAKE_FOR_REAL(float)
WESTLAKE_FOR_REAL(double)
#undef WESTLAKE_FOR_REAL

}  // namespace westlake
