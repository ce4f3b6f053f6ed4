#include "model/train_passes.h"

#include <algorithm>

#include "layers/embedding_train.h"
#include "layers/head_loss.h"
#include "model/layer_options.h"

namespace westlake {
namespace {

template <typename Real>
struct LayerTape {
  RmsNormTape<Real> attention_norm, mlp_norm;
  GqaTape<Real> gqa;
  MlaTape<Real> mla;
  SwigluTape<Real> mlp;
  MoeTape<Real> moe;
  Real* mid = nullptr;  // [N, D]: the stream between attention and feed-forward
};

// One batch on its way through the model.
template <typename Real>
class Pass {
 public:
  Pass(TrainContext<Real>& ctx, const ModelConfig& config, TrainLayers<Real>& layers, const TrainOptions& options,
       TrainLoss* loss)
      : ctx_(ctx),
        config_(config),
        layers_(layers),
        options_(options),
        loss_(loss),
        gqa_(gqa_options(config, false)),
        mla_(mla_options(config)),
        router_(router_options(config)),
        D_(config.hidden_size) {}

  void run(const TrainBatch& batch, const Rope& rope, bool backward, float* token_loss);

 private:
  bool balanced() const { return options_.balance_weight > 0; }
  void count_targets(const TrainBatch& batch);
  TrainRows rows_of(const TrainBatch& batch);
  void layer_forward(const TrainLayer<Real>& layer, const TrainRows& rows, const Real* x, Real* out,
                     LayerTape<Real>& tape, std::vector<int64_t>* load, bool count);
  void layer_backward(const TrainLayer<Real>& layer, const TrainRows& rows, LayerTape<Real>& tape, Real* dx);
  void run_mtp(const TrainBatch& batch, const Real* state, Real* dstate);

  TrainContext<Real>& ctx_;
  const ModelConfig& config_;
  TrainLayers<Real>& layers_;
  const TrainOptions& options_;
  TrainLoss* loss_;
  const GqaOptions gqa_;
  const MlaOptions mla_;
  const RouterOptions router_;
  const int64_t D_;
  TrainAngles<Real> angles_;
  double scale_ = 0;                   // 1 / targets
  std::vector<double> balance_alpha_;  // of every row of the batch
};

template <typename Real>
void Pass<Real>::count_targets(const TrainBatch& batch) {
  balance_alpha_.assign(batch.B, 0);
  for (int64_t i = 0; !ctx_.planning && i < batch.B * batch.T; ++i) {
    if (batch.targets[i] < 0) continue;
    ++loss_->targets;
    balance_alpha_[i / batch.T] += 1;
  }
  const int64_t all = options_.loss_denominator > 0 ? options_.loss_denominator : loss_->targets;
  scale_ = all > 0 ? 1.0 / static_cast<double>(all) : 0;
  for (double& alpha : balance_alpha_) alpha *= options_.balance_weight * scale_;
}

// The rows, with documents that begin at 0 where nobody says otherwise.
template <typename Real>
TrainRows Pass<Real>::rows_of(const TrainBatch& batch) {
  TrainRows rows = {batch.B, batch.T, batch.doc_start};
  if (rows.doc_start != nullptr && !ctx_.planning) return rows;
  int32_t* zeros = ctx_.arena.template take<int32_t>(rows.tokens());
  if (!ctx_.planning) std::fill(zeros, zeros + rows.tokens(), 0);
  rows.doc_start = zeros;
  return rows;
}

// mid = x + attention(norm(x)); out = mid + feed_forward(norm(mid)); out null: the tape alone. count: the balance loss
// and the load are new.
template <typename Real>
void Pass<Real>::layer_forward(const TrainLayer<Real>& layer, const TrainRows& rows, const Real* x, Real* out,
                               LayerTape<Real>& tape, std::vector<int64_t>* load, bool count) {
  const int64_t N = rows.tokens();
  tape.mid = ctx_.arena.template take<Real>(N * D_);
  tape.attention_norm = rms_norm_tape(ctx_, N);
  tape.mlp_norm = rms_norm_tape(ctx_, N);
  if (config_.mla()) {
    tape.mla = mla_tape(ctx_, mla_, layer.mla, rows);
  } else {
    tape.gqa = gqa_tape(ctx_, gqa_, layer.gqa, rows);
  }
  if (layer.moe) {
    tape.moe = moe_tape(ctx_, router_, layer.moe_params, rows, balanced());
  } else {
    tape.mlp = swiglu_tape(ctx_, layer.mlp, N);
  }
  const ArenaScope scope(ctx_.arena);
  Real* normed = ctx_.arena.template take<Real>(N * D_);
  rms_norm_forward(ctx_, x, D_, *layer.input_layernorm, config_.rms_norm_eps, N, normed, D_, tape.attention_norm);
  copy_numbers(ctx_, x, N * D_, tape.mid);
  if (config_.mla()) {
    mla_forward(ctx_, mla_, layer.mla, rows, angles_, normed, tape.mid, tape.mla);
  } else {
    gqa_forward(ctx_, gqa_, layer.gqa, rows, angles_, normed, tape.mid, tape.gqa);
  }
  rms_norm_forward(ctx_, tape.mid, D_, *layer.post_attention_layernorm, config_.rms_norm_eps, N, normed, D_,
                   tape.mlp_norm);
  if (out != nullptr) copy_numbers(ctx_, tape.mid, N * D_, out);
  if (layer.moe) {
    const double balance = moe_forward(ctx_, router_, layer.moe_params, rows,
                                       balanced() ? balance_alpha_.data() : nullptr, normed, out, tape.moe, load);
    if (count) loss_->loss += balance;
  } else {
    swiglu_forward(ctx_, layer.mlp, normed, N, out, tape.mlp);
  }
}

// dx [N, D]: of the layer's output, and on return of its input.
template <typename Real>
void Pass<Real>::layer_backward(const TrainLayer<Real>& layer, const TrainRows& rows, LayerTape<Real>& tape, Real* dx) {
  const int64_t N = rows.tokens();
  const ArenaScope scope(ctx_.arena);
  Real* dnormed = ctx_.arena.template take<Real>(N * D_);
  if (layer.moe) {
    moe_backward(ctx_, router_, layer.moe_params, rows, tape.moe, dx, dnormed);
  } else {
    swiglu_backward(ctx_, layer.mlp, tape.mlp, dx, N, dnormed);
  }
  rms_norm_backward(ctx_, tape.mlp_norm, *layer.post_attention_layernorm, dnormed, D_, N, dx, D_);
  if (config_.mla()) {
    mla_backward(ctx_, mla_, layer.mla, rows, angles_, tape.mla, dx, dnormed);
  } else {
    gqa_backward(ctx_, gqa_, layer.gqa, rows, angles_, tape.gqa, dx, dnormed);
  }
  rms_norm_backward(ctx_, tape.attention_norm, *layer.input_layernorm, dnormed, D_, N, dx, D_);
}

template <typename Real>
void Pass<Real>::run(const TrainBatch& batch, const Rope& rope, bool backward, float* token_loss) {
  const ArenaScope scope(ctx_.arena);
  const TrainRows rows = rows_of(batch);
  const int64_t N = rows.tokens(), L = static_cast<int64_t>(layers_.layers.size());
  count_targets(batch);
  angles_ = train_angles(ctx_, rope, batch.T);
  const bool keep = backward && !options_.recompute;

  // The stream before every layer and behind the last; without backward two of them take turns.
  std::vector<Real*> stream(L + 1);
  std::vector<LayerTape<Real>> tapes(L);
  std::vector<int64_t> marks(L);
  stream[0] = ctx_.arena.template take<Real>(N * D_);
  Real* other = backward ? nullptr : ctx_.arena.template take<Real>(N * D_);
  embedding_forward(ctx_, *layers_.embed_tokens, batch.inputs, N, stream[0]);
  for (int64_t l = 0; l < L; ++l) {
    stream[l + 1] = backward ? ctx_.arena.template take<Real>(N * D_) : l % 2 == 0 ? other : stream[0];
    const TrainLayer<Real>& layer = layers_.layers[l];
    std::vector<int64_t>* load = layer.moe ? &loss_->load.emplace_back() : nullptr;
    marks[l] = ctx_.arena.mark();
    layer_forward(layer, rows, stream[l], stream[l + 1], tapes[l], load, true);
    if (!keep) ctx_.arena.release(marks[l]);
  }
  RmsNormTape<Real> norm = rms_norm_tape(ctx_, N);
  Real* state = ctx_.arena.template take<Real>(N * D_);
  rms_norm_forward(ctx_, stream[L], D_, *layers_.norm, config_.rms_norm_eps, N, state, D_, norm);
  Real* dstate = backward ? ctx_.arena.template take<Real>(N * D_) : nullptr;
  loss_->main = scale_ * head_loss(ctx_, *layers_.lm_head, state, batch.targets, N, scale_, dstate, token_loss);
  if (!backward) return;
  if (!layers_.mtp.empty()) {
    if (options_.mtp_weight > 0 && batch.T > 1) {
      run_mtp(batch, state, dstate);
    } else {
      loss_->load.emplace_back(config_.n_routed_experts, 0);
    }
  }

  Real* dx = ctx_.arena.template take<Real>(N * D_);
  zero_numbers(ctx_, N * D_, dx);
  rms_norm_backward(ctx_, norm, *layers_.norm, dstate, D_, N, dx, D_);
  for (int64_t l = L - 1; l >= 0; --l) {
    const ArenaScope layer_scope(ctx_.arena);
    if (options_.recompute) {
      Real* tape_alone = nullptr;
      layer_forward(layers_.layers[l], rows, stream[l], tape_alone, tapes[l], nullptr, false);
    }
    layer_backward(layers_.layers[l], rows, tapes[l], dx);
  }
  embedding_backward(ctx_, *layers_.embed_tokens, batch.inputs, N, dx);
}

// The module at position i takes the state of i and the embedding of the token at i + 1, and predicts the token at
// i + 2; the last position of a row has none. dstate [N, D] += the gradient of the state.
template <typename Real>
void Pass<Real>::run_mtp(const TrainBatch& batch, const Real* state, Real* dstate) {
  const TrainMtp<Real>& module = layers_.mtp[0];
  const int64_t T = batch.T, n = batch.T - 1, N = batch.B * n;
  const ArenaScope scope(ctx_.arena);
  int32_t* inputs = ctx_.arena.template take<int32_t>(N);
  int32_t* targets = ctx_.arena.template take<int32_t>(N);
  int32_t* doc_start = ctx_.arena.template take<int32_t>(N);
  Real* hidden = ctx_.arena.template take<Real>(N * D_);
  ctx_.for_pieces(N, 64, [&](int64_t begin, int64_t end, int64_t, int) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t t = r / n * T + r % n;
      const int32_t start = batch.doc_start == nullptr ? 0 : batch.doc_start[t];
      const bool last = batch.doc_start != nullptr && batch.doc_start[t + 1] != start;  // of its document
      inputs[r] = batch.inputs[t + 1];
      targets[r] = last ? -1 : batch.targets[t + 1];
      doc_start[r] = start;
      std::copy(state + t * D_, state + (t + 1) * D_, hidden + r * D_);
    }
  });
  const TrainRows rows = {batch.B, n, doc_start};
  Real* embedding = ctx_.arena.template take<Real>(N * D_);
  embedding_forward(ctx_, *layers_.embed_tokens, inputs, N, embedding);
  Real* x = ctx_.arena.template take<Real>(N * D_);
  Real* out = ctx_.arena.template take<Real>(N * D_);
  MtpTape<Real> input = mtp_tape(ctx_, module.input, N);
  mtp_forward(ctx_, module.input, config_.rms_norm_eps, embedding, hidden, N, x, input);
  LayerTape<Real> tape;
  std::vector<int64_t>* load = module.layer.moe ? &loss_->load.emplace_back() : nullptr;
  layer_forward(module.layer, rows, x, out, tape, load, true);
  RmsNormTape<Real> norm = rms_norm_tape(ctx_, N);
  Real* normed = ctx_.arena.template take<Real>(N * D_);
  rms_norm_forward(ctx_, out, D_, *module.shared_head_norm, config_.rms_norm_eps, N, normed, D_, norm);
  Real* dnormed = ctx_.arena.template take<Real>(N * D_);
  const double weight = options_.mtp_weight * scale_;
  loss_->mtp = scale_ * head_loss(ctx_, *layers_.lm_head, normed, targets, N, weight, dnormed);

  Real* dx = ctx_.arena.template take<Real>(N * D_);
  zero_numbers(ctx_, N * D_, dx);
  rms_norm_backward(ctx_, norm, *module.shared_head_norm, dnormed, D_, N, dx, D_);
  layer_backward(module.layer, rows, tape, dx);
  Real* dembedding = out;  // the stream is not needed any more
  Real* dhidden = normed;
  mtp_backward(ctx_, module.input, input, dx, N, dembedding, dhidden);
  embedding_backward(ctx_, *layers_.embed_tokens, inputs, N, dembedding);
  ctx_.for_pieces(N, 64, [&](int64_t begin, int64_t end, int64_t, int) {
    for (int64_t r = begin; r < end; ++r) ctx_.kernels.axpy(1, dhidden + r * D_, D_, dstate + (r / n * T + r % n) * D_);
  });
}

}  // namespace

template <typename Real>
TrainLoss run_train_pass(TrainContext<Real>& ctx, const ModelConfig& config, const Rope& rope,
                         TrainLayers<Real>& layers, const TrainBatch& batch, const TrainOptions& options, bool backward,
                         float* token_loss) {
  TrainLoss loss;
  Pass<Real>(ctx, config, layers, options, &loss).run(batch, rope, backward, token_loss);
  loss.loss += loss.main + options.mtp_weight * loss.mtp;  // the balance loss is there already
  return loss;
}

template TrainLoss run_train_pass(TrainContext<float>&, const ModelConfig&, const Rope&, TrainLayers<float>&,
                                  const TrainBatch&, const TrainOptions&, bool, float*);
template TrainLoss run_train_pass(TrainContext<double>&, const ModelConfig&, const Rope&, TrainLayers<double>&,
                                  const TrainBatch&, const TrainOptions&, bool, float*);

}  // namespace westlake
