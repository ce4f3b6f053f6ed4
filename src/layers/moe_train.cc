#include "layers/moe_train.h"

#include <algorithm>

namespace westlake {
namespace {

constexpr int64_t kRowPiece = 16;
constexpr int64_t kPackRows = 32;

int64_t pieces(int64_t n, int64_t piece) {
  return (n + piece - 1) / piece;
}

// Rows of all groups as operands, at the most: each may be padded.
int64_t operand_rows(int64_t pairs, int64_t E) {
  return pieces(pairs, kOperandK) * kOperandK + E * kOperandK;
}

// Counting sort by expert; stable, so that tokens stay in order.
void group(const int32_t* experts, int64_t pairs, int64_t E, MoeGroups& g) {
  std::fill(g.start, g.start + E + 1, 0);
  for (int64_t i = 0; i < pairs; ++i) ++g.start[experts[i] + 1];
  g.operand_start[0] = 0;
  for (int64_t e = 0; e < E; ++e) {
    g.operand_start[e + 1] = g.operand_start[e] + pieces(g.start[e + 1], kOperandK) * kOperandK;
    g.start[e + 1] += g.start[e];
  }
  std::vector<int64_t> next(g.start, g.start + E);
  for (int64_t i = 0; i < pairs; ++i) {
    g.row[i] = static_cast<int32_t>(next[experts[i]]++);
    g.pair[g.row[i]] = static_cast<int32_t>(i);
  }
}

// The groups of rows of one matrix as operands of dW, one behind the other.
template <typename Real>
class GroupOperands {
 public:
  GroupOperands(TrainContext<Real>& ctx, const MoeGroups& groups, int64_t E)
      : ctx_(ctx), groups_(groups), E_(E), p_(ctx.precision), left_start_(E + 1) {
    for (int64_t e = 0; !ctx.planning && e < E; ++e)
      left_start_[e + 1] = left_start_[e] + left_row_bytes<Real>(p_, rows_of(e));
  }

  int64_t rows_of(int64_t e) const { return groups_.start[e + 1] - groups_.start[e]; }

  // x: [pairs, M]. x^T of every group, from the arena.
  std::byte* pack_left(const Real* x, int64_t M, int64_t pairs) {
    // Rows of every group, at the most: those of all pairs, and a group's padding.
    const int64_t row_bytes = left_row_bytes<Real>(p_, pairs) + E_ * left_row_bytes<Real>(p_, kOperandK);
    std::byte* to = ctx_.arena.template take<std::byte>(M * row_bytes);
    const int64_t parts = pieces(M, kPackRows);
    ctx_.for_pieces(E_ * parts, 1, [&](int64_t i, int64_t, int64_t, int) {
      const int64_t e = i / parts, row = i % parts * kPackRows, n = rows_of(e);
      if (n == 0) return;
      ctx_.kernels.pack_left(p_, x + groups_.start[e] * M, M, true, row, std::min(kPackRows, M - row), n,
                             to + M * left_start_[e]);
    });
    return to;
  }
  LeftOperand left(const std::byte* base, int64_t M, int64_t e) const {
    return {base + M * left_start_[e], M, rows_of(e), left_row_bytes<Real>(p_, rows_of(e))};
  }

  // x: [pairs, N]. x of every group, into `to`.
  void pack_right(const Real* x, int64_t N, std::byte* to) {
    const int64_t panels = pieces(N, kPanelN);
    ctx_.for_pieces(E_ * panels, 1, [&](int64_t i, int64_t, int64_t, int) {
      const int64_t e = i / panels, n = rows_of(e);
      if (n == 0) return;
      ctx_.kernels.pack_right(p_, x + groups_.start[e] * N, N, false, i % panels, 1, n, N,
                              to + right_bytes<Real>(p_, groups_.operand_start[e], N));
    });
  }
  RightOperand right(const std::byte* base, int64_t N, int64_t e) const {
    return {base + right_bytes<Real>(p_, groups_.operand_start[e], N), rows_of(e), N,
            right_panel_bytes<Real>(p_, rows_of(e))};
  }

 private:
  TrainContext<Real>& ctx_;
  const MoeGroups& groups_;
  int64_t E_;
  Precision p_;
  std::vector<int64_t> left_start_;  // bytes of a row in all groups before, as left operands
};

// Rows of x [N, D] in the order of the groups.
template <typename Real>
Real* gather(TrainContext<Real>& ctx, const MoeGroups& groups, int64_t K, int64_t pairs, const Real* x, int64_t D) {
  Real* rows = ctx.arena.template take<Real>(pairs * D);
  ctx.for_pieces(pairs, kRowPiece, [&](int64_t begin, int64_t end, int64_t, int) {
    for (int64_t r = begin; r < end; ++r) {
      const Real* from = x + groups.pair[r] / K * D;
      std::copy(from, from + D, rows + r * D);
    }
  });
  return rows;
}

// y[t] += the rows of token t, in the order of their rank.
template <typename Real>
void scatter_add(TrainContext<Real>& ctx, const MoeGroups& groups, int64_t K, int64_t N, const Real* rows, int64_t D,
                 Real* y) {
  ctx.for_pieces(N, kRowPiece, [&](int64_t begin, int64_t end, int64_t, int) {
    for (int64_t i = begin * K; i < end * K; ++i) ctx.kernels.axpy(1, rows + groups.row[i] * D, D, y + i / K * D);
  });
}

// y = a x, of n numbers.
template <typename Real>
void scale_row(const TrainContext<Real>& ctx, Real a, const Real* x, int64_t n, Real* y) {
  std::fill(y, y + n, Real(0));
  ctx.kernels.axpy(a, x, n, y);
}

}  // namespace

template <typename Real>
MoeTape<Real> moe_tape(TrainContext<Real>& ctx, const RouterOptions& o, const MoeTrainParams<Real>& p,
                       const TrainRows& rows, bool balance) {
  const int64_t E = o.n_routed_experts, N = rows.tokens(), pairs = N * o.num_experts_per_tok, D = p.gate->cols;
  const int64_t F = p.experts[0].gate_proj->rows;
  MoeTape<Real> tape;
  tape.x = ctx.arena.template take<Real>(N * D);
  tape.router = router_tape(ctx, o, rows, balance);
  tape.groups.start = ctx.arena.template take<int64_t>(E + 1);
  tape.groups.operand_start = ctx.arena.template take<int64_t>(E + 1);
  tape.groups.pair = ctx.arena.template take<int32_t>(pairs);
  tape.groups.row = ctx.arena.template take<int32_t>(pairs);
  const int64_t padded = operand_rows(pairs, E);
  tape.x_operands = ctx.arena.template take<std::byte>(right_bytes<Real>(ctx.precision, padded, D));
  tape.gate = ctx.arena.template take<Real>(pairs * F);
  tape.up = ctx.arena.template take<Real>(pairs * F);
  tape.hidden_operands = ctx.arena.template take<std::byte>(right_bytes<Real>(ctx.precision, padded, F));
  if (p.shared_experts.gate_proj != nullptr) tape.shared = swiglu_tape(ctx, p.shared_experts, N);
  return tape;
}

template <typename Real>
double moe_forward(TrainContext<Real>& ctx, const RouterOptions& o, const MoeTrainParams<Real>& p,
                   const TrainRows& rows, const double* balance_alpha, const Real* x, Real* out, MoeTape<Real>& tape,
                   std::vector<int64_t>* load) {
  const int64_t E = o.n_routed_experts, K = o.num_experts_per_tok, N = rows.tokens(), pairs = N * K;
  const int64_t D = p.gate->cols, F = p.experts[0].gate_proj->rows;
  const MoeGroups& groups = tape.groups;
  copy_numbers(ctx, x, N * D, tape.x);
  router_forward(ctx, o, *p.gate, p.e_score_correction_bias, x, N, tape.router);
  double balance = 0;
  if (balance_alpha != nullptr) balance = balance_loss(ctx, o, rows, balance_alpha, tape.router);
  if (p.shared_experts.gate_proj != nullptr) swiglu_forward(ctx, p.shared_experts, x, N, out, tape.shared);

  const OpTimer timer(ctx.profile, "experts");
  if (!ctx.planning) group(tape.router.experts, pairs, E, tape.groups);
  if (load != nullptr) load->assign(E, 0);
  const ArenaScope scope(ctx.arena);
  GroupOperands<Real> operands(ctx, groups, E);
  Real* hidden = ctx.arena.template take<Real>(pairs * F);
  std::vector<Product<Real>> products;
  {
    const ArenaScope inner(ctx.arena);
    const Real* grouped = gather(ctx, groups, K, pairs, x, D);
    operands.pack_right(grouped, D, tape.x_operands);
    const LeftOperand left = pack_left(ctx, grouped, D, pairs, D, false);
    for (int64_t e = 0; !ctx.planning && e < E; ++e) {
      const int64_t first = groups.start[e], n = operands.rows_of(e);
      if (load != nullptr) (*load)[e] = n;
      if (n == 0) continue;
      products.push_back({left.rows(first, n), p.experts[e].gate_proj->forward, tape.gate + first * F, F});
      products.push_back({left.rows(first, n), p.experts[e].up_proj->forward, tape.up + first * F, F});
    }
    multiply<Real>(ctx, products);
  }
  Real* temporary = ctx.arena.template take<Real>(F * ctx.pool.size());
  ctx.for_pieces(pairs, kRowPiece, [&](int64_t begin, int64_t end, int64_t, int thread) {
    Real* h = temporary + thread * F;
    for (int64_t r = begin; r < end; ++r) {
      ctx.kernels.silu_mul(tape.gate + r * F, tape.up + r * F, F, h);
      scale_row(ctx, tape.router.weights[groups.pair[r]], h, F, hidden + r * F);
    }
  });
  operands.pack_right(hidden, F, tape.hidden_operands);
  const LeftOperand left = pack_left(ctx, hidden, F, pairs, F, false);
  Real* down = ctx.arena.template take<Real>(pairs * D);
  products.clear();
  for (int64_t e = 0; !ctx.planning && e < E; ++e) {
    const int64_t first = groups.start[e], n = operands.rows_of(e);
    if (n > 0) products.push_back({left.rows(first, n), p.experts[e].down_proj->forward, down + first * D, D});
  }
  multiply<Real>(ctx, products);
  scatter_add(ctx, groups, K, N, down, D, out);
  return balance;
}

template <typename Real>
void moe_backward(TrainContext<Real>& ctx, const RouterOptions& o, const MoeTrainParams<Real>& p, const TrainRows& rows,
                  MoeTape<Real>& tape, const Real* dout, Real* dx) {
  const int64_t E = o.n_routed_experts, K = o.num_experts_per_tok, N = rows.tokens(), pairs = N * K;
  const int64_t D = p.gate->cols, F = p.experts[0].gate_proj->rows;
  const MoeGroups& groups = tape.groups;
  if (p.shared_experts.gate_proj != nullptr) {
    swiglu_backward(ctx, p.shared_experts, tape.shared, dout, N, dx);
  } else {
    zero_numbers(ctx, N * D, dx);
  }
  const OpTimer timer(ctx.profile, "experts backward");
  const ArenaScope scope(ctx.arena);
  GroupOperands<Real> operands(ctx, groups, E);
  Real* dweights = ctx.arena.template take<Real>(pairs);
  {
    const ArenaScope inner(ctx.arena);
    Real* dhidden = ctx.arena.template take<Real>(pairs * F);  // of w h
    {
      const ArenaScope innermost(ctx.arena);
      const Real* grouped = gather(ctx, groups, K, pairs, dout, D);
      const LeftOperand left = pack_left(ctx, grouped, D, pairs, D, false);
      const std::byte* left_t = operands.pack_left(grouped, D, pairs);
      std::vector<Product<Real>> products;
      for (int64_t e = 0; !ctx.planning && e < E; ++e) {
        const int64_t first = groups.start[e], n = operands.rows_of(e);
        if (n == 0) continue;
        Param<Real>& down = *p.experts[e].down_proj;
        products.push_back({left.rows(first, n), down.backward, dhidden + first * F, F});
        products.push_back(
            {operands.left(left_t, D, e), operands.right(tape.hidden_operands, F, e), down.grad, F, true});
      }
      multiply<Real>(ctx, products);
    }
    const int64_t numbers = 2 * F;
    Real* temporary = ctx.arena.template take<Real>(numbers * ctx.pool.size());
    ctx.for_pieces(pairs, kRowPiece, [&](int64_t begin, int64_t end, int64_t, int thread) {
      Real* h = temporary + thread * numbers;
      Real* dh = h + F;
      for (int64_t r = begin; r < end; ++r) {
        Real* gate = tape.gate + r * F;
        Real* up = tape.up + r * F;
        ctx.kernels.silu_mul(gate, up, F, h);
        dweights[groups.pair[r]] = ctx.kernels.dot(dhidden + r * F, h, F);
        scale_row(ctx, tape.router.weights[groups.pair[r]], dhidden + r * F, F, dh);
        ctx.kernels.silu_mul_backward(gate, up, dh, F, gate, up);
      }
    });
  }
  {
    const ArenaScope inner(ctx.arena);
    Real* drows = ctx.arena.template take<Real>(pairs * D);
    const LeftOperand dgate = pack_left(ctx, tape.gate, F, pairs, F, false);
    const LeftOperand dup = pack_left(ctx, tape.up, F, pairs, F, false);
    const std::byte* dgate_t = operands.pack_left(tape.gate, F, pairs);
    const std::byte* dup_t = operands.pack_left(tape.up, F, pairs);
    std::vector<Product<Real>> products, second;  // sums into the same rows follow one another
    for (int64_t e = 0; !ctx.planning && e < E; ++e) {
      const int64_t first = groups.start[e], n = operands.rows_of(e);
      if (n == 0) continue;
      const SwigluTrainParams<Real>& expert = p.experts[e];
      const RightOperand x = operands.right(tape.x_operands, D, e);
      products.push_back({operands.left(dgate_t, F, e), x, expert.gate_proj->grad, D, true});
      products.push_back({operands.left(dup_t, F, e), x, expert.up_proj->grad, D, true});
      products.push_back({dgate.rows(first, n), expert.gate_proj->backward, drows + first * D, D});
      second.push_back({dup.rows(first, n), expert.up_proj->backward, drows + first * D, D, true});
    }
    multiply<Real>(ctx, products);
    multiply<Real>(ctx, second);
    scatter_add(ctx, groups, K, N, drows, D, dx);
  }
  router_backward(ctx, o, *p.gate, tape.router, tape.x, rows, dweights, dx);
}

#define WESTLAKE_FOR_REAL(Real)                                                                                        \
  template MoeTape<Real> moe_tape(TrainContext<Real>&, const RouterOptions&, const MoeTrainParams<Real>&,              \
                                  const TrainRows&, bool);                                                             \
  template double moe_forward(TrainContext<Real>&, const RouterOptions&, const MoeTrainParams<Real>&,                  \
                              const TrainRows&, const double*, const Real*, Real*, MoeTape<Real>&,                     \
                              std::vector<int64_t>*);                                                                  \
  template void moe_backward(TrainContext<Real>&, const RouterOptions&, const MoeTrainParams<Real>&, const TrainRows&, \
                             MoeTape<Real>&, const Real*, Real*);
WESTLAKE_FOR_REAL(float)
WESTLAKE_FOR_REAL(double)
#undef WESTLAKE_FOR_REAL

}  // namespace westlake
