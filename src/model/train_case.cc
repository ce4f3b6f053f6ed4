#include "model/train_case.h"

#include <cmath>
#include <filesystem>
#include <limits>

#include "base/file.h"
#include "base/json.h"
#include "formats/npy.h"
#include "model/checkpoint.h"
#include "tensor/codec.h"

namespace westlake {
namespace {

double relative(double ours, double expected) {
  const double d = std::fabs(ours - expected) / std::max(std::fabs(expected), 1e-30);
  return std::isnan(d) ? std::numeric_limits<double>::infinity() : d;
}

Status read_meta(TrainCase* c) {
  const std::string place = c->folder + "/meta.json";
  TRY_ASSIGN(c->meta, read_file(place, 16 << 20));
  TRY_ASSIGN(const JsonDocument document, JsonDocument::parse(c->meta, place));
  JsonObject meta, inner;
  if (document.root().get(meta) != simdjson::SUCCESS) return make_error(Code::kCorrupt, "{}: is no JSON object", place);
  if (meta.at_key("mtp").get(inner) == simdjson::SUCCESS) TRY(json_read(inner, "weight", place, &c->mtp_weight));
  if (meta.at_key("suggested_tolerance").get(inner) == simdjson::SUCCESS) {
    TRY(json_read(inner, "loss_rel", place, &c->loss_rel));
    TRY(json_read(inner, "grad_norm_rel", place, &c->grad_norm_rel));
    TRY(json_read(inner, "grads_rel_l2_per_tensor", place, &c->grads_rel_l2));
    TRY(json_read(inner, "update_rel_l2_per_tensor", place, &c->update_rel_l2));
    TRY(json_read(inner, "final_abs", place, &c->final_abs));
  }
  return {};
}

Status read_batch(TrainCase* c) {
  const std::string place = c->folder + "/batch.npy";
  TRY_ASSIGN(const Npy array, Npy::open(place));
  const std::vector<int64_t>& shape = array.view().shape;
  if (shape.size() != 3 || shape[0] < 1 || shape[1] < 1 || shape[2] < 2)
    return make_error(Code::kCorrupt, "{}: is {}, expected [steps, B, T+1]", place, shape_text(shape));
  c->steps = shape[0];
  c->B = shape[1];
  c->T = shape[2] - 1;
  TRY_ASSIGN(const std::vector<int32_t> ids, array.int32s());
  for (int32_t id : ids) {
    if (id < 0 || id >= c->config.vocab_size)
      return make_error(Code::kCorrupt, "{}: token {} is out of 0..{}", place, id, c->config.vocab_size - 1);
  }
  for (int64_t row = 0; row < c->steps * c->B; ++row) {
    const int32_t* first = ids.data() + row * (c->T + 1);
    c->inputs.insert(c->inputs.end(), first, first + c->T);
    c->targets.insert(c->targets.end(), first + 1, first + c->T + 1);
  }
  c->doc_start.assign(c->inputs.size(), 0);
  return {};
}

// A series over the steps; empty where the file is absent and may be.
Status read_series(const TrainCase& c, const char* name, bool required, std::vector<float>* out) {
  const std::string place = c.folder + "/" + name;
  if (!required && !is_file(place)) return {};
  TRY_ASSIGN(const Npy array, Npy::open(place));
  if (array.view().shape != std::vector<int64_t>{c.steps})
    return make_error(Code::kCorrupt, "{}: is {}, expected [{}]", place, shape_text(array.view().shape), c.steps);
  TRY_ASSIGN(*out, array.floats());
  return {};
}

Status read_balance(TrainCase* c) {
  const std::vector<int64_t> shape = {c->steps, c->moe_layers(), c->config.n_routed_experts};
  for (const char* name : {"load.npy", "bias.npy"}) {
    const std::string place = c->folder + "/" + name;
    if (!is_file(place)) continue;
    TRY_ASSIGN(const Npy array, Npy::open(place));
    if (array.view().shape != shape)
      return make_error(Code::kCorrupt, "{}: is {}, expected {}", place, shape_text(array.view().shape),
                        shape_text(shape));
    if (array.view().dtype == DType::kF32) {
      TRY_ASSIGN(c->bias, array.floats());
    } else {
      TRY_ASSIGN(c->load, array.int32s());
    }
  }
  return {};
}

}  // namespace

TrainBatch TrainCase::batch(int64_t step) const {
  const int64_t at = step * B * T;
  return {B, T, inputs.data() + at, targets.data() + at, doc_start.data() + at};
}

TrainOptions TrainCase::options() const {
  TrainOptions options;
  options.mtp_weight = mtp_weight;
  return options;
}

int64_t TrainCase::moe_layers() const {
  int64_t n = 0;
  for (int64_t i = 0; i < config.num_hidden_layers + config.num_nextn_predict_layers; ++i) n += config.is_moe_layer(i);
  return n;
}

bool is_train_case(const std::string& folder) {
  return is_file(folder + "/batch.npy") && is_file(folder + "/loss.npy");
}

Result<TrainCase> open_train_case(const std::string& folder) {
  TrainCase c;
  c.folder = folder;
  const std::filesystem::path path(folder);
  c.name = (path.has_filename() ? path : path.parent_path()).filename().string();
  TRY_ASSIGN(const std::string text, read_file(folder + "/config.json", 16 << 20));
  TRY_ASSIGN(c.config, ModelConfig::from_json(text, folder + "/config.json"));
  TRY(read_meta(&c));
  TRY(read_batch(&c));
  TRY(read_series(c, "loss.npy", true, &c.loss));
  TRY(read_series(c, "grad_norm.npy", true, &c.grad_norm));
  TRY(read_series(c, "loss_main.npy", false, &c.loss_main));
  TRY(read_series(c, "loss_mtp.npy", false, &c.loss_mtp));
  TRY(read_balance(&c));
  return c;
}

template <typename Real>
Result<TrainModel<Real>> load_train_case_model(const TrainCase& c) {
  TRY_ASSIGN(const Checkpoint checkpoint, Checkpoint::open(c.folder));
  TRY_ASSIGN(TrainModel<Real> model, TrainModel<Real>::create(c.config));
  TRY(model.load(checkpoint));
  return model;
}

void check_train_loss(const TrainCase& c, int64_t step, const TrainLoss& loss, double rel_tolerance,
                      std::vector<std::string>* failures) {
  const auto check = [&](const char* what, double ours, double expected) {
    const double d = relative(ours, expected);
    if (d <= rel_tolerance) return;
    failures->push_back(fmt::format("step {}: {} is {:.8g}, expected {:.8g}, off by {:.2g}, tolerance {:.2g}", step,
                                    what, ours, expected, d, rel_tolerance));
  };
  check("loss", loss.loss, c.loss[step]);
  if (!c.loss_main.empty()) check("main loss", loss.main, c.loss_main[step]);
  if (!c.loss_mtp.empty()) check("mtp loss", loss.mtp, c.loss_mtp[step]);
  const int64_t layers = c.moe_layers(), E = c.config.n_routed_experts;
  if (c.load.empty()) return;
  if (static_cast<int64_t>(loss.load.size()) != layers)
    return failures->push_back(fmt::format("step {}: {} loads, expected {}", step, loss.load.size(), layers));
  for (int64_t i = 0; i < layers * E; ++i) {
    const int64_t expected = c.load[step * layers * E + i], ours = loss.load[i / E][i % E];
    if (ours == expected) continue;
    return failures->push_back(fmt::format("step {}: expert {} of MoE layer {} received {} tokens, expected {}", step,
                                           i % E, i / E, ours, expected));
  }
}

template <typename Real>
double gradient_norm(TrainModel<Real>& model) {
  double sum = 0;
  for (const TrainParam<Real>& p : model.params()) {
    for (int64_t i = 0; i < p.rows * p.cols; ++i) sum += static_cast<double>(p.grad[i]) * p.grad[i];
  }
  return std::sqrt(sum);
}

template <typename Real>
Result<TensorDifference> compare_tensors(const TrainCase& c, TrainModel<Real>& model, const std::string& file,
                                         bool gradients, bool minus_initial) {
  const std::string place = c.folder + "/" + file, initial_place = c.folder + "/model.safetensors";
  TRY_ASSIGN(const Safetensors tensors, Safetensors::open(place));
  TRY_ASSIGN(const Safetensors initial, Safetensors::open(initial_place));
  TensorDifference result;
  for (const TrainParam<Real>& p : model.params()) {
    const int64_t n = p.rows * p.cols;
    const auto read = [&](const Safetensors& from, const std::string& path) -> Result<std::vector<float>> {
      const TensorView* view = from.find(p.name);
      if (view == nullptr) return make_error(Code::kNotFound, "{}: tensor '{}' is missing", path, p.name);
      if (view->shape != p.shape)
        return make_error(Code::kCorrupt, "{}: tensor '{}' is {}, config says {}", path, p.name,
                          shape_text(view->shape), shape_text(p.shape));
      std::vector<float> values(n);
      dequantise_row(view->dtype, view->data, n, values.data());
      return values;
    };
    TRY_ASSIGN(const std::vector<float> expected, read(tensors, place));
    std::vector<float> base;
    if (minus_initial) {
      TRY_ASSIGN(base, read(initial, initial_place));
    }
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < n; ++i) {
      const double ours = static_cast<double>(gradients ? p.grad[i] : p.value[i]);
      const double d = ours - expected[i], reference = expected[i] - (minus_initial ? base[i] : 0.0);
      difference += d * d;
      norm += reference * reference;
      if (!(std::fabs(d) <= result.max_abs))
        result.max_abs = std::isnan(d) ? std::numeric_limits<double>::infinity() : std::fabs(d);
    }
    // A gradient that is zero (an expert without tokens) must be zero here too.
    double rel = norm > 0 ? std::sqrt(difference / norm) : difference > 0 ? 1.0 : 0.0;
    if (std::isnan(rel)) rel = std::numeric_limits<double>::infinity();
    ++result.compared;
    if (rel > result.rel_l2 || result.worst.empty()) {
      result.rel_l2 = rel;
      result.worst = p.name;
    }
  }
  return result;
}

template <typename Real>
Result<TrainStepReport> check_first_step(TrainContext<Real>& ctx, const TrainCase& c, TrainModel<Real>& model) {
  TrainStepReport report;
  model.zero_grads(ctx);
  model.pack_weights(ctx);
  const TrainLoss loss = model.loss_and_gradients(ctx, c.batch(0), c.options());
  check_train_loss(c, 0, loss, c.loss_rel, &report.failures);
  report.loss_rel = relative(loss.loss, c.loss[0]);
  report.grad_norm_rel = relative(gradient_norm(model), c.grad_norm[0]);
  if (!(report.grad_norm_rel <= c.grad_norm_rel))
    report.failures.push_back(fmt::format("the norm of the gradients is off by {:.2g}, tolerance {:.2g}",
                                          report.grad_norm_rel, c.grad_norm_rel));
  TRY_ASSIGN(report.grads, compare_tensors(c, model, "grads.safetensors", true, false));
  if (!(report.grads.rel_l2 <= c.grads_rel_l2))
    report.failures.push_back(fmt::format("the gradient of '{}' is off by {:.2g}, tolerance {:.2g}", report.grads.worst,
                                          report.grads.rel_l2, c.grads_rel_l2));
  return report;
}

#define WESTLAKE_FOR_REAL(Real)                                                                                    \
  template Result<TrainModel<Real>> load_train_case_model(const TrainCase&);                                       \
  template double gradient_norm(TrainModel<Real>&);                                                                \
  template Result<TensorDifference> compare_tensors(const TrainCase&, TrainModel<Real>&, const std::string&, bool, \
                                                    bool);                                                         \
  template Result<TrainStepReport> check_first_step(TrainContext<Real>&, const TrainCase&, TrainModel<Real>&);
WESTLAKE_FOR_REAL(float)
WESTLAKE_FOR_REAL(double)
#undef WESTLAKE_FOR_REAL

}  // namespace westlake
