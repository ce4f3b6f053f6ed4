#include "layers/mla_train.h"

#include <algorithm>

namespace westlake {
namespace {

constexpr int64_t kTokenPiece = 32;

// What a thread needs to attend with one head: its keys [T, qk] in one piece (and their gradient), the kernel's
// scratch.
template <typename Real>
struct HeadScratch {
  Real* keys;
  Real* dkeys;
  std::byte* attend;
  int64_t numbers, bytes;
  Real* k(int thread) const { return keys + thread * numbers; }
  Real* dk(int thread) const { return dkeys + thread * numbers; }
  std::byte* scratch(int thread) const { return attend + thread * bytes; }
};

template <typename Real>
HeadScratch<Real> head_scratch(TrainContext<Real>& ctx, const MlaOptions& o, int64_t T, bool backward) {
  HeadScratch<Real> s;
  s.numbers = (T * o.qk_head_dim() + 15) / 16 * 16;
  s.bytes = (ctx.kernels.attend_scratch_bytes(T, o.qk_head_dim(), o.v_head_dim) + 63) / 64 * 64;
  s.keys = ctx.arena.template take<Real>(s.numbers * ctx.pool.size());
  s.dkeys = backward ? ctx.arena.template take<Real>(s.numbers * ctx.pool.size()) : nullptr;
  s.attend = ctx.arena.template take<std::byte>(s.bytes * ctx.pool.size());
  return s;
}

// Attention's arguments for head h of row b; k gets the head's keys [k_nope | k_rope].
template <typename Real>
TrainAttendArgs<Real> attend_args(const TrainContext<Real>& ctx, const MlaOptions& o, const TrainRows& rows,
                                  const MlaTape<Real>& tape, int64_t b, int64_t h, Real* k, std::byte* scratch) {
  const int64_t H = o.num_attention_heads, nope = o.qk_nope_head_dim, v = o.v_head_dim, qk = o.qk_head_dim();
  const int64_t T = rows.T, first = b * T, ldkv = H * (nope + v), width = o.kv_width();
  for (int64_t i = 0; i < T; ++i) {
    const Real* up = tape.kv + (first + i) * ldkv + h * (nope + v);
    const Real* rope = tape.kv_a + (first + i) * width + o.kv_lora_rank;
    std::copy(up, up + nope, k + i * qk);
    std::copy(rope, rope + o.qk_rope_head_dim, k + i * qk + nope);
  }
  TrainAttendArgs<Real> args;
  args.T = T;
  args.q = tape.q + (first * H + h) * qk;
  args.q_stride = H * qk;
  args.k = k;
  args.k_stride = qk;
  args.v = tape.kv + first * ldkv + h * (nope + v) + nope;
  args.v_stride = ldkv;
  args.k_dim = qk;
  args.v_dim = v;
  args.doc_start = rows.doc_start + first;
  args.scale = static_cast<Real>(o.scale);
  args.precision = ctx.precision;
  args.out = tape.heads + (first * H + h) * v;
  args.out_stride = H * v;
  args.lse = tape.lse + (b * H + h) * T;
  args.scratch = scratch;
  return args;
}

}  // namespace

template <typename Real>
MlaTape<Real> mla_tape(TrainContext<Real>& ctx, const MlaOptions& o, const MlaTrainParams<Real>& params,
                       const TrainRows& rows) {
  const int64_t H = o.num_attention_heads, N = rows.tokens();
  MlaTape<Real> tape;
  tape.x = linear_tape(ctx, N, o.hidden_size);
  if (params.q_a_proj != nullptr) {
    tape.q_a = ctx.arena.template take<Real>(N * params.q_a_proj->rows);
    tape.q_norm = rms_norm_tape(ctx, N);
    tape.q_latent = linear_tape(ctx, N, params.q_a_proj->rows);
  }
  tape.q = ctx.arena.template take<Real>(N * H * o.qk_head_dim());
  tape.kv_a = ctx.arena.template take<Real>(N * o.kv_width());
  tape.kv_norm = rms_norm_tape(ctx, N);
  tape.kv_latent = linear_tape(ctx, N, o.kv_lora_rank);
  tape.kv = ctx.arena.template take<Real>(N * H * (o.qk_nope_head_dim + o.v_head_dim));
  tape.heads = ctx.arena.template take<Real>(N * H * o.v_head_dim);
  tape.lse = ctx.arena.template take<Real>(N * H);
  tape.out = linear_tape(ctx, N, H * o.v_head_dim);
  return tape;
}

template <typename Real>
void mla_forward(TrainContext<Real>& ctx, const MlaOptions& o, const MlaTrainParams<Real>& p, const TrainRows& rows,
                 const TrainAngles<Real>& angles, const Real* x, Real* out, MlaTape<Real>& tape) {
  const OpTimer timer(ctx.profile, "attention products");
  const int64_t D = o.hidden_size, H = o.num_attention_heads, N = rows.tokens(), lora = o.kv_lora_rank;
  const int64_t nope = o.qk_nope_head_dim, v = o.v_head_dim, qk = o.qk_head_dim(), width = o.kv_width();
  const ArenaScope scope(ctx.arena);
  const bool low_rank = p.q_a_proj != nullptr;
  const LinearOut<Real> of_x[] = {
      low_rank ? LinearOut<Real>{p.q_a_proj, tape.q_a, p.q_a_proj->rows} : LinearOut<Real>{p.q_proj, tape.q, H * qk},
      {p.kv_a_proj_with_mqa, tape.kv_a, width}};
  linear_forward<Real>(ctx, x, D, of_x, tape.x);
  if (low_rank) {
    const int64_t q_lora = p.q_a_proj->rows;
    Real* normed = ctx.arena.template take<Real>(N * q_lora);
    rms_norm_forward(ctx, tape.q_a, q_lora, *p.q_a_layernorm, o.latent_eps, N, normed, q_lora, tape.q_norm);
    const LinearOut<Real> up[] = {{p.q_b_proj, tape.q, H * qk}};
    linear_forward<Real>(ctx, normed, q_lora, up, tape.q_latent);
  }
  rotate_heads(ctx, rows, angles, tape.q + nope, H * qk, H, qk, false, false);
  Real* normed = ctx.arena.template take<Real>(N * lora);
  rms_norm_forward(ctx, tape.kv_a, width, *p.kv_a_layernorm, o.latent_eps, N, normed, lora, tape.kv_norm);
  const LinearOut<Real> up[] = {{p.kv_b_proj, tape.kv, H * (nope + v)}};
  linear_forward<Real>(ctx, normed, lora, up, tape.kv_latent);
  rotate_heads(ctx, rows, angles, tape.kv_a + lora, width, 1, 0, false, false);
  {
    const OpTimer attend(ctx.profile, "attend");
    const HeadScratch<Real> s = head_scratch(ctx, o, rows.T, false);
    ctx.for_pieces(rows.B * H, 1, [&](int64_t i, int64_t, int64_t, int thread) {
      ctx.kernels.attend(attend_args(ctx, o, rows, tape, i / H, i % H, s.k(thread), s.scratch(thread)));
    });
  }
  const LinearOut<Real> output[] = {{p.o_proj, out, D, /*add=*/true}};
  linear_forward<Real>(ctx, tape.heads, H * v, output, tape.out);
}

namespace {

// dq, [dk_nope | dv] and dk_rope of every head.
template <typename Real>
void attend_backward(TrainContext<Real>& ctx, const MlaOptions& o, const TrainRows& rows, const MlaTape<Real>& tape,
                     const Real* dheads, Real* dq, Real* dkv, Real* drope) {
  const OpTimer timer(ctx.profile, "attend backward");
  const int64_t H = o.num_attention_heads, nope = o.qk_nope_head_dim, rope = o.qk_rope_head_dim, v = o.v_head_dim;
  const int64_t qk = o.qk_head_dim(), T = rows.T, ldkv = H * (nope + v);
  const ArenaScope scope(ctx.arena);
  const HeadScratch<Real> s = head_scratch(ctx, o, T, true);
  ctx.for_pieces(rows.B * H, 1, [&](int64_t task, int64_t, int64_t, int thread) {
    const int64_t b = task / H, h = task % H, first = b * T;
    Real* dk = s.dk(thread);
    Real* dup = dkv + first * ldkv + h * (nope + v);  // [T, nope | v], rows ldkv apart
    std::fill(dk, dk + T * qk, Real(0));
    for (int64_t i = 0; i < T; ++i) std::fill(dup + i * ldkv + nope, dup + i * ldkv + nope + v, Real(0));
    TrainAttendGrad<Real> grad;
    grad.dout = dheads + (first * H + h) * v;
    grad.dout_stride = H * v;
    grad.dq = dq + (first * H + h) * qk;
    grad.dq_stride = H * qk;
    grad.dk = dk;
    grad.dk_stride = qk;
    grad.dv = dup + nope;
    grad.dv_stride = ldkv;
    ctx.kernels.attend_backward(attend_args(ctx, o, rows, tape, b, h, s.k(thread), s.scratch(thread)), grad);
    for (int64_t i = 0; i < T; ++i) {
      std::copy(dk + i * qk, dk + i * qk + nope, dup + i * ldkv);
      std::copy(dk + i * qk + nope, dk + (i + 1) * qk, drope + ((first + i) * H + h) * rope);
    }
  });
}

}  // namespace

template <typename Real>
void mla_backward(TrainContext<Real>& ctx, const MlaOptions& o, const MlaTrainParams<Real>& p, const TrainRows& rows,
                  const TrainAngles<Real>& angles, MlaTape<Real>& tape, const Real* dout, Real* dx) {
  const OpTimer timer(ctx.profile, "attention products backward");
  const int64_t D = o.hidden_size, H = o.num_attention_heads, N = rows.tokens(), lora = o.kv_lora_rank;
  const int64_t nope = o.qk_nope_head_dim, rope = o.qk_rope_head_dim, v = o.v_head_dim, qk = o.qk_head_dim();
  const int64_t width = o.kv_width();
  const bool low_rank = p.q_a_proj != nullptr;
  const int64_t q_lora = low_rank ? p.q_a_proj->rows : 0;
  const ArenaScope scope(ctx.arena);
  Real* dq = ctx.arena.template take<Real>(N * H * qk);
  Real* dq_a = ctx.arena.template take<Real>(N * q_lora);
  Real* dkv_a = ctx.arena.template take<Real>(N * width);
  zero_numbers(ctx, N * width, dkv_a);
  {
    const ArenaScope inner(ctx.arena);
    Real* dkv = ctx.arena.template take<Real>(N * H * (nope + v));
    Real* drope = ctx.arena.template take<Real>(N * H * rope);
    {
      const ArenaScope innermost(ctx.arena);
      Real* dheads = ctx.arena.template take<Real>(N * H * v);
      const LinearGrad<Real> output[] = {{p.o_proj, dout, D}};
      linear_backward<Real>(ctx, tape.out, output, dheads, H * v, false);
      attend_backward(ctx, o, rows, tape, dheads, dq, dkv, drope);
    }
    ctx.for_pieces(N, kTokenPiece, [&](int64_t begin, int64_t end, int64_t, int) {
      for (int64_t t = begin; t < end; ++t) {
        for (int64_t h = 0; h < H; ++h) ctx.kernels.axpy(1, drope + (t * H + h) * rope, rope, dkv_a + t * width + lora);
      }
    });
    rotate_heads(ctx, rows, angles, dkv_a + lora, width, 1, 0, false, true);
    Real* dlatent = ctx.arena.template take<Real>(N * lora);
    const LinearGrad<Real> up[] = {{p.kv_b_proj, dkv, H * (nope + v)}};
    linear_backward<Real>(ctx, tape.kv_latent, up, dlatent, lora, false);
    rms_norm_backward(ctx, tape.kv_norm, *p.kv_a_layernorm, dlatent, lora, N, dkv_a, width);
  }
  rotate_heads(ctx, rows, angles, dq + nope, H * qk, H, qk, false, true);
  if (low_rank) {
    const ArenaScope inner(ctx.arena);
    Real* dlatent = ctx.arena.template take<Real>(N * q_lora);
    const LinearGrad<Real> up[] = {{p.q_b_proj, dq, H * qk}};
    linear_backward<Real>(ctx, tape.q_latent, up, dlatent, q_lora, false);
    zero_numbers(ctx, N * q_lora, dq_a);
    rms_norm_backward(ctx, tape.q_norm, *p.q_a_layernorm, dlatent, q_lora, N, dq_a, q_lora);
  }
  const LinearGrad<Real> of_x[] = {
      low_rank ? LinearGrad<Real>{p.q_a_proj, dq_a, q_lora} : LinearGrad<Real>{p.q_proj, dq, H * qk},
      {p.kv_a_proj_with_mqa, dkv_a, width}};
  linear_backward<Real>(ctx, tape.x, of_x, dx, D, false);
}

#define WESTLAKE_FOR_REAL(Real)                                                                                     \
  template MlaTape<Real> mla_tape(TrainContext<Real>&, const MlaOptions&, const MlaTrainParams<Real>&,              \
                                  const TrainRows&);                                                                \
  template void mla_forward(TrainContext<Real>&, const MlaOptions&, const MlaTrainParams<Real>&, const TrainRows&,  \
                            const TrainAngles<Real>&, const Real*, Real*, MlaTape<Real>&);                          \
  template void mla_backward(TrainContext<Real>&, const MlaOptions&, const MlaTrainParams<Real>&, const TrainRows&, \
                             const TrainAngles<Real>&, MlaTape<Real>&, const Real*, Real*);
WESTLAKE_FOR_REAL(float)
WESTLAKE_FOR_REAL(double)
#undef WESTLAKE_FOR_REAL

}  // namespace westlake
