// Gradients of GQA and MLA against central differences, and documents that do not see each other.
#include "layers/attention_train.h"

#include <fmt/format.h>

#include "layers/gqa_train.h"
#include "layers/mla_train.h"
#include "layers/train_test_support.h"

namespace westlake {
namespace {

struct GqaCase {
  int64_t H, KVH, hd;
  bool biases, norms;
};

template <typename Real>
void make_gqa(TrainBed<Real>& bed, const GqaCase& c, std::vector<Real>* out_copy = nullptr) {
  const TrainRows rows = documents(bed);
  const int64_t N = rows.tokens(), D = 22;
  GqaOptions options;
  options.hidden_size = D;
  options.num_attention_heads = c.H;
  options.num_key_value_heads = c.KVH;
  options.head_dim = c.hd;
  options.scale = 0.4f;
  Param<Real>* x = bed.input("x", N, D);
  GqaTrainParams<Real> params;
  params.q_proj = bed.matrix("q_proj", c.H * c.hd, D);
  params.k_proj = bed.matrix("k_proj", c.KVH * c.hd, D);
  params.v_proj = bed.matrix("v_proj", c.KVH * c.hd, D);
  params.o_proj = bed.matrix("o_proj", D, c.H * c.hd);
  if (c.biases) {
    params.q_bias = bed.vector("q_bias", c.H * c.hd, 0);
    params.k_bias = bed.vector("k_bias", c.KVH * c.hd, 0);
    params.v_bias = bed.vector("v_bias", c.KVH * c.hd, 0);
    params.o_bias = bed.vector("o_bias", D, 0);
  }
  if (c.norms) {
    params.q_norm = bed.vector("q_norm", c.hd, 1);
    params.k_norm = bed.vector("k_norm", c.hd, 1);
  }
  const std::vector<Real> r = bed.random(N * D);
  const Rope rope(c.hd, 50, {});
  bed.set_body([=](TrainContext<Real>& ctx, bool backward) {
    const ArenaScope scope(ctx.arena);
    const TrainAngles<Real> angles = train_angles(ctx, rope, rows.T);
    GqaTape<Real> tape = gqa_tape(ctx, options, params, rows);
    Real* out = ctx.arena.template take<Real>(N * D);
    zero_numbers(ctx, N * D, out);
    gqa_forward(ctx, options, params, rows, angles, x->value, out, tape);
    if (out_copy != nullptr && !ctx.planning) out_copy->assign(out, out + N * D);
    if (backward) gqa_backward(ctx, options, params, rows, angles, tape, r.data(), x->grad);
    return projected(ctx, r, out);
  });
}

TEST(GqaTrain, Gradients) {
  for (const GqaCase& c : {GqaCase{4, 2, 6, false, false}, GqaCase{3, 3, 8, true, false}, GqaCase{4, 1, 4, false, true},
                           GqaCase{2, 2, 34, true, true}}) {
    SCOPED_TRACE(fmt::format("{} heads on {}, {} wide, biases {}, norms {}", c.H, c.KVH, c.hd, c.biases, c.norms));
    // With these shapes a bias of k alone moves every score of a query alike within the softmax, but rope turns it.
    check_layer([c]<typename Real>(TrainBed<Real>& bed) { make_gqa(bed, c); });
  }
}

struct MlaCase {
  int64_t H, q_lora, lora, nope, rope, v;
};

template <typename Real>
void make_mla(TrainBed<Real>& bed, const MlaCase& c, std::vector<Real>* out_copy = nullptr) {
  const TrainRows rows = documents(bed);
  const int64_t N = rows.tokens(), D = 22, qk = c.nope + c.rope;
  MlaOptions options;
  options.hidden_size = D;
  options.num_attention_heads = c.H;
  options.kv_lora_rank = c.lora;
  options.qk_nope_head_dim = c.nope;
  options.qk_rope_head_dim = c.rope;
  options.v_head_dim = c.v;
  options.scale = 0.4f;
  Param<Real>* x = bed.input("x", N, D);
  MlaTrainParams<Real> params;
  if (c.q_lora > 0) {
    params.q_a_proj = bed.matrix("q_a_proj", c.q_lora, D);
    params.q_a_layernorm = bed.vector("q_a_layernorm", c.q_lora, 1);
    params.q_b_proj = bed.matrix("q_b_proj", c.H * qk, c.q_lora);
  } else {
    params.q_proj = bed.matrix("q_proj", c.H * qk, D);
  }
  params.kv_a_proj_with_mqa = bed.matrix("kv_a_proj_with_mqa", c.lora + c.rope, D);
  params.kv_a_layernorm = bed.vector("kv_a_layernorm", c.lora, 1);
  params.kv_b_proj = bed.matrix("kv_b_proj", c.H * (c.nope + c.v), c.lora);
  params.o_proj = bed.matrix("o_proj", D, c.H * c.v);
  const std::vector<Real> r = bed.random(N * D);
  const Rope rope(c.rope, 50, {});
  bed.set_body([=](TrainContext<Real>& ctx, bool backward) {
    const ArenaScope scope(ctx.arena);
    const TrainAngles<Real> angles = train_angles(ctx, rope, rows.T);
    MlaTape<Real> tape = mla_tape(ctx, options, params, rows);
    Real* out = ctx.arena.template take<Real>(N * D);
    zero_numbers(ctx, N * D, out);
    mla_forward(ctx, options, params, rows, angles, x->value, out, tape);
    if (out_copy != nullptr && !ctx.planning) out_copy->assign(out, out + N * D);
    if (backward) mla_backward(ctx, options, params, rows, angles, tape, r.data(), x->grad);
    return projected(ctx, r, out);
  });
}

TEST(MlaTrain, Gradients) {
  for (const MlaCase& c : {MlaCase{3, 10, 12, 6, 4, 5}, MlaCase{2, 0, 7, 5, 2, 9}, MlaCase{1, 33, 40, 16, 8, 16}}) {
    SCOPED_TRACE(fmt::format("{} heads, q_lora {}, lora {}, nope {}, rope {}, v {}", c.H, c.q_lora, c.lora, c.nope,
                             c.rope, c.v));
    check_layer([c]<typename Real>(TrainBed<Real>& bed) { make_mla(bed, c); });
  }
}

// Another token in one document leaves the outputs of the others as they were, bit for bit.
template <typename MakeBed>
void check_documents(MakeBed make) {
  std::vector<float> before, after;
  make(&before, 0.0f);
  make(&after, 1.0f);
  const int64_t D = 22;
  const auto same = [&](int64_t token) {
    return std::equal(before.begin() + token * D, before.begin() + (token + 1) * D, after.begin() + token * D);
  };
  // Token 4 stands last in the second document of the first row: [3, 5).
  for (int64_t token = 0; token < 14; ++token) EXPECT_EQ(same(token), token != 4) << token;
}

TEST(AttentionTrain, DocumentsDoNotSeeEachOther) {
  const auto move_token = [](TrainBed<float>& bed, float by) { bed.value("x")[4 * 22 + 3] += by; };
  check_documents([&](std::vector<float>* out, float by) {
    TrainBed<float> bed;
    make_gqa(bed, {4, 2, 6, false, false}, out);
    move_token(bed, by);
    bed.loss();
  });
  check_documents([&](std::vector<float>* out, float by) {
    TrainBed<float> bed;
    make_mla(bed, {3, 10, 12, 6, 4, 5}, out);
    move_token(bed, by);
    bed.loss();
  });
}

}  // namespace
}  // namespace westlake
