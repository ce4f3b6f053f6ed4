#include "layers/gqa.h"

#include <cstring>

#include "layers/attend_q8.h"

namespace westlake {
namespace {

void add_bias(const float* bias, int64_t n, float* y) {
  if (bias == nullptr) return;
  for (int64_t i = 0; i < n; ++i) y[i] += bias[i];
}

// float32 keys and values.
void attend_f32(Context& ctx, const GqaOptions& options, std::span<const AttentionSegment> segments, const float* q,
                float* heads) {
  const int64_t H = options.num_attention_heads, KVH = options.num_key_value_heads;
  const int64_t hd = options.head_dim, group = H / KVH;
  const ScratchScope scope(ctx.scratch);
  const int64_t scratch = attend_scratch(segments, group);
  float* scores = ctx.scratch.take<float>(ctx.pool.size() * scratch);
  for_attend_tasks(ctx, segments, KVH, group, true, [&](const AttendTask& task, int thread) {
    const KvView& kv = segments[task.segment].kv;
    const int64_t first = (task.row * H + task.head) * hd, stride = task.rows > 1 ? H * hd : hd;
    AttendArgs args;
    args.q = q + first;
    args.q_stride = stride;
    args.n_q = task.n_q();
    args.keys_step = task.rows > 1;
    args.pages = kv.pages;
    args.page_tokens = kv.page_tokens;
    args.row_stride = kv.width;
    args.k_offset = kv.layer_offset + task.head / group * hd;
    args.k_dim = hd;
    args.v_offset = kv.layer_offset + (KVH + task.head / group) * hd;
    args.v_dim = hd;
    args.n_keys = task.n_keys;
    args.scale = options.scale;
    args.out = heads + first;
    args.out_stride = stride;
    args.scratch = scores + thread * scratch;
    ctx.kernels.attend(args);
  });
}

// Int8 keys, values and queries are those of heads turned by a Hadamard matrix: products of queries and keys stay, the
// outliers that a few dimensions of keys have are spread over all, and the sum of values is turned back. Source:
// Ashkboos et al., QuaRot, 2024.
bool spreads(int64_t head_dim) {
  return (head_dim & (head_dim - 1)) == 0;
}

}  // namespace

void gqa_forward(Context& ctx, const GqaOptions& options, const GqaParams& params, const RopeAngles& angles,
                 std::span<const AttentionSegment> segments, const float* x, int64_t T, float* out) {
  const int64_t D = options.hidden_size, H = options.num_attention_heads, KVH = options.num_key_value_heads;
  const int64_t hd = options.head_dim, group = H / KVH;
  const KernelTable& kernels = ctx.kernels;
  ScratchScope scope(ctx.scratch);
  float* q = ctx.scratch.take<float>(T * H * hd);
  float* k = ctx.scratch.take<float>(T * KVH * hd);
  float* v = ctx.scratch.take<float>(T * KVH * hd);
  const LinearJob qkv[] = {{&params.q_proj, x, D, T, q, H * hd},
                           {&params.k_proj, x, D, T, k, KVH * hd},
                           {&params.v_proj, x, D, T, v, KVH * hd}};
  {
    const OpTimer timer(ctx.profile, "qkv_proj");
    linear_jobs(ctx, qkv, 3);
  }

  const OpTimer finish(ctx.profile, "rope and cache");
  // Bias, norm and rotation of every head; new keys and values into the cache.
  auto finish_head = [&](float* head, const float* norm, int64_t t) {
    if (norm != nullptr) kernels.rms_norm(head, norm, static_cast<float>(options.rms_norm_eps), hd, head);
    (options.rope_interleaved ? kernels.rope_interleaved : kernels.rope_halves)(head, angles.cos_row(t),
                                                                                angles.sin_row(t), hd);
  };
  const bool turned = segments[0].kv.q8() && spreads(hd);
  for (const AttentionSegment& segment : segments) {
    ctx.pool.for_range(segment.T, 8, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t t = segment.first_row + i;
        add_bias(params.q_bias, H * hd, q + t * H * hd);
        add_bias(params.k_bias, KVH * hd, k + t * KVH * hd);
        add_bias(params.v_bias, KVH * hd, v + t * KVH * hd);
        for (int64_t h = 0; h < H; ++h) finish_head(q + (t * H + h) * hd, params.q_norm, t);
        for (int64_t h = 0; h < KVH; ++h) finish_head(k + (t * KVH + h) * hd, params.k_norm, t);
        for (int64_t h = 0; turned && h < H; ++h) kernels.hadamard(q + (t * H + h) * hd, hd);
        for (int64_t h = 0; turned && h < KVH; ++h) {
          kernels.hadamard(k + (t * KVH + h) * hd, hd);
          kernels.hadamard(v + (t * KVH + h) * hd, hd);
        }
        if (segment.kv.q8()) {  // parts: the keys of all heads, then the values
          for (int64_t h = 0; h < KVH; ++h) {
            segment.kv.write_q8(kernels, segment.start + i, k + (t * KVH + h) * hd, hd, h * hd, h);
            segment.kv.write_q8(kernels, segment.start + i, v + (t * KVH + h) * hd, hd, (KVH + h) * hd, KVH + h);
          }
          continue;
        }
        float* row = segment.kv.row(segment.start + i);
        std::memcpy(row, k + t * KVH * hd, KVH * hd * sizeof(float));
        std::memcpy(row + KVH * hd, v + t * KVH * hd, KVH * hd * sizeof(float));
      }
    });
  }

  float* heads = ctx.scratch.take<float>(T * H * hd);
  {
    const OpTimer timer(ctx.profile, "attend", attend_work(segments, 2 * KVH * hd, H, 2 * hd));
    if (segments[0].kv.q8()) {
      Q8Group* groups = ctx.scratch.take<Q8Group>(KVH);
      for (int64_t h = 0; h < KVH; ++h) groups[h] = {h * hd, 1, {hd, 0}, {h, 0}, (KVH + h) * hd, hd, KVH + h};
      attend_q8(ctx, segments, {groups, static_cast<size_t>(KVH)}, group, options.scale, {q, H * hd, heads, H * hd});
      ctx.pool.for_range(turned ? T * H : 0, 256, [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) kernels.hadamard(heads + i * hd, hd);
      });
    } else {
      attend_f32(ctx, options, segments, q, heads);
    }
  }

  const OpTimer output(ctx.profile, "o_proj");
  linear(ctx, params.o_proj, heads, H * hd, T, out, D);
  if (params.o_bias != nullptr) {
    for (int64_t t = 0; t < T; ++t) add_bias(params.o_bias, D, out + t * D);
  }
}

}  // namespace westlake
