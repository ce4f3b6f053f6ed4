#include "layers/head_loss.h"

#include <algorithm>

#include "base/check.h"
#include "layers/linear_train.h"

namespace westlake {
namespace {

// Numbers of a chunk's logits: 128 MB of float32. Every chunk reads and writes all of dW, so it must not be small;
// above a thousand tokens that cost is below a hundredth of the products'.
constexpr int64_t kChunkNumbers = int64_t{32} << 20;
constexpr int64_t kLeastTokens = 64, kMostTokens = 1024;
constexpr int64_t kRowPiece = 4;

int64_t chunk_tokens(int64_t V) {
  return std::clamp(kChunkNumbers / V / kOperandK * kOperandK, kLeastTokens, kMostTokens);
}

// One chunk of n targets: rows[i] is the token of target i.
template <typename Real>
double chunk_loss(TrainContext<Real>& ctx, Param<Real>& head, const Real* h, const int32_t* targets,
                  const int32_t* rows, int64_t n, double scale, Real* dh, float* token_loss) {
  const int64_t V = head.rows, D = head.cols;
  const ArenaScope scope(ctx.arena);
  const LinearTape<Real> tape = linear_tape(ctx, n, D);
  Real* logits = ctx.arena.template take<Real>(n * V);
  double* nats = ctx.arena.template take<double>(n);
  {
    const ArenaScope inner(ctx.arena);
    const LeftOperand state = linear_input_of(ctx, tape, [&](int64_t begin, int64_t end, Real* to) {
      for (int64_t i = begin; i < end; ++i) std::copy(h + rows[i] * D, h + (rows[i] + 1) * D, to + (i - begin) * D);
    });
    const LinearOut<Real> out[] = {{&head, logits, V}};
    linear_products<Real>(ctx, state, out);
  }
  ctx.for_pieces(n, kRowPiece, [&](int64_t begin, int64_t end, int64_t, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int32_t target = targets[rows[i]];
      CHECK(target < V, "target {} of {}", target, V);
      nats[i] = ctx.kernels.cross_entropy(logits + i * V, V, target, static_cast<Real>(scale));
    }
  });
  double sum = 0;
  for (int64_t i = 0; !ctx.planning && i < n; ++i) {
    sum += nats[i];
    if (token_loss != nullptr) token_loss[rows[i]] = static_cast<float>(nats[i]);
  }
  if (dh == nullptr) return sum;
  Real* dstate = ctx.arena.template take<Real>(n * D);
  const LinearGrad<Real> grads[] = {{&head, logits, V}};
  linear_backward<Real>(ctx, tape, grads, dstate, D, false);
  ctx.for_pieces(n, kRowPiece, [&](int64_t begin, int64_t end, int64_t, int) {
    for (int64_t i = begin; i < end; ++i) std::copy(dstate + i * D, dstate + (i + 1) * D, dh + rows[i] * D);
  });
  return sum;
}

}  // namespace

template <typename Real>
double head_loss(TrainContext<Real>& ctx, Param<Real>& head, const Real* h, const int32_t* targets, int64_t T,
                 double scale, Real* dh, float* token_loss) {
  const OpTimer timer(ctx.profile, "head and loss");
  const ArenaScope scope(ctx.arena);
  int32_t* rows = ctx.arena.template take<int32_t>(T);
  int64_t n = 0;
  for (int64_t t = 0; !ctx.planning && t < T; ++t) {
    if (targets[t] >= 0) rows[n++] = static_cast<int32_t>(t);
  }
  if (ctx.planning) n = T;
  if (dh != nullptr) zero_numbers(ctx, T * head.cols, dh);
  if (token_loss != nullptr && !ctx.planning) std::fill(token_loss, token_loss + T, 0.0f);
  double sum = 0;
  const int64_t chunk = chunk_tokens(head.rows);
  for (int64_t begin = 0; begin < n; begin += chunk)
    sum += chunk_loss(ctx, head, h, targets, rows + begin, std::min(chunk, n - begin), scale, dh, token_loss);
  return sum;
}

#define WESTLAKE_FOR_REAL(Real)                                                                                     \
  template double head_loss(TrainContext<Real>&, Param<Real>&, const Real*, const int32_t*, int64_t, double, Real*, \
                            float*);
WESTLAKE_FOR_REAL(float)
WESTLAKE_FOR_REAL(double)
#undef WESTLAKE_FOR_REAL

}  // namespace westlake
