// Gradients of router, experts, balance loss and head against central differences.
#include "layers/moe_train.h"

#include "layers/head_loss.h"
#include "layers/train_test_support.h"

namespace westlake {
namespace {

struct MoeCase {
  const char* name;
  RouterScore score;
  RouterGroups groups;
  bool norm_topk_prob;
  int64_t shared;  // width of the shared experts
  bool balance;
  bool empty_expert;  // its bias keeps everybody away
};

constexpr MoeCase kMoeCases[] = {
    {"v3", RouterScore::kSigmoid, RouterGroups::kBestTwo, true, 7, false, false},
    {"v3 with balance", RouterScore::kSigmoid, RouterGroups::kNone, true, 0, true, false},
    {"v2", RouterScore::kSoftmax, RouterGroups::kBestExpert, false, 7, false, false},
    {"v2 with balance", RouterScore::kSoftmax, RouterGroups::kNone, false, 0, true, false},
    {"qwen3_moe", RouterScore::kSoftmax, RouterGroups::kNone, true, 0, false, false},
    {"empty expert", RouterScore::kSigmoid, RouterGroups::kNone, true, 7, true, true},
};

template <typename Real>
void make_moe(TrainBed<Real>& bed, const MoeCase& c, std::vector<int64_t>* load = nullptr) {
  const TrainRows rows = documents(bed);
  const int64_t N = rows.tokens(), D = 18, F = 11, E = 8;
  RouterOptions options;
  options.n_routed_experts = E;
  options.num_experts_per_tok = 3;
  options.score = c.score;
  options.groups = c.groups;
  if (c.groups != RouterGroups::kNone) {
    options.n_group = 4;
    options.topk_group = 2;
  }
  options.norm_topk_prob = c.norm_topk_prob;
  options.norm_epsilon = 1e-20f;
  options.routed_scaling_factor = 2.5f;
  Param<Real>* x = bed.input("x", N, D);
  MoeTrainParams<Real> params;
  params.gate = bed.router("gate", E, D);
  std::vector<float> bias = {0.03f, -0.02f, 0.01f, 0.0f, -0.01f, 0.02f, 0.005f, -0.03f};
  if (c.empty_expert) bias[2] = -100;
  params.e_score_correction_bias = c.score == RouterScore::kSigmoid ? bed.floats(bias) : nullptr;
  for (int64_t e = 0; e < E; ++e) {
    const std::string name = "expert " + std::to_string(e);
    const bool unused = c.empty_expert && e == 2;
    const auto matrix = [&](const char* part, int64_t n, int64_t k) {
      return unused ? bed.constant_matrix(n, k) : bed.matrix(name + part, n, k);
    };
    params.experts.push_back({matrix(" gate", F, D), matrix(" up", F, D), matrix(" down", D, F)});
  }
  if (c.shared > 0)
    params.shared_experts = {bed.matrix("shared gate", c.shared, D), bed.matrix("shared up", c.shared, D),
                             bed.matrix("shared down", D, c.shared)};
  const std::vector<Real> r = bed.random(N * D);
  const std::vector<double> alpha = {0.7, 0.4};
  bed.set_body([=](TrainContext<Real>& ctx, bool backward) {
    const ArenaScope scope(ctx.arena);
    MoeTape<Real> tape = moe_tape(ctx, options, params, rows, c.balance);
    Real* out = ctx.arena.template take<Real>(N * D);
    zero_numbers(ctx, N * D, out);
    const double balance =
        moe_forward(ctx, options, params, rows, c.balance ? alpha.data() : nullptr, x->value, out, tape, load);
    if (backward) moe_backward(ctx, options, params, rows, tape, r.data(), x->grad);
    return balance + projected(ctx, r, out);
  });
}

TEST(MoeTrain, Gradients) {
  for (const MoeCase& c : kMoeCases) {
    SCOPED_TRACE(c.name);
    check_layer([c]<typename Real>(TrainBed<Real>& bed) { make_moe(bed, c); });
  }
}

TEST(MoeTrain, ExpertWithoutTokens) {
  TrainBed<double> bed;
  std::vector<int64_t> load;
  make_moe(bed, kMoeCases[5], &load);
  bed.gradients();
  ASSERT_EQ(load.size(), 8u);
  EXPECT_EQ(load[2], 0);
  int64_t sum = 0;
  for (int64_t n : load) sum += n;
  EXPECT_EQ(sum, 14 * 3);
  EXPECT_TRUE(bed.constants_have_no_gradient());
}

// Its value by eq. 17-20, from scores that the test computes itself.
TEST(RouterTrain, BalanceLossByHand) {
  TrainBed<double> bed;
  const TrainRows rows = {2, 3, bed.ints({0, 0, 0, 0, 0, 0})};
  const int64_t E = 4, D = 5;
  RouterOptions options;
  options.n_routed_experts = E;
  options.num_experts_per_tok = 1;
  options.score = RouterScore::kSigmoid;
  Param<double>* x = bed.input("x", 6, D);
  Param<double>* gate = bed.router("gate", E, D);
  const double alpha[] = {0.5, 2};
  double seen = 0;
  bed.set_body([&](TrainContext<double>& ctx, bool) {
    const ArenaScope scope(ctx.arena);
    RouterTape<double> tape = router_tape(ctx, options, rows, true);
    router_forward(ctx, options, *gate, nullptr, x->value, 6, tape);
    return seen = balance_loss(ctx, options, rows, alpha, tape);
  });
  bed.loss();
  double expected = 0;
  for (int64_t b = 0; b < 2; ++b) {
    double f[4] = {}, P[4] = {};
    for (int64_t t = 3 * b; t < 3 * b + 3; ++t) {
      double s[4], sum = 0;
      for (int64_t e = 0; e < E; ++e) {
        double logit = 0;
        for (int64_t d = 0; d < D; ++d) logit += gate->value[e * D + d] * x->value[t * D + d];
        sum += s[e] = 1 / (1 + std::exp(-logit));
      }
      f[std::max_element(s, s + E) - s] += static_cast<double>(E) / (1 * 3);
      for (int64_t e = 0; e < E; ++e) P[e] += s[e] / sum / 3;
    }
    for (int64_t e = 0; e < E; ++e) expected += alpha[b] * f[e] * P[e];
  }
  EXPECT_NEAR(seen, expected, 1e-12);
}

TEST(HeadLoss, GradientsOverSeveralChunksAndTokensWithoutTarget) {
  check_layer([]<typename Real>(TrainBed<Real>& bed) {
    const int64_t T = 1300, V = 9, D = 6;
    Param<Real>* h = bed.input("h", T, D);
    Param<Real>* head = bed.matrix("head", V, D);
    std::vector<int32_t> targets(T);
    for (int64_t t = 0; t < T; ++t) targets[t] = t % 7 == 3 ? -1 : static_cast<int32_t>(t * 5 % V);
    const int32_t* wanted = bed.ints(targets);
    bed.set_body([=](TrainContext<Real>& ctx, bool backward) {
      const double scale = 1.0 / 100;
      return scale * head_loss(ctx, *head, h->value, wanted, T, scale, backward ? h->grad : nullptr);
    });
  });
}

TEST(HeadLoss, NatsOfEachToken) {
  TrainBed<double> bed;
  const int64_t T = 4, V = 3, D = 2;
  Param<double>* h = bed.input("h", T, D);
  Param<double>* head = bed.matrix("head", V, D);
  const int32_t* targets = bed.ints({2, -1, 0, 1});
  std::vector<float> nats(T, 7);
  bed.set_body([&](TrainContext<double>& ctx, bool) {
    return head_loss(ctx, *head, h->value, targets, T, 1.0, static_cast<double*>(nullptr),
                     ctx.planning ? nullptr : nats.data());
  });
  const double loss = bed.loss();
  double sum = 0;
  for (int64_t t = 0; t < T; ++t) {
    double p = 0, logits[3];
    for (int64_t v = 0; v < V; ++v) {
      logits[v] = head->value[v * D] * h->value[t * D] + head->value[v * D + 1] * h->value[t * D + 1];
      p += std::exp(logits[v]);
    }
    const double expected = targets[t] < 0 ? 0 : std::log(p) - logits[targets[t]];
    EXPECT_NEAR(nats[t], expected, 1e-6);
    sum += expected;
  }
  EXPECT_NEAR(loss, sum, 1e-12);
}

}  // namespace
}  // namespace westlake
