#include "layers/gqa.h"

#include <cstring>

namespace westlake {
namespace {

void add_bias(const float* bias, int64_t n, float* y) {
  if (bias == nullptr) return;
  for (int64_t i = 0; i < n; ++i) y[i] += bias[i];
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
  for (const AttentionSegment& segment : segments) {
    ctx.pool.for_range(segment.T, 8, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t t = segment.first_row + i;
        add_bias(params.q_bias, H * hd, q + t * H * hd);
        add_bias(params.k_bias, KVH * hd, k + t * KVH * hd);
        add_bias(params.v_bias, KVH * hd, v + t * KVH * hd);
        for (int64_t h = 0; h < H; ++h) finish_head(q + (t * H + h) * hd, params.q_norm, t);
        for (int64_t h = 0; h < KVH; ++h) finish_head(k + (t * KVH + h) * hd, params.k_norm, t);
        float* row = segment.kv.row(segment.start + i);
        std::memcpy(row, k + t * KVH * hd, KVH * hd * sizeof(float));
        std::memcpy(row + KVH * hd, v + t * KVH * hd, KVH * hd * sizeof(float));
      }
    });
  }

  float* heads = ctx.scratch.take<float>(T * H * hd);
  const OpTimer timer(ctx.profile, "attend", attend_work(segments, 2 * KVH * hd, H, 2 * hd));
  const int64_t most_keys = max_keys(segments);
  float* scores = ctx.scratch.take<float>(ctx.pool.size() * group * most_keys);
  for_attend_tasks(ctx, segments, KVH, group, [&](const AttendTask& task, int thread) {
    const KvView& kv = segments[task.segment].kv;
    const int64_t first = (task.row * H + task.group * group + task.q_begin) * hd;
    AttendArgs args;
    args.q = q + first;
    args.q_stride = hd;
    args.n_q = static_cast<int>(task.q_end - task.q_begin);
    args.pages = kv.pages;
    args.page_tokens = kv.page_tokens;
    args.row_stride = kv.width;
    args.k_offset = kv.layer_offset + task.group * hd;
    args.k_dim = hd;
    args.v_offset = kv.layer_offset + (KVH + task.group) * hd;
    args.v_dim = hd;
    args.n_keys = task.n_keys;
    args.scale = options.scale;
    args.out = heads + first;
    args.out_stride = hd;
    args.scratch = scores + thread * group * most_keys;
    kernels.attend(args);
  });

  const OpTimer output(ctx.profile, "o_proj");
  linear(ctx, params.o_proj, heads, H * hd, T, out, D);
  if (params.o_bias != nullptr) {
    for (int64_t t = 0; t < T; ++t) add_bias(params.o_bias, D, out + t * D);
  }
}

}  // namespace westlake
