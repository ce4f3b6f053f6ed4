#include "train/training_case.h"

#include <cmath>
#include <cstring>
#include <filesystem>

#include "base/file.h"
#include "base/json.h"
#include "formats/npy.h"
#include "formats/safetensors.h"
#include "formats/safetensors_writer.h"
#include "model/checkpoint.h"
#include "train/optimiser.h"

namespace westlake {
namespace {

struct Meta {
  OptimiserOptions optimiser;
  TrainOptions options;
  double gamma = 0;
  double loss_rel = 0, grad_norm_rel = 0, grads = 0, update = 0, final_abs = 0;
};

Status read_muon(const JsonObject& meta, const std::string& place, Meta* m) {
  JsonObject muon;
  m->optimiser.kind = OptimiserKind::kAdamW;
  if (meta["muon"].get(muon) != simdjson::SUCCESS) return {};
  MuonOptions& o = m->optimiser.muon;
  int64_t steps = o.newton_schulz_steps;
  m->optimiser.kind = OptimiserKind::kMuon;
  TRY(json_read(muon, "lr", place, &o.lr));
  TRY(json_read(muon, "momentum", place, &o.momentum));
  TRY(json_read(muon, "weight_decay", place, &o.weight_decay));
  TRY(json_read(muon, "ns_steps", place, &steps));
  o.newton_schulz_steps = static_cast<int>(steps);
  return {};
}

Result<Meta> read_meta(const std::string& folder) {
  const std::string place = folder + "/meta.json";
  TRY_ASSIGN(const std::string text, read_file(place));
  TRY_ASSIGN(const JsonDocument document, JsonDocument::parse(text, place));
  JsonObject meta, adamw, tolerance, part;
  if (document.root().get(meta) != simdjson::SUCCESS || meta["adamw"].get(adamw) != simdjson::SUCCESS ||
      meta["suggested_tolerance"].get(tolerance) != simdjson::SUCCESS)
    return make_error(Code::kCorrupt, "{}: is no object with adamw and suggested_tolerance", place);
  Meta m;
  TRY(json_read(meta, "clip", place, &m.optimiser.clip));
  TRY(json_read(adamw, "lr", place, &m.optimiser.lr));
  TRY(json_read(adamw, "eps", place, &m.optimiser.eps));
  TRY(json_read(adamw, "weight_decay", place, &m.optimiser.weight_decay));
  JsonArray betas;
  if (adamw["betas"].get(betas) != simdjson::SUCCESS || betas.size() != 2 ||
      betas.at(0).get(m.optimiser.beta1) != simdjson::SUCCESS ||
      betas.at(1).get(m.optimiser.beta2) != simdjson::SUCCESS)
    return make_error(Code::kCorrupt, "{}: adamw has no two betas", place);
  TRY(read_muon(meta, place, &m));
  m.options.mtp_weight = 0;
  if (meta["mtp"].get(part) == simdjson::SUCCESS) TRY(json_read(part, "weight", place, &m.options.mtp_weight));
  if (meta["balance"].get(part) == simdjson::SUCCESS) TRY(json_read(part, "gamma", place, &m.gamma));
  TRY(json_read(tolerance, "loss_rel", place, &m.loss_rel));
  TRY(json_read(tolerance, "grad_norm_rel", place, &m.grad_norm_rel));
  TRY(json_read(tolerance, "grads_rel_l2_per_tensor", place, &m.grads));
  TRY(json_read(tolerance, "update_rel_l2_per_tensor", place, &m.update));
  TRY(json_read(tolerance, "final_abs", place, &m.final_abs));
  return m;
}

// What the steps gave, as the folder's files have it.
struct Outcome {
  std::vector<float> loss, main, mtp, norm, bias;
  std::vector<int32_t> load;
  std::vector<std::vector<float>> initial, grads;  // of each parameter
};

Result<std::vector<float>> read_floats(const std::string& path) {
  TRY_ASSIGN(const Npy array, Npy::open(path));
  return array.floats();
}

class Case {
 public:
  Case(TrainContext<float>& ctx, TrainModel<float>& model, const Meta& meta, std::string folder)
      : ctx_(ctx), model_(model), meta_(meta), folder_(std::move(folder)) {}

  Status run() {
    TRY_ASSIGN(const Npy file, Npy::open(folder_ + "/batch.npy"));
    if (file.view().shape.size() != 3)
      return make_error(Code::kCorrupt, "{}/batch.npy: is not [steps, B, T + 1]", folder_);
    steps_ = file.view().shape[0];
    const int64_t B = file.view().shape[1], T = file.view().shape[2] - 1;
    TRY_ASSIGN(const std::vector<int32_t> tokens, file.int32s());
    TRY_ASSIGN(Optimiser<float> optimiser, Optimiser<float>::create(model_.params(), meta_.optimiser));
    ctx_.arena.reserve(std::max(model_.plan(ctx_, B, T, meta_.options), optimiser.plan(ctx_)));
    for (TrainParam<float>& p : model_.params()) outcome_.initial.push_back(values(p.value, p));
    std::vector<int32_t> inputs(B * T), targets(B * T), doc_start(B * T, 0);
    for (int64_t step = 0; step < steps_; ++step) {
      for (int64_t i = 0; i < B * T; ++i) {
        const int32_t* row = tokens.data() + (step * B + i / T) * (T + 1) + i % T;
        inputs[i] = row[0];
        targets[i] = row[1];
      }
      model_.pack_weights(ctx_);
      model_.zero_grads(ctx_);
      const TrainLoss loss =
          model_.loss_and_gradients(ctx_, {B, T, inputs.data(), targets.data(), doc_start.data()}, meta_.options);
      const double norm = optimiser.gradient_norm(ctx_);
      outcome_.loss.push_back(static_cast<float>(loss.loss));
      outcome_.main.push_back(static_cast<float>(loss.main));
      outcome_.mtp.push_back(static_cast<float>(loss.mtp));
      outcome_.norm.push_back(static_cast<float>(norm));
      for (TrainParam<float>& p : model_.params())
        if (step == 0) outcome_.grads.push_back(values(p.grad, p));
      optimiser.step(ctx_, norm, 1);
      if (meta_.gamma > 0) model_.move_biases(loss.load, meta_.gamma);
      for (const std::vector<int64_t>& layer : loss.load)
        outcome_.load.insert(outcome_.load.end(), layer.begin(), layer.end());
      for (float* bias : model_.router_biases())
        outcome_.bias.insert(outcome_.bias.end(), bias, bias + model_.config().n_routed_experts);
    }
    return {};
  }

  Status compare(TrainingReport* report) {
    TRY(compare_steps("loss", "loss.npy", outcome_.loss, meta_.loss_rel, report));
    TRY(compare_steps("loss_main", "loss_main.npy", outcome_.main, meta_.loss_rel, report));
    TRY(compare_steps("loss_mtp", "loss_mtp.npy", outcome_.mtp, meta_.loss_rel, report));
    TRY(compare_steps("grad_norm", "grad_norm.npy", outcome_.norm, meta_.grad_norm_rel, report));
    TRY(compare_grads(report));
    TRY(compare_final(report));
    if (is_file(folder_ + "/load.npy")) {
      TRY_ASSIGN(const Npy file, Npy::open(folder_ + "/load.npy"));
      TRY_ASSIGN(const std::vector<int32_t> load, file.int32s());
      int64_t different = load.size() == outcome_.load.size() ? 0 : static_cast<int64_t>(load.size());
      for (size_t i = 0; i < std::min(load.size(), outcome_.load.size()); ++i) different += load[i] != outcome_.load[i];
      report->differences.push_back({"load", "", static_cast<double>(different), 0});
    }
    if (is_file(folder_ + "/bias.npy")) {
      TRY_ASSIGN(const std::vector<float> bias, read_floats(folder_ + "/bias.npy"));
      double worst = bias.size() == outcome_.bias.size() ? 0 : INFINITY;
      for (size_t i = 0; i < std::min(bias.size(), outcome_.bias.size()); ++i)
        worst = std::max(worst, std::fabs(static_cast<double>(bias[i]) - outcome_.bias[i]));
      report->differences.push_back({"bias", "", worst, 1e-6});
    }
    return {};
  }

  Status dump(const std::string& out) {
    std::error_code error;
    std::filesystem::create_directories(out, error);
    if (error) return make_error(Code::kIo, "{}: {}", out, error.message());
    const int64_t layers = static_cast<int64_t>(model_.router_biases().size()), E = model_.config().n_routed_experts;
    TRY(write_npy(out + "/loss.npy", outcome_.loss, {steps_}));
    TRY(write_npy(out + "/grad_norm.npy", outcome_.norm, {steps_}));
    if (meta_.options.mtp_weight > 0) {
      TRY(write_npy(out + "/loss_main.npy", outcome_.main, {steps_}));
      TRY(write_npy(out + "/loss_mtp.npy", outcome_.mtp, {steps_}));
    }
    if (layers > 0) {
      TRY(write_npy(out + "/load.npy", outcome_.load, {steps_, layers, E}));
      TRY(write_npy(out + "/bias.npy", outcome_.bias, {steps_, layers, E}));
    }
    TRY(dump_tensors(out + "/grads.safetensors", true));
    return dump_tensors(out + "/final.safetensors", false);
  }

 private:
  static std::vector<float> values(const float* x, const TrainParam<float>& p) { return {x, x + p.rows * p.cols}; }

  Status compare_steps(const char* what, const std::string& file, const std::vector<float>& ours, double tolerance,
                       TrainingReport* report) {
    if (!is_file(folder_ + "/" + file)) return {};
    TRY_ASSIGN(const std::vector<float> expected, read_floats(folder_ + "/" + file));
    TrainingDifference d = {what, "", expected.size() == ours.size() ? 0 : INFINITY, tolerance};
    for (size_t i = 0; i < std::min(expected.size(), ours.size()); ++i) {
      const double difference = std::fabs(static_cast<double>(ours[i]) - expected[i]) / std::fabs(expected[i]);
      if (!(difference <= d.difference)) {
        d.difference = difference;
        d.worst = fmt::format("step {}", i);
      }
    }
    report->differences.push_back(d);
    return {};
  }

  // |ours - expected| / |expected - origin| of every tensor; origin may be null.
  Status compare_grads(TrainingReport* report) {
    TRY_ASSIGN(const Safetensors file, Safetensors::open(folder_ + "/grads.safetensors"));
    TrainingDifference d = {"grads", "", 0, meta_.grads};
    size_t i = 0;
    for (TrainParam<float>& p : model_.params()) {
      const std::vector<float>& ours = outcome_.grads[i++];
      TRY_ASSIGN(const std::vector<float> expected, tensor(file, p, report));
      double off = 0, size = 0;
      for (size_t k = 0; k < expected.size(); ++k) {
        off += std::pow(static_cast<double>(ours[k]) - expected[k], 2);
        size += std::pow(static_cast<double>(expected[k]), 2);
      }
      note(&d, p.name, size > 0 ? std::sqrt(off / size) : std::sqrt(off));
    }
    report->differences.push_back(d);
    return {};
  }

  Status compare_final(TrainingReport* report) {
    TRY_ASSIGN(const Safetensors file, Safetensors::open(folder_ + "/final.safetensors"));
    TrainingDifference update = {"update", "", 0, meta_.update}, most = {"final", "", 0, meta_.final_abs};
    size_t i = 0;
    for (TrainParam<float>& p : model_.params()) {
      const std::vector<float>& initial = outcome_.initial[i++];
      TRY_ASSIGN(const std::vector<float> expected, tensor(file, p, report));
      double off = 0, size = 0, largest = 0;
      for (size_t k = 0; k < expected.size(); ++k) {
        const double difference = static_cast<double>(p.value[k]) - expected[k];
        off += difference * difference;
        size += std::pow(static_cast<double>(expected[k]) - initial[k], 2);
        largest = std::isnan(difference) ? INFINITY : std::max(largest, std::fabs(difference));
      }
      note(&update, p.name, size > 0 ? std::sqrt(off / size) : std::sqrt(off));
      note(&most, p.name, largest);
    }
    report->differences.push_back(update);
    report->differences.push_back(most);
    return {};
  }

  static void note(TrainingDifference* d, const std::string& where, double difference) {
    if (difference <= d->difference) return;
    d->difference = std::isnan(difference) ? INFINITY : difference;
    d->worst = where;
  }

  Result<std::vector<float>> tensor(const Safetensors& file, const TrainParam<float>& p, TrainingReport* report) const {
    const TensorView* view = file.find(p.name);
    if (view == nullptr || view->dtype != DType::kF32 || view->shape != p.shape) {
      report->failures.push_back(fmt::format("'{}' is not in the reference, or has another shape", p.name));
      return std::vector<float>();
    }
    std::vector<float> numbers(p.rows * p.cols);
    std::memcpy(numbers.data(), view->data, numbers.size() * sizeof(float));
    return numbers;
  }

  Status dump_tensors(const std::string& path, bool grads) {
    std::vector<TensorSpec> specs;
    for (TrainParam<float>& p : model_.params()) specs.push_back({p.name, DType::kF32, p.shape});
    const int64_t E = model_.config().n_routed_experts;
    if (!grads)
      for (const std::string& name : model_.router_bias_names()) specs.push_back({name, DType::kF32, {E}});
    TRY_ASSIGN(SafetensorsWriter writer, SafetensorsWriter::create_file(path, specs));
    for (const TensorSpec& spec : writer.tensors()) {
      size_t i = 0;
      for (TrainParam<float>& p : model_.params()) {
        const float* data = grads ? outcome_.grads[i].data() : p.value;
        ++i;
        if (p.name == spec.name)
          TRY(writer.write(std::as_bytes(std::span(data, static_cast<size_t>(p.rows * p.cols)))));
      }
      for (size_t b = 0; b < model_.router_bias_names().size(); ++b) {
        if (model_.router_bias_names()[b] == spec.name)
          TRY(writer.write(std::as_bytes(std::span<const float>(model_.router_biases()[b], static_cast<size_t>(E)))));
      }
    }
    return writer.finish();
  }

  TrainContext<float>& ctx_;
  TrainModel<float>& model_;
  const Meta& meta_;
  std::string folder_;
  int64_t steps_ = 0;
  Outcome outcome_;
};

}  // namespace

bool is_training_case(const std::string& folder) {
  return is_file(folder + "/batch.npy");
}

Result<TrainingReport> run_training_case(ThreadPool& pool, const TrainKernels<float>& kernels,
                                         const std::string& folder, const TrainingCaseOptions& options) {
  TrainingReport report;
  report.name = std::filesystem::path(folder).filename().string();
  TRY_ASSIGN(const Meta meta, read_meta(folder));
  TRY_ASSIGN(const Checkpoint checkpoint, Checkpoint::open(folder));
  TRY_ASSIGN(TrainModel<float> model, TrainModel<float>::create(checkpoint.config()));
  TRY(model.load(checkpoint));
  Arena arena;
  TrainContext<float> ctx = {kernels, pool, arena, options.precision};
  Case c(ctx, model, meta, folder);
  TRY(c.run());
  TRY(c.compare(&report));
  if (!options.dump.empty()) TRY(c.dump(options.dump));
  return report;
}

}  // namespace westlake
