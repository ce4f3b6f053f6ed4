#include "layers/gqa_train.h"

namespace westlake {
namespace {

// Attention's arguments for one query head of one row of the batch.
template <typename Real>
TrainAttendArgs<Real> attend_args(const TrainContext<Real>& ctx, const GqaOptions& o, const TrainRows& rows,
                                  const GqaTape<Real>& tape, int64_t b, int64_t h, std::byte* scratch) {
  const int64_t H = o.num_attention_heads, KVH = o.num_key_value_heads, hd = o.head_dim, T = rows.T;
  const int64_t q_at = b * T * H * hd + h * hd, k_at = b * T * KVH * hd + h / (H / KVH) * hd;
  TrainAttendArgs<Real> args;
  args.T = T;
  args.q = tape.q + q_at;
  args.k = tape.k + k_at;
  args.v = tape.v + k_at;
  args.q_stride = args.out_stride = H * hd;
  args.k_stride = args.v_stride = KVH * hd;
  args.k_dim = args.v_dim = hd;
  args.doc_start = rows.doc_start + b * T;
  args.scale = static_cast<Real>(o.scale);
  args.precision = ctx.precision;
  args.out = tape.heads + q_at;
  args.lse = tape.lse + (b * H + h) * T;
  args.scratch = scratch;
  return args;
}

// Scratch of attention for every thread.
template <typename Real>
struct AttendScratch {
  std::byte* data;
  int64_t bytes;
  std::byte* of(int thread) const { return data + thread * bytes; }
};
template <typename Real>
AttendScratch<Real> attend_scratch(TrainContext<Real>& ctx, const GqaOptions& o, int64_t T) {
  const int64_t bytes = (ctx.kernels.attend_scratch_bytes(T, o.head_dim, o.head_dim) + 63) / 64 * 64;
  return {ctx.arena.template take<std::byte>(bytes * ctx.pool.size()), bytes};
}

}  // namespace

template <typename Real>
GqaTape<Real> gqa_tape(TrainContext<Real>& ctx, const GqaOptions& o, const GqaTrainParams<Real>& params,
                       const TrainRows& rows) {
  const int64_t H = o.num_attention_heads, KVH = o.num_key_value_heads, hd = o.head_dim, N = rows.tokens();
  GqaTape<Real> tape;
  tape.x = linear_tape(ctx, N, o.hidden_size);
  tape.q = tape.q_raw = ctx.arena.template take<Real>(N * H * hd);
  tape.k = tape.k_raw = ctx.arena.template take<Real>(N * KVH * hd);
  tape.v = ctx.arena.template take<Real>(N * KVH * hd);
  if (params.q_norm != nullptr) {
    tape.q_raw = ctx.arena.template take<Real>(N * H * hd);
    tape.k_raw = ctx.arena.template take<Real>(N * KVH * hd);
    tape.q_norm = rms_norm_tape(ctx, N * H);
    tape.k_norm = rms_norm_tape(ctx, N * KVH);
  }
  tape.heads = ctx.arena.template take<Real>(N * H * hd);
  tape.lse = ctx.arena.template take<Real>(N * H);
  tape.out = linear_tape(ctx, N, H * hd);
  return tape;
}

template <typename Real>
void gqa_forward(TrainContext<Real>& ctx, const GqaOptions& o, const GqaTrainParams<Real>& params,
                 const TrainRows& rows, const TrainAngles<Real>& angles, const Real* x, Real* out,
                 GqaTape<Real>& tape) {
  const OpTimer timer(ctx.profile, "attention products");
  const int64_t D = o.hidden_size, H = o.num_attention_heads, KVH = o.num_key_value_heads, hd = o.head_dim;
  const int64_t N = rows.tokens();
  const LinearOut<Real> qkv[] = {
      {params.q_proj, tape.q_raw, H * hd}, {params.k_proj, tape.k_raw, KVH * hd}, {params.v_proj, tape.v, KVH * hd}};
  linear_forward<Real>(ctx, x, D, qkv, tape.x);
  if (params.q_bias != nullptr) bias_forward(ctx, *params.q_bias, N, tape.q_raw, H * hd);
  if (params.k_bias != nullptr) bias_forward(ctx, *params.k_bias, N, tape.k_raw, KVH * hd);
  if (params.v_bias != nullptr) bias_forward(ctx, *params.v_bias, N, tape.v, KVH * hd);
  if (params.q_norm != nullptr) {
    rms_norm_forward(ctx, tape.q_raw, hd, *params.q_norm, o.rms_norm_eps, N * H, tape.q, hd, tape.q_norm);
    rms_norm_forward(ctx, tape.k_raw, hd, *params.k_norm, o.rms_norm_eps, N * KVH, tape.k, hd, tape.k_norm);
  }
  rotate_heads(ctx, rows, angles, tape.q, H * hd, H, hd, !o.rope_interleaved, false);
  rotate_heads(ctx, rows, angles, tape.k, KVH * hd, KVH, hd, !o.rope_interleaved, false);
  {
    const OpTimer attend(ctx.profile, "attend");
    const ArenaScope scope(ctx.arena);
    const AttendScratch<Real> scratch = attend_scratch(ctx, o, rows.T);
    ctx.for_pieces(rows.B * H, H / KVH, [&](int64_t begin, int64_t end, int64_t, int thread) {
      for (int64_t i = begin; i < end; ++i)
        ctx.kernels.attend(attend_args(ctx, o, rows, tape, i / H, i % H, scratch.of(thread)));
    });
  }
  const LinearOut<Real> output[] = {{params.o_proj, out, D, /*add=*/true}};
  linear_forward<Real>(ctx, tape.heads, H * hd, output, tape.out);
  if (params.o_bias != nullptr) bias_forward(ctx, *params.o_bias, N, out, D);
}

template <typename Real>
void gqa_backward(TrainContext<Real>& ctx, const GqaOptions& o, const GqaTrainParams<Real>& params,
                  const TrainRows& rows, const TrainAngles<Real>& angles, GqaTape<Real>& tape, const Real* dout,
                  Real* dx) {
  const OpTimer timer(ctx.profile, "attention products backward");
  const int64_t D = o.hidden_size, H = o.num_attention_heads, KVH = o.num_key_value_heads, hd = o.head_dim;
  const int64_t N = rows.tokens(), T = rows.T;
  const ArenaScope scope(ctx.arena);
  Real* dq = ctx.arena.template take<Real>(N * H * hd);
  Real* dk = ctx.arena.template take<Real>(N * KVH * hd);
  Real* dv = ctx.arena.template take<Real>(N * KVH * hd);
  if (params.o_bias != nullptr) bias_backward(ctx, dout, D, N, *params.o_bias);
  {
    const ArenaScope inner(ctx.arena);
    Real* dheads = ctx.arena.template take<Real>(N * H * hd);
    const LinearGrad<Real> output[] = {{params.o_proj, dout, D}};
    linear_backward<Real>(ctx, tape.out, output, dheads, H * hd, false);
    zero_numbers(ctx, N * KVH * hd, dk);
    zero_numbers(ctx, N * KVH * hd, dv);
    const OpTimer attend(ctx.profile, "attend backward");
    const AttendScratch<Real> scratch = attend_scratch(ctx, o, T);
    ctx.for_pieces(rows.B * H, H / KVH, [&](int64_t begin, int64_t end, int64_t, int thread) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t b = i / H, h = i % H;
        const int64_t q_at = b * T * H * hd + h * hd, k_at = b * T * KVH * hd + h / (H / KVH) * hd;
        ctx.kernels.attend_backward(
            attend_args(ctx, o, rows, tape, b, h, scratch.of(thread)),
            {dheads + q_at, H * hd, dq + q_at, dk + k_at, dv + k_at, H * hd, KVH * hd, KVH * hd});
      }
    });
  }
  rotate_heads(ctx, rows, angles, dq, H * hd, H, hd, !o.rope_interleaved, true);
  rotate_heads(ctx, rows, angles, dk, KVH * hd, KVH, hd, !o.rope_interleaved, true);
  if (params.q_norm != nullptr) {
    // The rotated q and k are used up: their place takes the gradient before the norm.
    zero_numbers(ctx, N * H * hd, tape.q);
    zero_numbers(ctx, N * KVH * hd, tape.k);
    rms_norm_backward(ctx, tape.q_norm, *params.q_norm, dq, hd, N * H, tape.q, hd);
    rms_norm_backward(ctx, tape.k_norm, *params.k_norm, dk, hd, N * KVH, tape.k, hd);
    dq = tape.q;
    dk = tape.k;
  }
  if (params.q_bias != nullptr) bias_backward(ctx, dq, H * hd, N, *params.q_bias);
  if (params.k_bias != nullptr) bias_backward(ctx, dk, KVH * hd, N, *params.k_bias);
  if (params.v_bias != nullptr) bias_backward(ctx, dv, KVH * hd, N, *params.v_bias);
  const LinearGrad<Real> qkv[] = {
      {params.q_proj, dq, H * hd}, {params.k_proj, dk, KVH * hd}, {params.v_proj, dv, KVH * hd}};
  linear_backward<Real>(ctx, tape.x, qkv, dx, D, false);
}

#define WESTLAKE_FOR_REAL(Real)                                                                                     \
  template GqaTape<Real> gqa_tape(TrainContext<Real>&, const GqaOptions&, const GqaTrainParams<Real>&,              \
                                  const TrainRows&);                                                                \
  template void gqa_forward(TrainContext<Real>&, const GqaOptions&, const GqaTrainParams<Real>&, const TrainRows&,  \
                            const TrainAngles<Real>&, const Real*, Real*, GqaTape<Real>&);                          \
  template void gqa_backward(TrainContext<Real>&, const GqaOptions&, const GqaTrainParams<Real>&, const TrainRows&, \
                             const TrainAngles<Real>&, GqaTape<Real>&, const Real*, Real*);
WESTLAKE_FOR_REAL(float)
WESTLAKE_FOR_REAL(double)
#undef WESTLAKE_FOR_REAL

}  // namespace westlake
