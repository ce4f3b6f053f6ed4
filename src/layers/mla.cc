#include "layers/mla.h"

#include <algorithm>
#include <cstring>

#include "layers/attend_q8.h"
#include "layers/mla_expand.h"

namespace westlake {
namespace {

// The projections of x, in one region: q [T, H*(nope+rope)] with the rope part rotated, latent [T, lora+rope] as it
// comes.
void project(Context& ctx, const MlaOptions& o, const MlaParams& p, const RopeAngles& angles, const float* x, int64_t T,
             float* q, float* latent) {
  const int64_t D = o.hidden_size, H = o.num_attention_heads, qk = o.qk_head_dim();
  const OpTimer timer(ctx.profile, "q and kv_a");
  const ScratchScope scope(ctx.scratch);
  const LinearJob kv_a = {&p.kv_a_proj_with_mqa, x, D, T, latent, o.kv_width()};
  if (p.q_proj) {
    const LinearJob jobs[] = {{&p.q_proj, x, D, T, q, H * qk}, kv_a};
    linear_jobs(ctx, jobs, 2);
  } else {
    const int64_t q_lora = p.q_a_proj.rows;
    float* q_latent = ctx.scratch.take<float>(T * q_lora);
    const LinearJob jobs[] = {{&p.q_a_proj, x, D, T, q_latent, q_lora}, kv_a};
    linear_jobs(ctx, jobs, 2);
    ctx.pool.for_range(T, 8, [&](int64_t begin, int64_t end, int) {
      for (int64_t t = begin; t < end; ++t) {
        float* row = q_latent + t * q_lora;
        ctx.kernels.rms_norm(row, p.q_a_layernorm, static_cast<float>(o.latent_eps), q_lora, row);
      }
    });
    linear(ctx, p.q_b_proj, q_latent, q_lora, T, q, H * qk);
  }
  ctx.pool.for_range(T, 8, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t h = 0; h < H; ++h) {
        float* rope_part = q + (t * H + h) * qk + o.qk_nope_head_dim;
        ctx.kernels.rope_interleaved(rope_part, angles.cos_row(t), angles.sin_row(t), o.qk_rope_head_dim);
      }
    }
  });
}

// Latent and rope key of every row into its cache: [c | k_rope]. latent: as project() left it, used up.
void write_cache(Context& ctx, const MlaOptions& o, const MlaParams& p, const RopeAngles& angles,
                 std::span<const AttentionSegment> segments, float* latent) {
  const int64_t width = o.kv_width(), lora = o.kv_lora_rank;
  const OpTimer timer(ctx.profile, "cache");
  const auto write = [&](const AttentionSegment& segment, int64_t i) {
    const int64_t t = segment.first_row + i;
    float* in = latent + t * width;
    float* row = segment.kv.q8() ? in : segment.kv.row(segment.start + i);
    ctx.kernels.rms_norm(in, p.kv_a_layernorm, static_cast<float>(o.latent_eps), lora, row);
    if (row != in) std::memcpy(row + lora, in + lora, o.qk_rope_head_dim * sizeof(float));
    ctx.kernels.rope_interleaved(row + lora, angles.cos_row(t), angles.sin_row(t), o.qk_rope_head_dim);
    if (segment.kv.q8()) {  // parts: the latent, the rope key
      segment.kv.write_q8(ctx.kernels, segment.start + i, row, lora, 0, 0);
      segment.kv.write_q8(ctx.kernels, segment.start + i, row + lora, o.qk_rope_head_dim, lora, 1);
    }
  };
  for (const AttentionSegment& segment : segments) {
    ctx.pool.for_range(segment.T, 8, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) write(segment, i);
    });
  }
}

// Rows [begin, begin + n) of W.
Mat rows_of(const Mat& w, int64_t begin, int64_t n) {
  Mat part = w;
  part.data = w.row(begin);
  part.rows = n;
  return part;
}

// [W_UK_h^T q_nope | q_rope] of every head of T rows: q' [T, H, lora + rope].
void absorb_query(Context& ctx, const MlaOptions& o, const MlaParams& p, const float* q, int64_t T, float* q_latent) {
  const int64_t H = o.num_attention_heads, lora = o.kv_lora_rank, nope = o.qk_nope_head_dim, v = o.v_head_dim;
  const int64_t qk = o.qk_head_dim(), width = o.kv_width(), rope = o.qk_rope_head_dim;
  const OpTimer timer(ctx.profile, "absorb");
  ScratchScope scope(ctx.scratch);
  if (p.kv_b_proj) {  // W_UK lies by rows of nope: the transposed product, heads cut over the threads
    float* panels = ctx.scratch.take<float>(ctx.pool.size() * kPanelRows * lora);
    if (ctx.profile) ctx.profile->count({H * nope * p.kv_b_proj.row_bytes, 0, 2 * T * H * nope * lora});
    ctx.pool.for_range(H, 1, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t h = begin; h < end; ++h) {
        for (int64_t t = 0; t < T; ++t) std::fill_n(q_latent + (t * H + h) * width, lora, 0.0f);
        ctx.kernels.gemm_nn_f32(rows_of(p.kv_b_proj, h * (nope + v), nope), {0, nope}, q + h * qk, H * qk, T,
                                q_latent + h * width, H * width, panels + thread * kPanelRows * lora);
      }
    });
  } else {
    Mat* mats = ctx.scratch.take<Mat>(H);
    LinearJob* jobs = ctx.scratch.take<LinearJob>(H);
    for (int64_t h = 0; h < H; ++h) {
      mats[h] = rows_of(p.k_b_proj, h * lora, lora);
      jobs[h] = {&mats[h], q + h * qk, H * qk, T, q_latent + h * width, H * width};
    }
    linear_jobs(ctx, jobs, static_cast<int>(H));
  }
  for (int64_t i = 0; i < T * H; ++i) std::memcpy(q_latent + i * width + lora, q + i * qk + nope, rope * sizeof(float));
}

// Latent queries against float32 latents.
void attend_latents(Context& ctx, const MlaOptions& o, std::span<const AttentionSegment> segments,
                    const float* q_latent, float* out_latent) {
  const int64_t H = o.num_attention_heads, lora = o.kv_lora_rank, width = o.kv_width();
  const int64_t first = segments.front().first_row;
  const ScratchScope scope(ctx.scratch);
  const int64_t scratch = attend_scratch(segments, H);
  float* scores = ctx.scratch.take<float>(ctx.pool.size() * scratch);
  for_attend_tasks(ctx, segments, 1, H, false, [&](const AttendTask& task, int thread) {
    const KvView& kv = segments[task.segment].kv;
    const int64_t head = (task.row - first) * H + task.head;
    AttendArgs args;
    args.q = q_latent + head * width;
    args.q_stride = width;
    args.n_q = task.n_q();
    args.pages = kv.pages;
    args.page_tokens = kv.page_tokens;
    args.row_stride = kv.width;
    args.k_offset = args.v_offset = kv.layer_offset;
    args.k_dim = width;
    args.v_dim = lora;
    args.n_keys = task.n_keys;
    args.scale = o.scale;
    args.out = out_latent + head * lora;
    args.out_stride = lora;
    args.scratch = scores + thread * scratch;
    ctx.kernels.attend(args);
  });
}

// The absorbed form for a run of neighbouring segments. What all tokens share, the up-projections, is read once.
void attend_absorbed(Context& ctx, const MlaOptions& o, const MlaParams& p, std::span<const AttentionSegment> segments,
                     const float* q, float* heads) {
  const int64_t H = o.num_attention_heads, lora = o.kv_lora_rank, nope = o.qk_nope_head_dim;
  const int64_t v = o.v_head_dim, width = o.kv_width();
  const int64_t first = segments.front().first_row, T = segments.back().first_row + segments.back().T - first;
  ScratchScope scope(ctx.scratch);
  float* q_latent = ctx.scratch.take<float>(T * H * width);
  float* out_latent = ctx.scratch.take<float>(T * H * lora);
  absorb_query(ctx, o, p, q + first * H * o.qk_head_dim(), T, q_latent);

  {
    const OpTimer timer(ctx.profile, "attend", attend_work(segments, width, H, width + lora));
    if (segments[0].kv.q8()) {
      const Q8Group group = {0, 2, {lora, width - lora}, {0, 1}, 0, lora, 0};
      attend_q8(ctx, segments, {&group, 1}, H, o.scale, {q_latent, H * width, out_latent, H * lora});
    } else {
      attend_latents(ctx, o, segments, q_latent, out_latent);
    }
  }

  // o_h = W_UV sum_s p_s c_s
  const OpTimer values(ctx.profile, "v_up");
  Mat* mats = ctx.scratch.take<Mat>(H);
  LinearJob* jobs = ctx.scratch.take<LinearJob>(H);
  for (int64_t h = 0; h < H; ++h) {
    mats[h] = p.kv_b_proj ? rows_of(p.kv_b_proj, h * (nope + v) + nope, v) : rows_of(p.v_b_proj, h * v, v);
    jobs[h] = {&mats[h], out_latent + h * lora, H * lora, T, heads + first * H * v + h * v, H * v};
  }
  linear_jobs(ctx, jobs, static_cast<int>(H));
}

// Keys and values of heads [h0, h0 + n) for positions [0, S) of one segment: kv [S, n*(qk + v)], a head [k | v].
void expand(Context& ctx, const MlaOptions& o, const MlaParams& p, const KvView& cache, int64_t S, int64_t h0,
            int64_t n, float* kv) {
  const int64_t lora = o.kv_lora_rank, nope = o.qk_nope_head_dim, rope = o.qk_rope_head_dim, v = o.v_head_dim;
  const int64_t head = nope + rope + v, ld = n * head;
  const int64_t up_bytes =
      p.kv_b_proj ? (nope + v) * p.kv_b_proj.row_bytes : lora * p.k_b_proj.row_bytes + v * p.v_b_proj.row_bytes;
  const OpTimer timer(ctx.profile, "kv_up", {n * up_bytes, 0, 2 * S * n * (nope + v) * lora});
  ScratchScope scope(ctx.scratch);
  float* panels = ctx.scratch.take<float>(ctx.pool.size() * kPanelRows * std::max(lora, nope));
  // Pieces of whole cache pages: their rows lie at one stride.
  const int64_t pieces = (S + cache.page_tokens - 1) / cache.page_tokens;
  ctx.pool.for_each_chunk(pieces * n, 1, [&](int64_t begin, int64_t end, int thread) {
    float* panel = panels + thread * kPanelRows * std::max(lora, nope);
    for (int64_t index = begin; index < end; ++index) {
      const int64_t s0 = index / n * cache.page_tokens, T = std::min(cache.page_tokens, S - s0);
      const int64_t i = index % n, h = h0 + i;
      const float* latent = cache.row(s0);
      float* out = kv + s0 * ld + i * head;
      if (p.kv_b_proj) {
        Mat w = p.kv_b_proj;
        w.data = w.row(h * (nope + v));
        w.rows = nope + v;
        ctx.kernels.gemm_f32(w, {0, nope}, latent, cache.width, T, out, ld, panel);
        // The values stand behind the rope key: row nope of the weight goes to column nope + rope.
        ctx.kernels.gemm_f32(w, {nope, nope + v}, latent, cache.width, T, out + rope, ld, panel);
      } else {
        Mat k_b = p.k_b_proj, v_b = p.v_b_proj;
        k_b.data = k_b.row(h * lora);
        k_b.rows = lora;
        v_b.data = v_b.row(h * v);
        v_b.rows = v;
        for (int64_t t = 0; t < T; ++t) std::fill(out + t * ld, out + t * ld + nope, 0.0f);
        ctx.kernels.gemm_nn_f32(k_b, {0, lora}, latent, cache.width, T, out, ld, panel);
        ctx.kernels.gemm_f32(v_b, {0, v}, latent, cache.width, T, out + nope + rope, ld, panel);
      }
      for (int64_t t = 0; t < T; ++t)
        std::memcpy(out + t * ld + nope, latent + t * cache.width + lora, rope * sizeof(float));
    }
  });
}

// The expanded form for one segment. Heads go in groups so that the rebuilt keys and values stay below a bound.
void attend_expanded(Context& ctx, const MlaOptions& o, const MlaParams& p, const AttentionSegment& segment,
                     const float* q, float* heads) {
  // 32 MiB: beyond the second-level caches in any case, and small beside a model.
  constexpr int64_t kMostFloats = int64_t{8} << 20;
  const int64_t H = o.num_attention_heads, qk = o.qk_head_dim(), v = o.v_head_dim;
  const int64_t S = segment.start + segment.T, head = qk + v;
  const int64_t at_once = std::clamp<int64_t>(kMostFloats / (S * head), 1, H);
  ScratchScope scope(ctx.scratch);
  float* kv = ctx.scratch.take<float>(S * at_once * head);
  const int64_t scratch = attend_scratch({&segment, 1}, 1);
  float* scores = ctx.scratch.take<float>(ctx.pool.size() * scratch);
  for (int64_t h0 = 0; h0 < H; h0 += at_once) {
    const int64_t n = std::min(at_once, H - h0);
    expand(ctx, o, p, segment.kv, S, h0, n, kv);
    const float* page = kv;
    const OpTimer timer(ctx.profile, "attend", attend_work({&segment, 1}, 0, n, head));
    for_attend_tasks(ctx, {&segment, 1}, n, 1, true, [&](const AttendTask& task, int thread) {
      const int64_t h = h0 + task.head;
      AttendArgs args;
      args.q = q + (task.row * H + h) * qk;
      args.q_stride = H * qk;
      args.n_q = task.n_q();
      args.keys_step = 1;
      args.pages = &page;
      args.page_tokens = S;
      args.row_stride = n * head;
      args.k_offset = task.head * head;
      args.k_dim = qk;
      args.v_offset = args.k_offset + qk;
      args.v_dim = v;
      args.n_keys = task.n_keys;
      args.scale = o.scale;
      args.out = heads + (task.row * H + h) * v;
      args.out_stride = H * v;
      args.scratch = scores + thread * scratch;
      ctx.kernels.attend(args);
    });
  }
}

}  // namespace

void mla_forward(Context& ctx, const MlaOptions& o, const MlaParams& p, const RopeAngles& angles,
                 std::span<const AttentionSegment> segments, const float* x, int64_t T, float* out) {
  const int64_t H = o.num_attention_heads;
  ScratchScope scope(ctx.scratch);
  float* q = ctx.scratch.take<float>(T * H * o.qk_head_dim());
  float* heads = ctx.scratch.take<float>(T * H * o.v_head_dim);
  float* latent = ctx.scratch.take<float>(T * o.kv_width());
  project(ctx, o, p, angles, x, T, q, latent);
  write_cache(ctx, o, p, angles, segments, latent);
  // Neighbouring segments of one form go together: they share what is made of the weights.
  const auto absorbed = [&](const AttentionSegment& s) {
    return s.form == MlaForm::kAbsorbed || (s.kv.q8() && !o.expands_q8());
  };
  for (size_t i = 0, end; i < segments.size(); i = end) {
    for (end = i + 1; end < segments.size() && absorbed(segments[end]) == absorbed(segments[i]);) ++end;
    const auto run = segments.subspan(i, end - i);
    if (absorbed(run[0])) {
      attend_absorbed(ctx, o, p, run, q, heads);
    } else if (run[0].kv.q8()) {
      attend_expanded_q8(ctx, o, p, run, q, heads);
    } else {
      for (const AttentionSegment& s : run) attend_expanded(ctx, o, p, s, q, heads);
    }
  }
  const OpTimer timer(ctx.profile, "o_proj");
  linear(ctx, p.o_proj, heads, H * o.v_head_dim, T, out, o.hidden_size);
}

}  // namespace westlake
