#include "model/train_model.h"

#include <algorithm>
#include <unordered_map>

#include "base/page_memory.h"
#include "base/rng.h"
#include "base/thread_pool.h"
#include "model/export_tensors.h"
#include "model/train_passes.h"
#include "tensor/codec.h"

namespace westlake {
namespace {

constexpr int64_t kAlignment = 64;                // bytes, of every parameter
constexpr int64_t kZeroPiece = int64_t{1} << 18;  // numbers of a task that clears
constexpr int64_t kPackPanels = 4;                // panels of a task that packs

int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

const void* address(const WeightSpec& spec) {
  if (const auto* vector = std::get_if<const float**>(&spec.target)) return *vector;  // where the pointer stands
  return std::get<Mat*>(spec.target);
}

bool is_bias_of_router(const WeightSpec& spec) {
  return spec.router && spec.shape.size() == 1;
}

ParamKind kind_of(const WeightSpec& spec, const Weights& weights) {
  if (spec.shape.size() == 1) return ParamKind::kVector;
  if (address(spec) == &weights.embed_tokens) return ParamKind::kEmbedding;
  if (address(spec) == &weights.lm_head) return ParamKind::kHead;
  return spec.router ? ParamKind::kRouter : ParamKind::kMatrix;
}

Status check_trainable(const ModelConfig& c) {
  if (c.num_nextn_predict_layers > 1)
    return make_error(Code::kUnsupported, "num_nextn_predict_layers is {}, training supports 0 and 1",
                      c.num_nextn_predict_layers);
  if (c.fp8)
    return make_error(Code::kUnsupported,
                      "quantization_config is fp8, training keeps float32 weights. Hint: leave the key out");
  return {};
}

// FNV-1a: a name's number, the same everywhere.
uint64_t name_hash(std::string_view name) {
  uint64_t h = 0xcbf29ce484222325ull;
  for (char c : name) h = (h ^ static_cast<uint8_t>(c)) * 0x100000001b3ull;
  return h;
}

// Finds parameters by the member of Weights that the table's row points to.
template <typename Real>
class Finder {
 public:
  void add(const void* member, Param<Real>* param) { params_[member] = param; }
  Param<Real>* operator()(const Mat& member) const { return find(&member); }
  Param<Real>* operator()(const float* const& member) const { return find(&member); }

  SwigluTrainParams<Real> swiglu(const SwigluParams& w) const {
    return {(*this)(w.gate_proj), (*this)(w.up_proj), (*this)(w.down_proj)};
  }
  TrainLayer<Real> layer(const LayerWeights& w, bool moe, const float* router_bias) const;

 private:
  Param<Real>* find(const void* member) const {
    const auto at = params_.find(member);
    return at == params_.end() ? nullptr : at->second;
  }
  std::unordered_map<const void*, Param<Real>*> params_;
};

template <typename Real>
TrainLayer<Real> Finder<Real>::layer(const LayerWeights& w, bool moe, const float* router_bias) const {
  const Finder& of = *this;
  TrainLayer<Real> layer;
  layer.moe = moe;
  layer.input_layernorm = of(w.input_layernorm);
  layer.post_attention_layernorm = of(w.post_attention_layernorm);
  layer.gqa = {of(w.gqa.q_proj), of(w.gqa.k_proj), of(w.gqa.v_proj), of(w.gqa.o_proj), of(w.gqa.q_bias),
               of(w.gqa.k_bias), of(w.gqa.v_bias), of(w.gqa.o_bias), of(w.gqa.q_norm), of(w.gqa.k_norm)};
  layer.mla = {of(w.mla.q_proj),
               of(w.mla.q_a_proj),
               of(w.mla.q_a_layernorm),
               of(w.mla.q_b_proj),
               of(w.mla.kv_a_proj_with_mqa),
               of(w.mla.kv_a_layernorm),
               of(w.mla.kv_b_proj),
               of(w.mla.o_proj)};
  layer.mlp = of.swiglu(w.mlp);
  layer.moe_params.gate = of(w.moe.gate);
  layer.moe_params.e_score_correction_bias = router_bias;
  for (const SwigluParams& expert : w.moe.experts) layer.moe_params.experts.push_back(of.swiglu(expert));
  layer.moe_params.shared_experts = of.swiglu(w.moe.shared_experts);
  return layer;
}

}  // namespace

template <typename Real>
struct TrainModel<Real>::State {
  ModelConfig config;
  Weights members;  // only the addresses of its members are used: the table names them
  std::vector<TrainParam<Real>> params;
  std::vector<std::vector<float>> router_biases;
  std::vector<float*> router_bias_pointers;
  std::vector<std::string> router_bias_names;
  TrainLayers<Real> layers;
  Rope rope;
  PageMemory values, grads, operands;
  int64_t numbers = 0;  // of values, with padding

  void list_parameters();
  Status allocate();
  void bind();
  bool multiplies(const TrainParam<Real>& p) const {
    return p.kind != ParamKind::kVector && (p.kind != ParamKind::kEmbedding || &p == layers.lm_head);
  }
  Precision precision_of(const TrainParam<Real>& p, Precision precision) const {
    return p.kind == ParamKind::kRouter ? Precision::kFull : precision;
  }
};

template <typename Real>
void TrainModel<Real>::State::list_parameters() {
  // The shared embedding and head of an MTP module, which some checkpoints hold twice, are the optional rows.
  for (const WeightSpec& spec :
       weight_table(config, WeightFormat::kPublished, config.num_nextn_predict_layers > 0, &members)) {
    if (spec.optional) continue;
    if (is_bias_of_router(spec)) {
      router_biases.emplace_back(spec.shape[0], 0.0f);
      router_bias_names.push_back(spec.name);
      continue;
    }
    TrainParam<Real>& p = params.emplace_back();
    p.name = spec.name;
    p.shape = spec.shape;
    p.kind = kind_of(spec, members);
    p.cols = spec.shape.back();
    p.rows = spec.shape.size() == 1 ? 1 : spec.shape[0];
    numbers += round_up(p.rows * p.cols, kAlignment / static_cast<int64_t>(sizeof(Real)));
  }
  for (std::vector<float>& bias : router_biases) router_bias_pointers.push_back(bias.data());
}

template <typename Real>
Status TrainModel<Real>::State::allocate() {
  const int64_t bytes = numbers * static_cast<int64_t>(sizeof(Real));
  TRY_ASSIGN(values, PageMemory::allocate(bytes));
  TRY_ASSIGN(grads, PageMemory::allocate(bytes));
  int64_t at = 0;
  for (TrainParam<Real>& p : params) {
    p.value = reinterpret_cast<Real*>(values.data()) + at;
    p.grad = reinterpret_cast<Real*>(grads.data()) + at;
    at += round_up(p.rows * p.cols, kAlignment / static_cast<int64_t>(sizeof(Real)));
  }
  return {};
}

// Walks the table again: its rows come in the order of params, and point to the members of Weights.
template <typename Real>
void TrainModel<Real>::State::bind() {
  Finder<Real> find;
  size_t next = 0;
  for (const WeightSpec& spec :
       weight_table(config, WeightFormat::kPublished, config.num_nextn_predict_layers > 0, &members)) {
    if (spec.optional || is_bias_of_router(spec)) continue;
    CHECK(next < params.size() && params[next].name == spec.name);
    find.add(address(spec), &params[next++]);
  }
  size_t next_bias = 0;
  const auto layer = [&](const LayerWeights& w, int64_t index) {
    const bool moe = config.is_moe_layer(index);
    const bool biased = moe && next_bias < router_biases.size();
    return find.layer(w, moe, biased ? router_bias_pointers[next_bias++] : nullptr);
  };
  layers.embed_tokens = find(members.embed_tokens);
  layers.lm_head = config.tie_word_embeddings ? layers.embed_tokens : find(members.lm_head);
  layers.norm = find(members.norm);
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) layers.layers.push_back(layer(members.layers[i], i));
  for (const MtpWeights& w : members.mtp) {
    TrainMtp<Real>& module = layers.mtp.emplace_back();
    module.input = {find(w.enorm), find(w.hnorm), find(w.eh_proj)};
    module.layer = layer(w.layer, config.num_hidden_layers);
    module.shared_head_norm = find(w.shared_head_norm);
  }
}

template <typename Real>
Result<TrainModel<Real>> TrainModel<Real>::create(const ModelConfig& config) {
  TRY(check_trainable(config));
  TRY(config.validate("config"));
  TrainModel model;
  model.state_ = std::make_shared<State>();
  State& s = *model.state_;
  s.config = config;
  s.list_parameters();
  TRY(s.allocate());
  s.bind();
  s.rope = Rope(config.mla() ? config.qk_rope_head_dim : config.head_dim, config.rope_theta, config.rope_scaling);
  return model;
}

template <typename Real>
void TrainModel<Real>::initialise(uint64_t seed, double std) {
  const double residual_std = std / std::sqrt(2.0 * static_cast<double>(state_->config.num_hidden_layers));
  for (TrainParam<Real>& p : state_->params) {
    const int64_t n = p.rows * p.cols;
    if (p.kind == ParamKind::kVector) {
      std::fill(p.value, p.value + n,
                p.name.ends_with("norm.weight") || !p.name.ends_with(".bias") ? Real(1) : Real(0));
      continue;
    }
    const bool residual = p.name.ends_with("o_proj.weight") || p.name.ends_with("down_proj.weight");
    const double deviation = residual ? residual_std : std;
    uint64_t mixed = seed;
    Rng rng(splitmix64(mixed) ^ name_hash(p.name));
    for (int64_t i = 0; i < n; ++i) p.value[i] = static_cast<Real>(deviation * rng.normal());
  }
  for (std::vector<float>& bias : state_->router_biases) std::fill(bias.begin(), bias.end(), 0.0f);
}

template <typename Real>
Status TrainModel<Real>::load(const Checkpoint& checkpoint) {
  State& s = *state_;
  TRY_ASSIGN(const ExportSource source, ExportSource::open(checkpoint));
  if (source.weights->mtp.size() != s.layers.mtp.size())
    return make_error(Code::kNotFound,
                      "{}: the config has {} multi-token-prediction layers, the file {}. Hint: set "
                      "num_nextn_predict_layers to what the file has",
                      source.place, s.layers.mtp.size(), source.weights->mtp.size());
  std::unordered_map<std::string_view, TrainParam<Real>*> params;
  for (TrainParam<Real>& p : s.params) params[p.name] = &p;
  std::unordered_map<std::string_view, std::vector<float>*> biases;
  for (size_t i = 0; i < s.router_biases.size(); ++i) biases[s.router_bias_names[i]] = &s.router_biases[i];
  ThreadPool pool(1);
  size_t found = 0;
  const auto f32 = [](const WeightSpec&, int64_t) { return DType::kF32; };
  for (const ExportTensor& tensor : export_tensors(source, WeightFormat::kPublished, !s.layers.mtp.empty(), f32)) {
    for (const Mat& mat : tensor.sources) {
      if (is_quantised(mat.dtype))
        return make_error(Code::kUnsupported,
                          "{}: '{}' is quantised ({}), training begins from f32, bf16 or f16. Hint: the model's folder "
                          "with safetensors, or a GGUF in f16",
                          source.place, tensor.spec.name, dtype_name(mat.dtype));
    }
    const auto param = params.find(tensor.spec.name);
    const auto bias = biases.find(tensor.spec.name);
    if (param == params.end() && bias == biases.end()) continue;  // a module's own copy of a shared tensor
    const int64_t expected =
        param != params.end() ? param->second->rows * param->second->cols : static_cast<int64_t>(bias->second->size());
    std::vector<float> values(tensor.rows * tensor.cols);
    if (static_cast<int64_t>(values.size()) != expected)
      return make_error(Code::kCorrupt, "{}: '{}' has {} numbers, the config says {}", source.place, tensor.spec.name,
                        values.size(), expected);
    if (tensor.make) tensor.make(pool, values.data());
    for (int64_t i = 0; !tensor.make && i < tensor.rows; ++i) {
      const SourceRow row = tensor.row(i);
      dequantise_row(*row.mat, row.row, values.data() + i * tensor.cols);
    }
    ++found;
    if (param != params.end()) {
      std::copy(values.begin(), values.end(), param->second->value);
    } else {
      std::copy(values.begin(), values.end(), bias->second->begin());
    }
  }
  if (found != params.size() + biases.size())
    return make_error(Code::kNotFound, "{}: has {} of the {} tensors of the config", source.place, found,
                      params.size() + biases.size());
  return {};
}

template <typename Real>
const ModelConfig& TrainModel<Real>::config() const {
  return state_->config;
}

template <typename Real>
std::span<TrainParam<Real>> TrainModel<Real>::params() {
  return state_->params;
}

template <typename Real>
int64_t TrainModel<Real>::parameter_count() const {
  int64_t n = 0;
  for (const TrainParam<Real>& p : state_->params) n += p.rows * p.cols;
  return n;
}

template <typename Real>
std::span<float* const> TrainModel<Real>::router_biases() {
  return state_->router_bias_pointers;
}

template <typename Real>
std::span<const std::string> TrainModel<Real>::router_bias_names() const {
  return state_->router_bias_names;
}

template <typename Real>
void TrainModel<Real>::zero_grads(TrainContext<Real>& ctx) {
  Real* grads = reinterpret_cast<Real*>(state_->grads.data());
  ctx.for_pieces(state_->numbers, kZeroPiece,
                 [&](int64_t begin, int64_t end, int64_t, int) { std::fill(grads + begin, grads + end, Real(0)); });
}

template <typename Real>
void TrainModel<Real>::pack_weights(TrainContext<Real>& ctx) {
  State& s = *state_;
  const OpTimer timer(ctx.profile, "pack weights");
  int64_t bytes = 0;
  for (const TrainParam<Real>& p : s.params) {
    if (!s.multiplies(p)) continue;
    const Precision precision = s.precision_of(p, ctx.precision);
    bytes += right_bytes<Real>(precision, p.cols, p.rows) + right_bytes<Real>(precision, p.rows, p.cols);
  }
  if (s.operands.size_bytes() != bytes) {
    Result<PageMemory> memory = PageMemory::allocate(bytes);
    CHECK(memory.ok(), "{}", memory.error().message);
    s.operands = std::move(*memory);
  }

  struct Job {
    Precision precision;
    const TrainParam<Real>* p;
    bool transposed;
    std::byte* to;
    int64_t K, N, first;  // first: tasks before this one's
  };
  std::vector<Job> jobs;
  int64_t tasks = 0;
  std::byte* at = s.operands.data();
  for (TrainParam<Real>& p : s.params) {
    if (!s.multiplies(p)) continue;
    const Precision precision = s.precision_of(p, ctx.precision);
    for (const bool transposed : {true, false}) {
      const int64_t K = transposed ? p.cols : p.rows, N = transposed ? p.rows : p.cols;
      const RightOperand operand = {at, K, N, right_panel_bytes<Real>(precision, K)};
      (transposed ? p.forward : p.backward) = operand;
      jobs.push_back({precision, &p, transposed, at, K, N, tasks});
      tasks += round_up(round_up(N, kPanelN) / kPanelN, kPackPanels) / kPackPanels;
      at += right_bytes<Real>(precision, K, N);
    }
  }
  ctx.for_pieces(tasks, 1, [&](int64_t task, int64_t, int64_t, int) {
    const auto after =
        std::upper_bound(jobs.begin(), jobs.end(), task, [](int64_t t, const Job& j) { return t < j.first; });
    const Job& job = *(after - 1);
    const int64_t panels = round_up(job.N, kPanelN) / kPanelN, panel = (task - job.first) * kPackPanels;
    ctx.kernels.pack_right(job.precision, job.p->value, job.p->cols, job.transposed, panel,
                           std::min(kPackPanels, panels - panel), job.K, job.N, job.to);
  });
}

template <typename Real>
int64_t TrainModel<Real>::plan(const TrainContext<Real>& ctx, int64_t B, int64_t T, const TrainOptions& options) {
  Arena arena;
  TrainContext<Real> dry = {ctx.kernels, ctx.pool, arena, ctx.precision, /*planning=*/true};
  loss_and_gradients(dry, {B, T}, options);
  return arena.peak_bytes();
}

template <typename Real>
TrainLoss TrainModel<Real>::loss_and_gradients(TrainContext<Real>& ctx, const TrainBatch& batch,
                                               const TrainOptions& options) {
  return run_train_pass(ctx, state_->config, state_->rope, state_->layers, batch, options, true, nullptr);
}

template <typename Real>
TrainLoss TrainModel<Real>::loss(TrainContext<Real>& ctx, const TrainBatch& batch, float* token_loss) {
  return run_train_pass(ctx, state_->config, state_->rope, state_->layers, batch, {}, false, token_loss);
}

template <typename Real>
void TrainModel<Real>::move_biases(const std::vector<std::vector<int64_t>>& load, double gamma) {
  if (state_->router_biases.empty()) return;
  CHECK(load.size() == state_->router_biases.size(), "{} loads, {} biases", load.size(), state_->router_biases.size());
  for (size_t l = 0; l < load.size(); ++l) {
    int64_t sum = 0;
    for (int64_t n : load[l]) sum += n;
    const int64_t E = static_cast<int64_t>(load[l].size());
    for (int64_t e = 0; e < E; ++e) {
      const int64_t below = sum - load[l][e] * E;  // E times (mean - load)
      const double sign = below > 0 ? 1 : below < 0 ? -1 : 0;
      state_->router_biases[l][e] = static_cast<float>(state_->router_biases[l][e] + gamma * sign);
    }
  }
}

template class TrainModel<float>;
template class TrainModel<double>;

}  // namespace westlake
