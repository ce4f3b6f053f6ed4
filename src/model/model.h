// Model: a config, its weights, and the forward pass. "What a DeepSeek model is" in one page: embedding, layers of
// attention and feed-forward with residuals, a norm, a head.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "kernels/context.h"
#include "layers/attention.h"
#include "model/config.h"
#include "model/panel_store.h"
#include "model/weights.h"

namespace westlake {

class Checkpoint;

// Tokens of one sequence in a batch, with the cache they extend.
struct Segment {
  std::span<const int32_t> tokens;  // T >= 1
  int64_t start = 0;                // position of the first token; [0, start) are cached
  MlaForm form = MlaForm::kExpanded;
  float* const* pages = nullptr;  // cache pages covering [0, start + T)
  int64_t logits_from = 0;        // logits are wanted for rows [logits_from, T) of this segment
};

// Geometry of the cache of one sequence: a page holds page_tokens positions of every layer.
struct CacheShape {
  int64_t layers = 0;
  int64_t page_tokens = 0;
  int64_t width = 0;      // floats a position a layer
  int64_t row_bytes = 0;  // 0: float32; else int8 rows with their scales behind them (kernels.h), in `width` floats
  int64_t page_floats() const { return layers * page_tokens * width; }
};

// Sees the residual stream [T, D] after the embedding (layer 0) and after every layer (1..L).
using HiddenObserver = std::function<void(int64_t layer, const float* hidden, int64_t T)>;

// How many of the `left` tokens of a prompt go through the model next, at most `most`: even pieces of whole blocks of
// keys, because every piece, however short, rebuilds the keys and values before it.
int64_t prompt_piece(int64_t left, int64_t most);

class Model {
 public:
  // Binds the weights of an open checkpoint. Owns: nothing of the file; the checkpoint must outlive the model.
  static Result<Model> bind(const Checkpoint& checkpoint);

  // Lays the quantised matrices out as the kernels read them (panel_store.h). Results do not change by a bit.
  Status lay_out(const Checkpoint& checkpoint, const PanelOptions& options, ThreadPool& pool);
  const PanelStore& panels() const { return panels_; }

  const ModelConfig& config() const { return config_; }
  const Weights& weights() const { return *weights_; }
  const Rope& rope() const { return rope_; }
  bool fine() const { return fine_; }  // Context::fine while this model runs

  CacheShape cache_shape(int64_t page_tokens) const;
  // Keys and values as int8 from now on: a quarter of the memory, and attention on the int8 units. Takes effect where
  // the shape of the heads allows; returns whether. Requires: no cache of another shape is used with the model
  // afterwards, and pages of kKvBlock positions.
  bool use_q8_cache();
  bool q8_cache() const { return q8_cache_; }
  // In which form `tokens` tokens of a prompt run that are submitted together, whatever pieces they go in. MLA over an
  // int8 cache: the cheaper one (docs/decisions/0006-expanded-prompts.md).
  MlaForm prompt_form(int64_t tokens) const;
  // The cache of an MTP module: one layer.
  CacheShape mtp_cache_shape(int64_t page_tokens) const;

  // Runs the batch through the model, extends the caches. logits: rows asked for, segment after segment, [n, V].
  // normed (may be null): [T, D], the state after the final norm of every row: what MTP takes.
  void forward(Context& ctx, std::span<const Segment> segments, int64_t page_tokens, float* logits,
               float* normed = nullptr, const HiddenObserver& observer = nullptr) const;

  // Module `index` predicts one token further: row i takes the main model's normed state of position i and the token at
  // i + 1, and gives logits for the token at i + 2. hidden [T, D], of all segments; their tokens are those at i + 1.
  // logits as above; out_hidden (may be null): [T, D], the module's output before its norm.
  void forward_mtp(Context& ctx, int64_t index, const float* hidden, std::span<const Segment> segments,
                   int64_t page_tokens, float* logits, float* out_hidden = nullptr) const;

 private:
  ModelConfig config_;
  std::unique_ptr<Weights> weights_;
  PanelStore panels_;
  Rope rope_;
  bool q8_cache_ = false;
  bool fine_ = false;              // Context::fine while this model runs
  bool rope_interleaved_ = false;  // GQA: the file's q and k rows are reordered

  CacheShape shape_of(int64_t layers, int64_t page_tokens) const;
  void layer_forward(Context& ctx, const LayerWeights& weights, bool moe, const RopeAngles& angles,
                     std::span<const AttentionSegment> segments, int64_t T, float* x) const;
  int64_t head_rows(std::span<const Segment> segments, const float* normed, float* rows) const;
};

}  // namespace westlake
