// Binding a file's tensors to the members of Weights.
#include "model/weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <unordered_set>

#include "tensor/codec.h"
#include "tensor/scalar.h"

namespace westlake {
namespace {

// Names that published checkpoints carry and no forward pass reads.
bool may_be_ignored(const ModelConfig& config, std::string_view name) {
  if (name.ends_with("rotary_emb.inv_freq") || name == "rope_freqs.weight") return true;
  if (config.tie_word_embeddings && (name == "lm_head.weight" || name == "output.weight")) return true;
  // Layers behind the last: MTP modules of a checkpoint whose config does not announce them, or that are not bound.
  for (std::string_view prefix : {"model.layers.", "blk."}) {
    if (!name.starts_with(prefix)) continue;
    int64_t layer = 0;
    for (char c : name.substr(prefix.size())) {
      if (c < '0' || c > '9' || layer > 1'000'000) break;
      layer = layer * 10 + (c - '0');
    }
    return layer >= config.num_hidden_layers;
  }
  return false;
}

bool holds_weights(DType dtype) {
  return is_quantised(dtype) || dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16 ||
         dtype == DType::kF8E4M3;
}

class Binder {
 public:
  Binder(const ModelConfig& config, const TensorSource& source, const BindOptions& options, Weights* weights)
      : config_(config), source_(source), options_(options), weights_(weights) {}

  Status bind(const WeightSpec& spec) {
    const bool gguf = source_.format == WeightFormat::kGguf;
    const std::string& name = gguf ? spec.gguf_name : spec.name;
    if (name.empty()) return {};
    const TensorView* view = source_.find(name);
    if (view == nullptr) {
      if (spec.optional) return {};
      return make_error(Code::kNotFound,
                        "{}: tensor '{}' is missing, a {} model with this config has it. Hint: is the download "
                        "complete?",
                        source_.place, name, config_.model_type);
    }
    used_.insert(name);
    std::vector<int64_t> expected = spec.shape;
    const bool stacked = gguf && spec.expert >= 0;
    if (stacked) expected.insert(expected.begin(), config_.n_routed_experts);
    if (view->shape != expected) {
      return make_error(Code::kCorrupt, "{}: tensor '{}' is {}, config says {}. Hint: files of two checkpoints mixed?",
                        source_.place, name, shape_text(view->shape), shape_text(expected));
    }
    if (!holds_weights(view->dtype)) {
      return make_error(Code::kUnsupported, "{}: tensor '{}' is {}, which holds no weights", source_.place, name,
                        dtype_name(view->dtype));
    }
    if (const auto* target = std::get_if<const float**>(&spec.target)) return bind_vector(name, *view, *target);
    return bind_matrix(name, spec, *view, stacked, *std::get<Mat*>(spec.target));
  }

  Status check_all_used() const {
    for (std::string_view name : source_.names) {
      if (used_.contains(name) || may_be_ignored(config_, name)) continue;
      return make_error(Code::kUnsupported,
                        "{}: tensor '{}' is not part of a {} model with this config; leaving it out would give wrong "
                        "output. Hint: a variant of the architecture, or a wrong config?",
                        source_.place, name, config_.model_type);
    }
    return {};
  }

 private:
  Status bind_vector(const std::string& name, const TensorView& view, const float** target) {
    if (view.dtype == DType::kF8E4M3)
      return make_error(Code::kUnsupported, "{}: tensor '{}' is f8_e4m3, expected a plain number type", source_.place,
                        name);
    std::vector<float>& values = weights_->owned.emplace_back(view.elements());
    dequantise_row(view.dtype, view.data, view.elements(), values.data());
    *target = values.data();
    return {};
  }

  Status bind_matrix(const std::string& name, const WeightSpec& spec, const TensorView& view, bool stacked,
                     Mat& target) {
    Mat mat;
    mat.dtype = view.dtype;
    mat.cols = spec.shape.back();
    mat.rows = 1;
    for (size_t i = 0; i + 1 < spec.shape.size(); ++i) mat.rows *= spec.shape[i];
    mat.row_bytes = dtype_bytes(view.dtype, mat.cols);
    mat.data = view.data + (stacked ? spec.expert * mat.bytes() : 0);
    if (view.dtype == DType::kF8E4M3) TRY(bind_scales(name, &mat));
    const bool up_projection = config_.mla() && name.ends_with("kv_b_proj.weight");
    if (view.dtype == DType::kF8E4M3 && up_projection && options_.widen_fp8_up_projections) {
      // Its heads are used one by one, and a head need not begin at a border of the 128x128 scale blocks.
      std::vector<float>& values = weights_->owned.emplace_back(mat.rows * mat.cols);
      for (int64_t i = 0; i < mat.rows; ++i) dequantise_row(mat, i, values.data() + i * mat.cols);
      const int64_t rows = mat.rows, cols = mat.cols;
      mat = Mat();
      mat.rows = rows;
      mat.cols = cols;
      mat.row_bytes = cols * static_cast<int64_t>(sizeof(float));
      mat.data = reinterpret_cast<const std::byte*>(values.data());
    }
    target = mat;
    return {};
  }

  // weight_scale_inv: one scale a 128x128 block, float32 or a power of two.
  Status bind_scales(const std::string& name, Mat* mat) {
    const std::string scale_name = name + "_scale_inv";
    const TensorView* scales = source_.find(scale_name);
    if (scales == nullptr)
      return make_error(Code::kNotFound,
                        "{}: tensor '{}' is missing: '{}' is f8_e4m3 and means nothing without its "
                        "scales",
                        source_.place, scale_name, name);
    used_.insert(scale_name);
    const std::vector<int64_t> expected = {(mat->rows + Mat::kScaleBlock - 1) / Mat::kScaleBlock, mat->scale_cols()};
    if (scales->shape != expected)
      return make_error(Code::kCorrupt, "{}: tensor '{}' is {}, expected {}: one scale a 128x128 block of '{}'",
                        source_.place, scale_name, shape_text(scales->shape), shape_text(expected), name);
    if (scales->dtype != DType::kF32 && scales->dtype != DType::kF8E8M0)
      return make_error(Code::kUnsupported, "{}: tensor '{}' is {}, supported scales are f32 and f8_e8m0",
                        source_.place, scale_name, dtype_name(scales->dtype));
    std::vector<float> values(scales->elements());
    dequantise_row(scales->dtype, scales->data, scales->elements(), values.data());
    for (size_t i = 0; i < values.size(); ++i) {
      if (std::isfinite(values[i])) continue;
      return make_error(Code::kCorrupt, "{}: tensor '{}' holds {} at block [{}, {}], expected finite scales",
                        source_.place, scale_name, values[i], static_cast<int64_t>(i) / expected[1],
                        static_cast<int64_t>(i) % expected[1]);
    }
    mat->scales = scales->data;
    mat->scale_dtype = scales->dtype;
    return {};
  }

  const ModelConfig& config_;
  const TensorSource& source_;
  const BindOptions options_;
  Weights* weights_;
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view s) const { return std::hash<std::string_view>()(s); }
  };
  std::unordered_set<std::string, Hash, std::equal_to<>> used_;
};

// True when the file has the first MTP module.
bool has_mtp(const ModelConfig& config, const TensorSource& source) {
  if (config.num_nextn_predict_layers == 0) return false;
  const std::string layer = std::to_string(config.num_hidden_layers);
  return source.find(source.format == WeightFormat::kGguf ? "blk." + layer + ".nextn.eh_proj.weight"
                                                          : "model.layers." + layer + ".eh_proj.weight") != nullptr;
}

// The table of a model is as large as its config says; a config must not ask for more than the file can back.
Status check_counts(const ModelConfig& config, const TensorSource& source) {
  const int64_t names = static_cast<int64_t>(source.names.size());
  int64_t moe_layers = 0;
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) moe_layers += config.is_moe_layer(i);
  const bool stacked = source.format == WeightFormat::kGguf;
  if (config.num_hidden_layers > names || (!stacked && 3 * moe_layers * config.n_routed_experts > names)) {
    return make_error(Code::kCorrupt,
                      "{}: holds {} tensors, config says {} layers, {} of them with {} experts. Hint: files of two "
                      "checkpoints mixed?",
                      source.place, names, config.num_hidden_layers, moe_layers, config.n_routed_experts);
  }
  for (int64_t i = 0; stacked && i < config.num_hidden_layers; ++i) {
    if (!config.is_moe_layer(i)) continue;
    const std::string name = "blk." + std::to_string(i) + ".ffn_gate_exps.weight";
    const TensorView* view = source.find(name);
    if (view != nullptr && !view->shape.empty() && view->shape[0] == config.n_routed_experts) continue;
    return make_error(view == nullptr ? Code::kNotFound : Code::kCorrupt,
                      "{}: tensor '{}' is {}, expected the weights of {} experts", source.place, name,
                      view == nullptr ? "missing" : shape_text(view->shape), config.n_routed_experts);
  }
  return {};
}

void for_each_matrix_of(SwigluParams& p, FunctionRef<void(Mat&)> f) {
  for (Mat* mat : {&p.gate_proj, &p.up_proj, &p.down_proj}) f(*mat);
}

void for_each_matrix_of(LayerWeights& w, FunctionRef<void(Mat&)> f) {
  MlaParams& m = w.mla;
  for (Mat* mat : {&w.gqa.q_proj, &w.gqa.k_proj, &w.gqa.v_proj, &w.gqa.o_proj, &m.q_proj, &m.q_a_proj, &m.q_b_proj,
                   &m.kv_a_proj_with_mqa, &m.kv_b_proj, &m.k_b_proj, &m.v_b_proj, &m.o_proj})
    if (*mat) f(*mat);
  if (w.mlp.gate_proj) for_each_matrix_of(w.mlp, f);
  if (w.moe.shared_experts.gate_proj) for_each_matrix_of(w.moe.shared_experts, f);
  for (SwigluParams& expert : w.moe.experts) for_each_matrix_of(expert, f);
}

}  // namespace

void for_each_matrix(Weights* weights, FunctionRef<void(Mat&)> f) {
  for (LayerWeights& layer : weights->layers) for_each_matrix_of(layer, f);
  for (MtpWeights& module : weights->mtp) {
    f(module.eh_proj);
    for_each_matrix_of(module.layer, f);
    if (module.shared_head) f(module.shared_head);
  }
  f(weights->lm_head);
}

Status bind_weights(const ModelConfig& config, const TensorSource& source, Weights* weights,
                    const BindOptions& options) {
  TRY(check_counts(config, source));
  Binder binder(config, source, options, weights);
  for (const WeightSpec& spec : weight_table(config, source.format, has_mtp(config, source), weights))
    TRY(binder.bind(spec));
  TRY(binder.check_all_used());
  if (!weights->lm_head) weights->lm_head = weights->embed_tokens;
  if (!config.mla()) return {};
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    const MlaParams& mla = weights->layers[i].mla;
    if (!mla.kv_b_proj && !(mla.k_b_proj && mla.v_b_proj))
      return make_error(Code::kNotFound, "{}: layer {} has neither attn_kv_b nor attn_k_b with attn_v_b", source.place,
                        i);
  }
  return {};
}

}  // namespace westlake
