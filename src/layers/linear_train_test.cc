// Gradients of linear maps, norms, embedding, rope, SwiGLU and the MTP input against central differences.
#include "layers/linear_train.h"

#include "layers/embedding_train.h"
#include "layers/mtp_train.h"
#include "layers/rms_norm_train.h"
#include "layers/swiglu_train.h"
#include "layers/train_test_support.h"

namespace westlake {
namespace {

TEST(LinearTrain, SeveralWeightsOfOneInputWithBiases) {
  check_layer([]<typename Real>(TrainBed<Real>& bed) {
    const int64_t T = 45, K = 37;
    Param<Real>* x = bed.input("x", T, K);
    Param<Real>* a = bed.matrix("a", 70, K);
    Param<Real>* b = bed.matrix("b", 3, K);
    Param<Real>* bias = bed.vector("bias", 70, 0);
    const std::vector<Real> ra = bed.random(T * 70), rb = bed.random(T * 3);
    bed.set_body([=](TrainContext<Real>& ctx, bool backward) {
      const ArenaScope scope(ctx.arena);
      const LinearTape<Real> tape = linear_tape(ctx, T, K);
      Real* ya = ctx.arena.template take<Real>(T * 70);
      Real* yb = ctx.arena.template take<Real>(T * 3);
      const LinearOut<Real> outs[] = {{a, ya, 70}, {b, yb, 3}};
      linear_forward<Real>(ctx, x->value, K, outs, tape);
      bias_forward(ctx, *bias, T, ya, 70);
      if (backward) {
        const LinearGrad<Real> grads[] = {{a, ra.data(), 70}, {b, rb.data(), 3}};
        linear_backward<Real>(ctx, tape, grads, x->grad, K, false);
        bias_backward(ctx, ra.data(), 70, T, *bias);
      }
      return projected(ctx, ra, ya) + projected(ctx, rb, yb);
    });
  });
}

TEST(RmsNormTrain, StridedRows) {
  check_layer([]<typename Real>(TrainBed<Real>& bed) {
    // Rows enough for several partial sums of dweight.
    const int64_t T = 2100, D = 66, ld = 70;
    Param<Real>* x = bed.input("x", T, ld);
    Param<Real>* weight = bed.vector("weight", D, 1);
    std::vector<Real> r = bed.random(T * D);
    bed.set_body([=](TrainContext<Real>& ctx, bool backward) {
      const ArenaScope scope(ctx.arena);
      RmsNormTape<Real> tape = rms_norm_tape(ctx, T);
      Real* y = ctx.arena.template take<Real>(T * D);
      rms_norm_forward(ctx, x->value, ld, *weight, 1e-5, T, y, D, tape);
      if (backward) rms_norm_backward(ctx, tape, *weight, r.data(), D, T, x->grad, ld);
      return projected(ctx, r, y);
    });
  });
}

TEST(EmbeddingTrain, TokensThatRepeat) {
  check_layer([]<typename Real>(TrainBed<Real>& bed) {
    const int64_t T = 9, V = 6, D = 130;
    Param<Real>* embed_tokens = bed.embedding("embed_tokens", V, D);
    const int32_t* tokens = bed.ints({0, 5, 2, 2, 5, 2, 1, 0, 2});
    const std::vector<Real> r = bed.random(T * D);
    bed.set_body([=](TrainContext<Real>& ctx, bool backward) {
      const ArenaScope scope(ctx.arena);
      Real* x = ctx.arena.template take<Real>(T * D);
      embedding_forward(ctx, *embed_tokens, tokens, T, x);
      if (backward) embedding_backward(ctx, *embed_tokens, tokens, T, r.data());
      return projected(ctx, r, x);
    });
  });
}

TEST(RopeTrain, BothPairingsWithAttentionFactor) {
  for (const bool halves : {false, true}) {
    check_layer([halves]<typename Real>(TrainBed<Real>& bed) {
      const TrainRows rows = documents(bed);
      const int64_t N = rows.tokens(), heads = 3, stride = 10, ld = heads * stride;
      RopeScaling scaling;
      scaling.type = RopeScaling::Type::kYarn;
      scaling.factor = 4;
      scaling.original_max_position_embeddings = 32;
      const Rope rope(8, 100, scaling);
      ASSERT_NE(rope.attention_factor(), 1);
      Param<Real>* x = bed.input("x", N, ld);
      const std::vector<Real> r = bed.random(N * ld);
      bed.set_body([=](TrainContext<Real>& ctx, bool backward) {
        const ArenaScope scope(ctx.arena);
        const TrainAngles<Real> angles = train_angles(ctx, rope, rows.T);
        Real* y = ctx.arena.template take<Real>(N * ld);
        copy_numbers(ctx, x->value, N * ld, y);
        rotate_heads(ctx, rows, angles, y + 2, ld, heads, stride, halves, false);
        if (backward) {
          copy_numbers(ctx, r.data(), N * ld, x->grad);
          rotate_heads(ctx, rows, angles, x->grad + 2, ld, heads, stride, halves, true);
        }
        return projected(ctx, r, y);
      });
    });
  }
}

TEST(SwigluTrain, Gradients) {
  check_layer([]<typename Real>(TrainBed<Real>& bed) {
    const int64_t T = 35, D = 20, F = 41;
    Param<Real>* x = bed.input("x", T, D);
    const SwigluTrainParams<Real> params = {bed.matrix("gate_proj", F, D), bed.matrix("up_proj", F, D),
                                            bed.matrix("down_proj", D, F)};
    const std::vector<Real> r = bed.random(T * D);
    bed.set_body([=](TrainContext<Real>& ctx, bool backward) {
      const ArenaScope scope(ctx.arena);
      SwigluTape<Real> tape = swiglu_tape(ctx, params, T);
      Real* out = ctx.arena.template take<Real>(T * D);
      zero_numbers(ctx, T * D, out);
      swiglu_forward(ctx, params, x->value, T, out, tape);
      if (backward) swiglu_backward(ctx, params, tape, r.data(), T, x->grad);
      return projected(ctx, r, out);
    });
  });
}

TEST(MtpTrain, Gradients) {
  check_layer([]<typename Real>(TrainBed<Real>& bed) {
    const int64_t N = 11, D = 18;
    Param<Real>* embedding = bed.input("embedding", N, D);
    Param<Real>* hidden = bed.input("hidden", N, D);
    const MtpTrainParams<Real> params = {bed.vector("enorm", D, 1), bed.vector("hnorm", D, 1),
                                         bed.matrix("eh_proj", D, 2 * D)};
    const std::vector<Real> r = bed.random(N * D);
    bed.set_body([=](TrainContext<Real>& ctx, bool backward) {
      const ArenaScope scope(ctx.arena);
      MtpTape<Real> tape = mtp_tape(ctx, params, N);
      Real* x = ctx.arena.template take<Real>(N * D);
      mtp_forward(ctx, params, 1e-6, embedding->value, hidden->value, N, x, tape);
      if (backward) mtp_backward(ctx, params, tape, r.data(), N, embedding->grad, hidden->grad);
      return projected(ctx, r, x);
    });
  });
}

}  // namespace
}  // namespace westlake
