#include "train/trainer.h"

#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/clock.h"

namespace westlake {
namespace {

constexpr size_t kRateSteps = 20;       // the rate is that of so many steps
constexpr int64_t kMeasuredSteps = 10;  // --minutes: steps before the length is fixed
constexpr double kMeanLossDecay = 0.98;
constexpr int64_t kSpikeAfterSteps = 50;
constexpr double kSpikeNats = 1.5;  // above the moving mean

}  // namespace

double process_cpu_seconds() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

double train_flop_per_token(const ModelConfig& c, int64_t T) {
  const double dims = static_cast<double>(c.mla() ? c.qk_head_dim() + c.v_head_dim : 2 * c.head_dim);
  const double layers = static_cast<double>(c.num_hidden_layers + c.num_nextn_predict_layers);
  // Causal: half of the T x T scores; forward 2 products, backward twice as many.
  const double attention = layers * static_cast<double>(c.num_attention_heads) * dims * static_cast<double>(T) * 3;
  // The head is multiplied with, the embedding is not; with tied weights the one tensor is counted once, as the head.
  const double weights = static_cast<double>(c.active_parameters());
  return 6 * weights + attention;
}

Trainer::Trainer(ThreadPool& pool, const TrainKernels<float>& kernels, TrainInputs inputs,
                 const TrainSettings& settings, RunFolder folder, TrainModel<float> model, Optimiser<float> optimiser,
                 BatchStream batches)
    : inputs_(std::move(inputs)),
      settings_(settings),
      folder_(std::move(folder)),
      model_(std::move(model)),
      optimiser_(std::move(optimiser)),
      ctx_{kernels, pool, arena_, settings_.precision},
      batches_(std::move(batches)) {}

Result<std::unique_ptr<Trainer>> Trainer::create(ThreadPool& pool, const TrainKernels<float>& kernels,
                                                 TrainInputs inputs, const TrainSettings& settings, RunFolder folder) {
  TRY(settings.validate());
  TRY_ASSIGN(TrainModel<float> model, TrainModel<float>::create(inputs.config));
  TRY_ASSIGN(Optimiser<float> optimiser, Optimiser<float>::create(model.params(), settings.optimiser));
  TRY_ASSIGN(BatchStream batches, BatchStream::create(*inputs.data, stream_options(inputs, settings)));
  std::unique_ptr<Trainer> t(new Trainer(pool, kernels, std::move(inputs), settings, std::move(folder),
                                         std::move(model), std::move(optimiser), std::move(batches)));
  if (settings.tokens == 0 && settings.epochs > 0)
    t->settings_.tokens = t->batches_.rows_of(settings.epochs, settings.sequence_length) * settings.sequence_length;
  const int64_t rows = t->micro_rows(), T = settings.sequence_length;
  t->memory_.optimiser_bytes = t->optimiser_.state_bytes();
  for (const TrainParam<float>& p : t->model_.params()) {
    t->memory_.weights_bytes += 2 * p.rows * p.cols * static_cast<int64_t>(sizeof(float));
    if (p.forward.data != nullptr) t->memory_.weights_bytes += right_bytes<float>(settings.precision, p.cols, p.rows);
    if (p.backward.data != nullptr) t->memory_.weights_bytes += right_bytes<float>(settings.precision, p.rows, p.cols);
  }
  const TrainOptions options = t->options_at(0);
  t->memory_.activations_bytes = std::max(t->model_.plan(t->ctx_, rows, T, options), t->optimiser_.plan(t->ctx_));
  return t;
}

BatchOptions Trainer::stream_options(const TrainInputs& inputs, const TrainSettings& settings) {
  BatchOptions options;
  options.seed = settings.seed;
  options.document_tokens = std::max(options.document_tokens, settings.sequence_length);
  options.whole_documents = inputs.whole_documents;
  options.padding_id = inputs.padding_id;
  return options;
}

TrainMemory Trainer::memory() const {
  return memory_;
}

int64_t Trainer::micro_rows() const {
  // Some 8192 tokens keep the matrix units busy; more only needs more memory.
  if (settings_.micro_batch_rows > 0) return settings_.micro_batch_rows;
  int64_t rows = std::max<int64_t>(1, std::min(settings_.batch_rows(), 8192 / settings_.sequence_length));
  while (settings_.batch_rows() % rows != 0) --rows;
  return rows;
}

TrainOptions Trainer::options_at(int64_t step) const {
  TrainOptions options;
  const int64_t steps = settings_.steps();
  const double done = steps > 0 ? static_cast<double>(step) / static_cast<double>(steps) : 0;
  options.mtp_weight = done < 1 - settings_.decay_fraction ? settings_.mtp_weight : settings_.mtp_final_weight;
  if (settings_.mtp_weight == 0) options.mtp_weight = 0;
  options.balance_weight = settings_.balance_weight;
  options.recompute = settings_.recompute;
  return options;
}

Status Trainer::begin() {
  arena_.reserve(memory_.activations_bytes);
  model_.initialise(settings_.seed, settings_.initializer_range);
  model_.pack_weights(ctx_);
  return save();
}

Status Trainer::begin_from(const Checkpoint& checkpoint) {
  arena_.reserve(memory_.activations_bytes);
  TRY(model_.load(checkpoint));
  model_.pack_weights(ctx_);
  return save();
}

Status Trainer::resume() {
  TRY_ASSIGN(const int64_t step, folder_.newest());
  TRY_ASSIGN(const std::string state, folder_.state(step));
  TRY(read_state(state, folder_.path()));
  arena_.reserve(memory_.activations_bytes);
  TRY(folder_.load(step, weight_tensors(), optimiser_tensors()));
  step_ = saved_step_ = step;
  optimiser_.set_steps(step);
  model_.pack_weights(ctx_);
  return {};
}

std::vector<RunTensor> Trainer::weight_tensors() {
  std::vector<RunTensor> tensors;
  for (TrainParam<float>& p : model_.params()) tensors.push_back({p.name, p.shape, p.value, p.rows * p.cols});
  const std::span<float* const> biases = model_.router_biases();
  const int64_t experts = inputs_.config.n_routed_experts;
  for (size_t i = 0; i < biases.size(); ++i)
    tensors.push_back({model_.router_bias_names()[i], {experts}, biases[i], experts});
  return tensors;
}

std::vector<RunTensor> Trainer::optimiser_tensors() {
  std::vector<RunTensor> tensors;
  for (StateTensor<float>& t : optimiser_.state()) tensors.push_back({t.name, t.shape, t.data, t.numbers});
  return tensors;
}

std::string Trainer::state_json() const {
  JsonWriter w;
  const BatchPosition position = batches_.position();
  w.begin_object().key("format").value(1).key("step").value(step_).key("tokens").value(tokens_);
  w.key("seconds").value(seconds_).key("cpu_seconds").value(cpu_seconds_).key("mean_loss").value(mean_loss_);
  w.key("position").begin_object().key("epoch").value(position.epoch).key("document").value(position.document);
  w.key("offset").value(position.offset).end_object();
  w.key("data_key").value(inputs_.data->key());
  w.key("settings");
  settings_.write(w);
  w.key("notes").raw(inputs_.notes.empty() ? "{}" : inputs_.notes).end_object();
  return w.text() + "\n";
}

Status Trainer::read_state(const std::string& text, const std::string& place) {
  TRY_ASSIGN(const JsonDocument document, JsonDocument::parse(text, place + "/state.json"));
  JsonObject object, position;
  if (document.root().get(object) != simdjson::SUCCESS || object["position"].get(position) != simdjson::SUCCESS)
    return make_error(Code::kCorrupt, "{}: the state of the run is no object with a position", place);
  BatchPosition at;
  std::string data_key;
  TRY(json_read(object, "tokens", place, &tokens_));
  TRY(json_read(object, "seconds", place, &seconds_));
  TRY(json_read(object, "cpu_seconds", place, &cpu_seconds_));
  TRY(json_read(object, "mean_loss", place, &mean_loss_));
  TRY(json_read(object, "data_key", place, &data_key));
  TRY(json_read(position, "epoch", place, &at.epoch));
  TRY(json_read(position, "document", place, &at.document));
  TRY(json_read(position, "offset", place, &at.offset));
  if (data_key != inputs_.data->key()) {
    return make_error(Code::kInvalidArgument,
                      "{}: the run was begun with other data or another tokenizer ({}, here {}). Hint: its files have "
                      "changed since",
                      place, data_key, inputs_.data->key());
  }
  return batches_.seek(at);
}

Result<TrainSettings> Trainer::settings_of(const RunFolder& folder, std::string* notes) {
  TRY_ASSIGN(const int64_t step, folder.newest());
  TRY_ASSIGN(const std::string text, folder.state(step));
  TRY_ASSIGN(const JsonDocument document, JsonDocument::parse(text, folder.path() + "/state.json"));
  JsonObject object, settings;
  if (document.root().get(object) != simdjson::SUCCESS || object["settings"].get(settings) != simdjson::SUCCESS)
    return make_error(Code::kCorrupt, "{}: the state of the run has no settings", folder.path());
  JsonElement kept;
  if (notes != nullptr && object["notes"].get(kept) == simdjson::SUCCESS) *notes = simdjson::minify(kept);
  return TrainSettings::read(settings, folder.path());
}

Status Trainer::save() {
  if (saved_step_ == step_) return {};
  TRY(folder_.save(step_, weight_tensors(), optimiser_tensors(), state_json()));
  saved_step_ = step_;
  return {};
}

Status Trainer::check_loss(double loss, double norm) const {
  const std::string good = saved_step_ >= 0 ? fmt::format("step {} in {}", saved_step_, folder_.path()) : "none";
  if (!std::isfinite(loss) || !std::isfinite(norm)) {
    return make_error(Code::kCorrupt,
                      "step {}: the loss is {} and the norm of the gradient {}; stopped before the update. Last good "
                      "checkpoint: {}. Hint: a lower --lr, or --precision f32",
                      step_, loss, norm, good);
  }
  if (step_ > kSpikeAfterSteps && loss > mean_loss_ + kSpikeNats) {
    return make_error(Code::kCorrupt,
                      "step {}: the loss jumped to {:.3f} from about {:.3f}; stopped before the update. Last good "
                      "checkpoint: {}. Hint: a lower --lr",
                      step_, loss, mean_loss_, good);
  }
  return {};
}

Status Trainer::one_step(StepReport* report) {
  const int64_t T = settings_.sequence_length, rows = settings_.batch_rows(), micro = micro_rows();
  TRY_ASSIGN(const Batch batch, batches_.next(rows, T));
  int64_t targets = 0, bytes = 0;
  for (const int32_t target : batch.targets) {
    if (target < 0) continue;
    ++targets;
    bytes += inputs_.token_bytes[target];
  }
  TrainOptions options = options_at(step_);
  options.loss_denominator = std::max<int64_t>(targets, 1);
  model_.zero_grads(ctx_);
  TrainLoss sum;
  for (int64_t row = 0; row < rows; row += micro) {
    const TrainBatch part = {micro, T, batch.inputs.data() + row * T, batch.targets.data() + row * T,
                             batch.doc_start.data() + row * T};
    const TrainLoss loss = model_.loss_and_gradients(ctx_, part, options);
    sum.loss += loss.loss;
    sum.main += loss.main;
    sum.mtp += loss.mtp;
    sum.load.resize(loss.load.size());
    for (size_t layer = 0; layer < loss.load.size(); ++layer) {
      sum.load[layer].resize(loss.load[layer].size());
      for (size_t e = 0; e < loss.load[layer].size(); ++e) sum.load[layer][e] += loss.load[layer][e];
    }
  }
  const double norm = optimiser_.gradient_norm(ctx_);
  TRY(check_loss(sum.main, norm));
  const Schedule schedule = settings_.schedule_of_run();
  report->lr_factor = schedule.steps > 0 ? schedule.factor(step_)
                                         : std::min(1.0, static_cast<double>(step_ + 1) / (2 * kMeasuredSteps));
  optimiser_.step(ctx_, norm, report->lr_factor);
  const bool balancing = settings_.tokens == 0 || step_ < settings_.steps() * 9 / 10;
  if (balancing) model_.move_biases(sum.load, settings_.bias_rate);
  model_.pack_weights(ctx_);

  mean_loss_ = step_ == 0 ? sum.main : kMeanLossDecay * mean_loss_ + (1 - kMeanLossDecay) * sum.main;
  ++step_;
  tokens_ += rows * T;
  report->loss = sum.loss;
  report->main = sum.main;
  report->mtp = sum.mtp;
  report->grad_norm = norm;
  report->bits_per_byte =
      bytes > 0 ? sum.main * static_cast<double>(targets) / std::numbers::ln2 / static_cast<double>(bytes) : 0;
  for (const std::vector<int64_t>& layer : sum.load) {
    int64_t all = 0, most = 0;
    for (const int64_t n : layer) {
      all += n;
      most = std::max(most, n);
    }
    if (all > 0)
      report->largest_load =
          std::max(report->largest_load,
                   static_cast<double>(most * static_cast<int64_t>(layer.size())) / static_cast<double>(all));
  }
  return {};
}

void Trainer::find_length() {
  double seconds = 0;
  int64_t tokens = 0;
  for (const auto& [s, n] : recent_) {
    seconds += s;
    tokens += n;
  }
  const double left = std::max(0.0, settings_.minutes * 60 - seconds_);
  const double all = static_cast<double>(tokens_) + left * static_cast<double>(tokens) / seconds;
  settings_.tokens = std::max<int64_t>(1, static_cast<int64_t>(all) / settings_.batch_tokens) * settings_.batch_tokens;
}

Status Trainer::run(const std::atomic<bool>* stop, const TrainCallbacks& callbacks) {
  int64_t saved_ns = now_ns();
  const double flop = train_flop_per_token(inputs_.config, settings_.sequence_length);
  while (!finished()) {
    if (stop != nullptr && stop->load()) {
      TRY(save());
      return make_error(Code::kCancelled,
                        "stopped at step {}; the checkpoint is whole. Go on with: westlake train --resume {}", step_,
                        folder_.path());
    }
    const int64_t start = now_ns();
    const double cpu = process_cpu_seconds();
    StepReport report;
    TRY(one_step(&report));
    const double took = seconds_since(start);
    seconds_ += took;
    cpu_seconds_ += process_cpu_seconds() - cpu;
    if (recent_.size() == kRateSteps) recent_.erase(recent_.begin());
    recent_.push_back({took, settings_.batch_tokens});
    if (settings_.tokens == 0 && step_ >= kMeasuredSteps) find_length();

    double seconds = 0;
    int64_t tokens = 0;
    for (const auto& [s, n] : recent_) {
      seconds += s;
      tokens += n;
    }
    report.step = step_;
    report.steps = settings_.tokens > 0 ? settings_.steps() : 0;
    report.tokens = tokens_;
    report.tokens_per_s = static_cast<double>(tokens) / seconds;
    report.flop_s = report.tokens_per_s * flop;
    report.seconds = seconds_;
    report.cpu_seconds = cpu_seconds_;
    if (report.steps > 0) report.left_s = static_cast<double>(settings_.tokens - tokens_) / report.tokens_per_s;
    const int64_t every =
        settings_.eval_every_steps > 0 ? settings_.eval_every_steps : std::max<int64_t>(1, report.steps / 20);
    if (inputs_.valid != nullptr && (finished() || (report.steps > 0 && step_ % every == 0))) {
      TRY_ASSIGN(const StepReport valid, evaluate());
      report.valid_bits_per_byte = valid.bits_per_byte;
      report.valid_loss = valid.main;
    }
    if (callbacks.step) callbacks.step(report);
    if (finished() || seconds_since(saved_ns) > settings_.checkpoint_minutes * 60) {
      TRY(save());
      saved_ns = now_ns();
      if (callbacks.checkpoint) callbacks.checkpoint(step_);
    }
  }
  return save();
}

Result<StepReport> Trainer::evaluate() {
  const int64_t T = settings_.sequence_length, rows = micro_rows();
  BatchOptions in_order = stream_options(inputs_, settings_);
  in_order.shuffle = false;
  TRY_ASSIGN(BatchStream stream, BatchStream::create(*inputs_.valid, in_order));
  StepReport report;
  double nats = 0;
  int64_t targets = 0, bytes = 0;
  for (int64_t seen = 0; seen < settings_.eval_tokens && stream.position().epoch == 0; seen += rows * T) {
    TRY_ASSIGN(Batch batch, stream.next(rows, T));
    const TrainBatch part = {rows, T, batch.inputs.data(), batch.targets.data(), batch.doc_start.data()};
    const TrainLoss loss = model_.loss(ctx_, part);
    nats += loss.main * static_cast<double>(loss.targets);
    targets += loss.targets;
    for (const int32_t target : batch.targets) bytes += target < 0 ? 0 : inputs_.token_bytes[target];
  }
  if (targets == 0 || bytes == 0)
    return make_error(Code::kInvalidArgument, "the validation text is empty. Hint: --valid names text with documents");
  report.main = nats / static_cast<double>(targets);
  report.bits_per_byte = nats / std::numbers::ln2 / static_cast<double>(bytes);
  return report;
}

}  // namespace westlake
