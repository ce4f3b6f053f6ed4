#include "layers/mla_expand.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "layers/attend_q8.h"

namespace westlake {
namespace {

// Of rebuilt keys and values: beyond the second-level caches in any case, and small beside a model.
constexpr int64_t kMostBytes = int64_t{32} << 20;

constexpr int64_t kPackRows = 16;  // of pack_q8
constexpr int64_t kParts = 3;      // scales of a rebuilt position: nope, rope, v

class Expansion {
 public:
  Expansion(Context& ctx, const MlaOptions& o, const MlaParams& p) : ctx_(ctx), o_(o), p_(p) {}

  int64_t nope() const { return o_.qk_nope_head_dim; }
  int64_t rope() const { return o_.qk_rope_head_dim; }
  int64_t v() const { return o_.v_head_dim; }
  int64_t lora() const { return o_.kv_lora_rank; }
  int64_t row_bytes() const { return o_.qk_head_dim() + v(); }
  int64_t block_floats() const { return kKvBlock * (row_bytes() / 4 + kParts); }  // of one head
  static int64_t blocks(const AttentionSegment& s) { return (s.start + s.T + kKvBlock - 1) / kKvBlock; }

  // Heads [h0, h0 + n): up-projections to int8, packed.
  void pack(int64_t h0, int64_t n) {
    packed_ = ctx_.scratch.take<std::byte>(n * (nope() + v()) * lora());
    scales_ = ctx_.scratch.take<float>(n * (nope() + v()));
    // Of a thread: W_UK_h or W_UV_h as numbers, and in int8 sixteen rows of it; beside them what is to be turned.
    const int64_t floats = std::max(nope(), v()) * lora() + kPackRows * nope();
    float* numbers = ctx_.scratch.take<float>(ctx_.pool.size() * floats);
    int8_t* qs = ctx_.scratch.take<int8_t>(ctx_.pool.size() * kPackRows * lora());
    const OpTimer timer(ctx_.profile, "pack");
    ctx_.pool.for_range(2 * n, 1, [&](int64_t begin, int64_t end, int thread) {
      float* w = numbers + thread * floats;
      for (int64_t i = begin; i < end; ++i) {
        const bool keys = i % 2 == 0;
        read_head(h0 + i / 2, keys, w);
        const int64_t first = i / 2 * (nope() + v()) + (keys ? 0 : nope());
        for (int64_t row = 0; row < (keys ? nope() : v()); row += kPackRows)
          ctx_.kernels.pack_q8(w + row * lora(), lora(), lora(), packed_ + (first + row) * lora(),
                               scales_ + first + row, qs + thread * kPackRows * lora());
      }
    });
  }

  // Keys and values of those heads for all positions of a segment: block after block, in each head after head.
  void rebuild(const AttentionSegment& s, int64_t n, float* out) const {
    const int64_t S = s.start + s.T, scratch = kKvBlock * (std::max(nope(), v()) + 1);
    float* memory = ctx_.scratch.take<float>(ctx_.pool.size() * scratch);
    const OpTimer timer(ctx_.profile, "kv_up", {n * (nope() + v()) * lora(), 2 * S * n * (nope() + v()) * lora(), 0});
    ctx_.pool.for_each_chunk(blocks(s) * n, 1, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t i = begin; i < end; ++i)
        rebuild_block(s.kv, i / n, std::min(kKvBlock, S - i / n * kKvBlock), i % n, out + i * block_floats(),
                      memory + thread * scratch);
    });
  }

 private:
  // W_UK_h [nope, lora] or W_UV_h [v, lora], then memory for sixteen rows of nope.
  void read_head(int64_t h, bool keys, float* w) const {
    if (p_.kv_b_proj || !keys) {
      const Mat& m = p_.kv_b_proj ? p_.kv_b_proj : p_.v_b_proj;
      const int64_t first = p_.kv_b_proj ? h * (nope() + v()) + (keys ? 0 : nope()) : h * v();
      for (int64_t j = 0; j < (keys ? nope() : v()); ++j) ctx_.kernels.dequantise(m, first + j, w + j * lora());
      return;
    }
    // Split files hold W_UK turned, [lora, nope]: sixteen rows of it make a cache line of each row here.
    float* rows = w + std::max(nope(), v()) * lora();
    for (int64_t k = 0; k < lora(); k += kPackRows) {
      for (int64_t i = 0; i < kPackRows; ++i)
        ctx_.kernels.dequantise(p_.k_b_proj, h * lora() + k + i, rows + i * nope());
      for (int64_t j = 0; j < nope(); ++j) {
        for (int64_t i = 0; i < kPackRows; ++i) w[j * lora() + k + i] = rows[i * nope() + j];
      }
    }
  }

  // Positions [64 b, 64 b + T) of head h of the group.
  void rebuild_block(const KvView& cache, int64_t b, int64_t T, int64_t h, float* out, float* memory) const {
    const float* layer = cache.pages[b] + cache.layer_offset;
    const auto* rows = reinterpret_cast<const int8_t*>(layer);
    const float* scales = layer + kKvBlock * cache.row_bytes / 4;
    auto* y = reinterpret_cast<int8_t*>(out);
    float* y_scales = out + kKvBlock * row_bytes() / 4;
    ExpandQ8Args a;
    a.x = rows;
    a.x_stride = cache.row_bytes;
    a.x_scale = scales;
    a.T = T;
    a.K = lora();
    a.w = packed_ + h * (nope() + v()) * lora();
    a.w_scale = scales_ + h * (nope() + v());
    a.parts[0] = {nope(), y, y_scales};
    a.parts[1] = {v(), y + nope() + rope(), y_scales + 2 * kKvBlock};
    a.y_stride = row_bytes();
    a.scratch = memory;
    ctx_.kernels.expand_q8(a);
    for (int64_t i = 0; i < T; ++i)
      std::memcpy(y + i * row_bytes() + nope(), rows + i * cache.row_bytes + lora(), static_cast<size_t>(rope()));
    std::memcpy(y_scales + kKvBlock, scales + kKvBlock, static_cast<size_t>(T) * sizeof(float));
  }

  Context& ctx_;
  const MlaOptions& o_;
  const MlaParams& p_;
  std::byte* packed_ = nullptr;
  float* scales_ = nullptr;
};

}  // namespace

void attend_expanded_q8(Context& ctx, const MlaOptions& o, const MlaParams& p,
                        std::span<const AttentionSegment> segments, const float* q, float* heads) {
  const int64_t H = o.num_attention_heads, qk = o.qk_head_dim(), v = o.v_head_dim;
  Expansion expansion(ctx, o, p);
  const int64_t longest = (max_keys(segments) + kKvBlock - 1) / kKvBlock;
  const int64_t bytes = longest * expansion.block_floats() * static_cast<int64_t>(sizeof(float));
  const int64_t most = std::clamp<int64_t>(kMostBytes / bytes, 1, H), groups = (H + most - 1) / most;
  const int64_t at_once = (H + groups - 1) / groups;  // evenly
  std::vector<Q8Group> of_head;
  for (int64_t h = 0; h < at_once; ++h)
    of_head.push_back({0, 2, {o.qk_nope_head_dim, o.qk_rope_head_dim}, {0, 1}, qk, v, 2, h * expansion.block_floats()});
  for (int64_t h0 = 0; h0 < H; h0 += at_once) {
    const int64_t n = std::min(at_once, H - h0);
    const ScratchScope scope(ctx.scratch);
    expansion.pack(h0, n);
    float* memory = ctx.scratch.take<float>(longest * n * expansion.block_floats());
    for (AttentionSegment s : segments) {
      const ScratchScope inner(ctx.scratch);
      expansion.rebuild(s, n, memory);
      float** pages = ctx.scratch.take<float*>(expansion.blocks(s));
      for (int64_t b = 0; b < expansion.blocks(s); ++b) pages[b] = memory + b * n * expansion.block_floats();
      const int64_t width = n * expansion.block_floats() / kKvBlock;
      s.kv = {pages, kKvBlock, width, 0, expansion.row_bytes()};
      const OpTimer timer(ctx.profile, "attend", attend_work({&s, 1}, width, n, qk + v));
      attend_q8(ctx, {&s, 1}, {of_head.data(), static_cast<size_t>(n)}, 1, o.scale,
                {q + (s.first_row * H + h0) * qk, H * qk, heads + (s.first_row * H + h0) * v, H * v});
    }
  }
}

}  // namespace westlake
