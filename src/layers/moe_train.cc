#include "layers/moe_train.h"

#include <algorithm>

#include "base/check.h"

namespace westlake {
namespace {

constexpr int64_t kRowPiece = 16;

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

// Matrices of grouped rows [pairs, M] as operands: by rows for the products that keep the rows, and every group by
// columns, one group behind the other, for its dW. Work is cut in pieces of kOperandK rows of a group.
template <typename Real>
class GroupOperands {
 public:
  GroupOperands(TrainContext<Real>& ctx, const MoeGroups& groups, int64_t E, int64_t pairs)
      : ctx_(ctx), groups_(groups), E_(E), pairs_(pairs), p_(ctx.precision), left_start_(E + 1) {
    for (int64_t e = 0; !ctx.planning && e < E; ++e)
      left_start_[e + 1] = left_start_[e] + left_row_bytes<Real>(p_, rows_of(e));
    CHECK(ctx.planning || left_start_[E] <= left_columns_bytes());
  }

  int64_t rows_of(int64_t e) const { return groups_.start[e + 1] - groups_.start[e]; }

  // Room for the operands, from the arena.
  std::byte* take_rows(int64_t M) { return ctx_.arena.template take<std::byte>(left_bytes<Real>(p_, pairs_, M)); }
  std::byte* take_left_columns(int64_t M) { return ctx_.arena.template take<std::byte>(M * left_columns_bytes()); }

  // A piece of a group: rows [first, first + n) of the grouped matrix, the first is row `local` of group e.
  struct Piece {
    int64_t e, first, n, local;
  };
  // f(piece, temporary): each by whoever is free, with `numbers` of its own.
  template <typename F>
  void for_pieces(int64_t numbers, F&& f) {
    const ArenaScope scope(ctx_.arena);
    Real* temporary = ctx_.arena.template take<Real>(numbers * ctx_.pool.size());
    if (ctx_.planning) return;
    const int64_t* start = groups_.operand_start;
    ctx_.for_pieces(start[E_], kOperandK, [&](int64_t begin, int64_t, int64_t, int thread) {
      const int64_t e = std::upper_bound(start, start + E_ + 1, begin) - start - 1, local = begin - start[e];
      f(Piece{e, groups_.start[e] + local, std::min(kOperandK, rows_of(e) - local), local},
        temporary + thread * numbers);
    });
  }
  // x: the rows of a piece, M numbers each.
  void pack(const Piece& piece, const Real* x, int64_t M, std::byte* rows, std::byte* columns, bool columns_left) {
    const int64_t before =
        columns_left ? M * left_start_[piece.e] : right_bytes<Real>(p_, groups_.operand_start[piece.e], M);
    ctx_.kernels.pack_both(p_, x, M, piece.local, piece.n, rows_of(piece.e), M,
                           rows + groups_.start[piece.e] * left_row_bytes<Real>(p_, M), columns + before, columns_left);
  }

  LeftOperand rows(const std::byte* base, int64_t M, int64_t e) const {
    const int64_t bytes = left_row_bytes<Real>(p_, M);
    return {base + groups_.start[e] * bytes, rows_of(e), M, bytes};
  }
  LeftOperand left_columns(const std::byte* base, int64_t M, int64_t e) const {
    return {base + M * left_start_[e], M, rows_of(e), left_row_bytes<Real>(p_, rows_of(e))};
  }
  RightOperand right_columns(const std::byte* base, int64_t M, int64_t e) const {
    return {base + right_bytes<Real>(p_, groups_.operand_start[e], M), rows_of(e), M,
            right_panel_bytes<Real>(p_, rows_of(e))};
  }

 private:
  // Of a row over all groups, at the most: the numbers of all pairs, and for a group the padding of its numbers and of
  // its lines.
  int64_t left_columns_bytes() const {
    return left_row_bytes<Real>(p_, pairs_) + E_ * left_row_bytes<Real>(p_, 2 * kOperandK);
  }

  TrainContext<Real>& ctx_;
  const MoeGroups& groups_;
  int64_t E_, pairs_;
  Precision p_;
  std::vector<int64_t> left_start_;  // bytes of a row in all groups before, as left operands
};

// The rows of x [N, D] that the pairs of a piece belong to.
template <typename Real>
void gather(const MoeGroups& groups, int64_t K, int64_t first, int64_t n, const Real* x, int64_t D, Real* to) {
  for (int64_t i = 0; i < n; ++i) {
    const Real* from = x + groups.pair[first + i] / K * D;
    std::copy(from, from + D, to + i * D);
  }
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
  GroupOperands<Real> operands(ctx, groups, E, pairs);
  using Piece = typename GroupOperands<Real>::Piece;
  std::vector<Product<Real>> products;
  {
    const ArenaScope inner(ctx.arena);
    std::byte* x_rows = operands.take_rows(D);
    operands.for_pieces(kOperandK * D, [&](const Piece& piece, Real* temporary) {
      gather(groups, K, piece.first, piece.n, x, D, temporary);
      operands.pack(piece, temporary, D, x_rows, tape.x_operands, false);
    });
    for (int64_t e = 0; !ctx.planning && e < E; ++e) {
      const int64_t first = groups.start[e], n = operands.rows_of(e);
      if (load != nullptr) (*load)[e] = n;
      if (n == 0) continue;
      const LeftOperand rows_of_e = operands.rows(x_rows, D, e);
      products.push_back({rows_of_e, p.experts[e].gate_proj->forward, tape.gate + first * F, F});
      products.push_back({rows_of_e, p.experts[e].up_proj->forward, tape.up + first * F, F});
    }
    multiply<Real>(ctx, products);
  }
  std::byte* hidden_rows = operands.take_rows(F);
  operands.for_pieces((kOperandK + 1) * F, [&](const Piece& piece, Real* temporary) {
    Real* h = temporary + kOperandK * F;
    for (int64_t i = 0; i < piece.n; ++i) {
      const int64_t r = piece.first + i;
      ctx.kernels.silu_mul(tape.gate + r * F, tape.up + r * F, F, h);
      scale_row(ctx, tape.router.weights[groups.pair[r]], h, F, temporary + i * F);
    }
    operands.pack(piece, temporary, F, hidden_rows, tape.hidden_operands, false);
  });
  if (out == nullptr) return balance;
  Real* down = ctx.arena.template take<Real>(pairs * D);
  products.clear();
  for (int64_t e = 0; !ctx.planning && e < E; ++e) {
    if (operands.rows_of(e) == 0) continue;
    products.push_back(
        {operands.rows(hidden_rows, F, e), p.experts[e].down_proj->forward, down + groups.start[e] * D, D});
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
  GroupOperands<Real> operands(ctx, groups, E, pairs);
  using Piece = typename GroupOperands<Real>::Piece;
  Real* dweights = ctx.arena.template take<Real>(pairs);
  Real* dhidden = ctx.arena.template take<Real>(pairs * F);  // of w h
  {
    const ArenaScope inner(ctx.arena);
    std::byte* dout_rows = operands.take_rows(D);
    std::byte* dout_columns = operands.take_left_columns(D);
    operands.for_pieces(kOperandK * D, [&](const Piece& piece, Real* temporary) {
      gather(groups, K, piece.first, piece.n, dout, D, temporary);
      operands.pack(piece, temporary, D, dout_rows, dout_columns, true);
    });
    std::vector<Product<Real>> products;
    for (int64_t e = 0; !ctx.planning && e < E; ++e) {
      if (operands.rows_of(e) == 0) continue;
      Param<Real>& down = *p.experts[e].down_proj;
      products.push_back({operands.rows(dout_rows, D, e), down.backward, dhidden + groups.start[e] * F, F});
      products.push_back({operands.left_columns(dout_columns, D, e), operands.right_columns(tape.hidden_operands, F, e),
                          down.grad, F, true});
    }
    multiply<Real>(ctx, products);
  }
  {
    const ArenaScope inner(ctx.arena);
    std::byte* dgate_rows = operands.take_rows(F);
    std::byte* dup_rows = operands.take_rows(F);
    std::byte* dgate_columns = operands.take_left_columns(F);
    std::byte* dup_columns = operands.take_left_columns(F);
    operands.for_pieces(2 * F, [&](const Piece& piece, Real* h) {
      Real* dh = h + F;
      for (int64_t r = piece.first; r < piece.first + piece.n; ++r) {
        Real* gate = tape.gate + r * F;
        Real* up = tape.up + r * F;
        ctx.kernels.silu_mul(gate, up, F, h);
        dweights[groups.pair[r]] = ctx.kernels.dot(dhidden + r * F, h, F);
        scale_row(ctx, tape.router.weights[groups.pair[r]], dhidden + r * F, F, dh);
        ctx.kernels.silu_mul_backward(gate, up, dh, F, gate, up);
      }
      operands.pack(piece, tape.gate + piece.first * F, F, dgate_rows, dgate_columns, true);
      operands.pack(piece, tape.up + piece.first * F, F, dup_rows, dup_columns, true);
    });
    Real* drows = ctx.arena.template take<Real>(pairs * D);
    std::vector<Product<Real>> products, second;  // sums into the same rows follow one another
    for (int64_t e = 0; !ctx.planning && e < E; ++e) {
      if (operands.rows_of(e) == 0) continue;
      const SwigluTrainParams<Real>& expert = p.experts[e];
      const RightOperand x = operands.right_columns(tape.x_operands, D, e);
      Real* dx_rows = drows + groups.start[e] * D;
      products.push_back({operands.left_columns(dgate_columns, F, e), x, expert.gate_proj->grad, D, true});
      products.push_back({operands.left_columns(dup_columns, F, e), x, expert.up_proj->grad, D, true});
      products.push_back({operands.rows(dgate_rows, F, e), expert.gate_proj->backward, dx_rows, D});
      second.push_back({operands.rows(dup_rows, F, e), expert.up_proj->backward, dx_rows, D, true});
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
