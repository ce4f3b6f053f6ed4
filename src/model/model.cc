#include "model/model.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "layers/embedding.h"
#include "layers/rms_norm.h"
#include "model/checkpoint.h"
#include "model/layer_options.h"

namespace westlake {
namespace {

// Up to this width a model feels the rounding of int8 activations (SmolLM2-135M: 0.26 % of perplexity) and is so small
// that twice the products cost little. docs/log.md has the figures.
constexpr int64_t kFineHiddenSize = 1024;

// From how many tokens on the expanded form of MLA is the cheaper one over an int8 cache. Rebuilding costs
// (nope + v) lora multiply-adds a position and head, attention then spares 3 lora - nope - 2 v a key and token, half
// of the positions being its own at the worst: 114 and 228 tokens for DeepSeek's shapes, whatever the context.
constexpr int64_t kExpandedTokens = 128;

void add(Context& ctx, const float* x, int64_t n, float* y) {
  const OpTimer timer(ctx.profile, "add");
  ctx.pool.for_range(
      n, 16384, [&](int64_t begin, int64_t end, int) { ctx.kernels.axpy(1.0f, x + begin, end - begin, y + begin); });
}

// Segments as attention sees them, for a cache of that shape; the view points at layer 0.
std::vector<AttentionSegment> attention_segments(std::span<const Segment> segments, const CacheShape& shape) {
  std::vector<AttentionSegment> views;
  int64_t row = 0;
  for (const Segment& s : segments) {
    AttentionSegment view;
    view.first_row = row;
    view.T = static_cast<int64_t>(s.tokens.size());
    view.start = s.start;
    view.form = s.form;
    view.kv.pages = s.pages;
    view.kv.page_tokens = shape.page_tokens;
    view.kv.width = shape.width;
    view.kv.row_bytes = shape.row_bytes;
    row += view.T;
    views.push_back(view);
  }
  return views;
}

void point_at_layer(std::vector<AttentionSegment>& segments, const CacheShape& shape, int64_t layer) {
  for (AttentionSegment& s : segments) s.kv.layer_offset = layer * shape.page_tokens * shape.width;
}

}  // namespace

int64_t prompt_piece(int64_t left, int64_t most) {
  if (left <= most || most < 2 * kKvBlock) return std::min(left, most);
  const int64_t pieces = (left + most - 1) / most, even = (left + pieces - 1) / pieces;
  return std::min((even + kKvBlock - 1) / kKvBlock * kKvBlock, most);
}

Result<Model> Model::bind(const Checkpoint& checkpoint) {
  Model model;
  model.config_ = checkpoint.config();
  model.weights_ = std::make_unique<Weights>();
  const TensorSource source = checkpoint.tensor_source();
  TRY(bind_weights(model.config_, source, model.weights_.get()));
  const ModelConfig& c = model.config_;
  model.fine_ = c.hidden_size <= kFineHiddenSize;
  model.rope_ = Rope(c.mla() ? c.qk_rope_head_dim : c.head_dim, c.rope_theta, c.rope_scaling);
  model.rope_interleaved_ = source.format == WeightFormat::kGguf && c.architecture == Architecture::kLlama;
  return model;
}

Status Model::lay_out(const Checkpoint& checkpoint, const PanelOptions& options, ThreadPool& pool) {
  TRY_ASSIGN(panels_, PanelStore::open(checkpoint, options, pool, weights_.get()));
  return {};
}

CacheShape Model::shape_of(int64_t layers, int64_t page_tokens) const {
  if (!q8_cache_) return {layers, page_tokens, config_.kv_width(), 0};
  CHECK(page_tokens == kKvBlock, "pages of {} positions", page_tokens);
  // A scale for the latent and one for the rope key, or for each head's key and value.
  const int64_t parts = config_.mla() ? 2 : 2 * config_.num_key_value_heads;
  return {layers, page_tokens, config_.kv_width() / 4 + parts, config_.kv_width()};
}

bool Model::use_q8_cache() {
  const ModelConfig& c = config_;
  const bool fits = c.mla() ? c.kv_lora_rank % 64 == 0 && c.qk_rope_head_dim % 64 == 0 : c.head_dim % 64 == 0;
  q8_cache_ = fits;
  return q8_cache_;
}

MlaForm Model::prompt_form(int64_t tokens) const {
  const bool absorbed = q8_cache_ && (tokens < kExpandedTokens || !mla_options(config_).expands_q8());
  return absorbed ? MlaForm::kAbsorbed : MlaForm::kExpanded;
}

CacheShape Model::cache_shape(int64_t page_tokens) const {
  return shape_of(config_.num_hidden_layers, page_tokens);
}

CacheShape Model::mtp_cache_shape(int64_t page_tokens) const {
  return shape_of(1, page_tokens);
}

// x += attention(norm(x)); x += feed_forward(norm(x)).
void Model::layer_forward(Context& ctx, const LayerWeights& w, bool moe, const RopeAngles& angles,
                          std::span<const AttentionSegment> segments, int64_t T, float* x) const {
  const int64_t D = config_.hidden_size;
  ScratchScope scope(ctx.scratch);
  float* normed = ctx.scratch.take<float>(T * D);
  float* out = ctx.scratch.take<float>(T * D);
  rms_norm(ctx, x, D, w.input_layernorm, config_.rms_norm_eps, T, D, normed, D);
  if (config_.mla()) {
    mla_forward(ctx, mla_options(config_), w.mla, angles, segments, normed, T, out);
  } else {
    gqa_forward(ctx, gqa_options(config_, rope_interleaved_), w.gqa, angles, segments, normed, T, out);
  }
  add(ctx, out, T * D, x);
  rms_norm(ctx, x, D, w.post_attention_layernorm, config_.rms_norm_eps, T, D, normed, D);
  if (moe) {
    moe_forward(ctx, router_options(config_), w.moe, normed, T, out);
  } else {
    swiglu_forward(ctx, w.mlp, normed, T, out);
  }
  add(ctx, out, T * D, x);
}

// Gathers the rows whose logits are wanted; returns their number.
int64_t Model::head_rows(std::span<const Segment> segments, const float* normed, float* rows) const {
  const int64_t D = config_.hidden_size;
  int64_t row = 0, n = 0;
  for (const Segment& s : segments) {
    const int64_t T = static_cast<int64_t>(s.tokens.size());
    for (int64_t t = std::max<int64_t>(0, s.logits_from); t < T; ++t)
      std::memcpy(rows + n++ * D, normed + (row + t) * D, D * sizeof(float));
    row += T;
  }
  return n;
}

void Model::forward(Context& ctx, std::span<const Segment> segments, int64_t page_tokens, float* logits, float* normed,
                    const HiddenObserver& observer) const {
  const int64_t D = config_.hidden_size, V = config_.vocab_size;
  ctx.fine = fine_;
  const CacheShape shape = cache_shape(page_tokens);
  std::vector<AttentionSegment> views = attention_segments(segments, shape);
  const int64_t T = views.back().first_row + views.back().T;
  ScratchScope scope(ctx.scratch);
  float* x = ctx.scratch.take<float>(T * D);
  std::optional<OpTimer> timer(std::in_place, ctx.profile, "embedding and angles");
  for (size_t i = 0; i < segments.size(); ++i)
    embedding_forward(ctx, weights_->embed_tokens, segments[i].tokens, x + views[i].first_row * D);
  const RopeAngles angles = rope_angles(ctx, rope_, views, T);
  timer.reset();
  if (observer) observer(0, x, T);
  for (int64_t layer = 0; layer < config_.num_hidden_layers; ++layer) {
    point_at_layer(views, shape, layer);
    layer_forward(ctx, weights_->layers[layer], config_.is_moe_layer(layer), angles, views, T, x);
    if (observer) observer(layer + 1, x, T);
  }
  float* state = normed != nullptr ? normed : ctx.scratch.take<float>(T * D);
  rms_norm(ctx, x, D, weights_->norm, config_.rms_norm_eps, T, D, state, D);
  float* rows = x;  // the stream is not needed any more
  const int64_t n = head_rows(segments, state, rows);
  const OpTimer head(ctx.profile, "lm_head");
  if (n > 0) linear(ctx, weights_->lm_head, rows, D, n, logits, V);
}

void Model::forward_mtp(Context& ctx, int64_t index, const float* hidden, std::span<const Segment> segments,
                        int64_t page_tokens, float* logits, float* out_hidden) const {
  const int64_t D = config_.hidden_size, V = config_.vocab_size;
  CHECK(index >= 0 && index < static_cast<int64_t>(weights_->mtp.size()), "MTP module {}", index);
  const MtpWeights& w = weights_->mtp[index];
  ctx.fine = fine_;
  const CacheShape shape = mtp_cache_shape(page_tokens);
  std::vector<AttentionSegment> views = attention_segments(segments, shape);
  const int64_t T = views.back().first_row + views.back().T;
  ScratchScope scope(ctx.scratch);
  float* x = ctx.scratch.take<float>(T * D);
  float* pair = ctx.scratch.take<float>(T * 2 * D);  // [enorm(embedding) | hnorm(hidden)]
  const Mat& embed_tokens = w.embed_tokens ? w.embed_tokens : weights_->embed_tokens;
  for (size_t i = 0; i < segments.size(); ++i)
    embedding_forward(ctx, embed_tokens, segments[i].tokens, x + views[i].first_row * D);
  rms_norm(ctx, x, D, w.enorm, config_.rms_norm_eps, T, D, pair, 2 * D);
  rms_norm(ctx, hidden, D, w.hnorm, config_.rms_norm_eps, T, D, pair + D, 2 * D);
  linear(ctx, w.eh_proj, pair, 2 * D, T, x, D);
  const RopeAngles angles = rope_angles(ctx, rope_, views, T);
  layer_forward(ctx, w.layer, config_.is_moe_layer(config_.num_hidden_layers + index), angles, views, T, x);
  if (out_hidden != nullptr) std::memcpy(out_hidden, x, T * D * sizeof(float));
  rms_norm(ctx, x, D, w.shared_head_norm, config_.rms_norm_eps, T, D, x, D);
  const int64_t n = head_rows(segments, x, pair);
  if (n > 0) linear(ctx, w.shared_head ? w.shared_head : weights_->lm_head, pair, D, n, logits, V);
}

}  // namespace westlake
