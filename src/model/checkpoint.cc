#include "model/checkpoint.h"

#include <cmath>
#include <limits>

#include "base/file.h"
#include "base/json.h"

namespace westlake {
namespace {

// eos_token_id is a number or a list of numbers.
Status read_eos(const std::string& path, std::vector<int32_t>* ids) {
  TRY_ASSIGN(const std::string text, read_file(path, 1 << 20));
  TRY_ASSIGN(const JsonDocument document, JsonDocument::parse(text, path));
  JsonObject object;
  JsonElement element;
  if (document.root().get(object) != simdjson::SUCCESS)
    return make_error(Code::kCorrupt, "{}: is no JSON object", path);
  if (object.at_key("eos_token_id").get(element) != simdjson::SUCCESS || element.is_null()) return {};
  auto add = [&](JsonElement value) -> Status {
    int64_t id = 0;
    if (value.get(id) != simdjson::SUCCESS || id < 0 || id > INT32_MAX)
      return make_error(Code::kCorrupt, "{}: 'eos_token_id' holds {}, expected token ids", path, json_preview(value));
    ids->push_back(static_cast<int32_t>(id));
    return {};
  };
  JsonArray list;
  if (element.get(list) != simdjson::SUCCESS) return add(element);
  for (JsonElement value : list) TRY(add(value));
  return {};
}

// What a sampler would refuse is no advice.
void drop_absurd(SamplingDefaults* d) {
  const auto keep = [](auto& value, double least, double most) {
    if (value && !(static_cast<double>(*value) >= least && static_cast<double>(*value) <= most)) value.reset();
  };
  keep(d->temperature, 0, 100);
  keep(d->top_p, 1e-6, 1);
  keep(d->min_p, 0, 1);
  keep(d->repetition_penalty, 1e-6, 100);
  keep(d->top_k, 0, 1e9);
}

// generation_config.json. "do_sample": false alone is the default of a library, not a wish: temperatures count.
Status read_sampling(const std::string& path, SamplingDefaults* d) {
  TRY_ASSIGN(const std::string text, read_file(path, 1 << 20));
  TRY_ASSIGN(const JsonDocument document, JsonDocument::parse(text, path));
  JsonObject object;
  if (document.root().get(object) != simdjson::SUCCESS)
    return make_error(Code::kCorrupt, "{}: is no JSON object", path);
  const auto number = [&](const char* key, std::optional<double>* out) {
    double value = 0;
    if (object.at_key(key).get(value) == simdjson::SUCCESS) *out = value;
  };
  number("temperature", &d->temperature);
  number("top_p", &d->top_p);
  number("min_p", &d->min_p);
  number("repetition_penalty", &d->repetition_penalty);
  int64_t top_k = 0;
  if (object.at_key("top_k").get(top_k) == simdjson::SUCCESS) d->top_k = top_k;
  drop_absurd(d);
  return {};
}

// general.sampling.* of a GGUF. A key of another type is passed over: it is advice.
void read_sampling(const Gguf& gguf, SamplingDefaults* d) {
  const auto number = [&](const char* key, std::optional<double>* out) {
    double value = std::numeric_limits<double>::quiet_NaN();
    if (gguf.read(key, &value).ok() && !std::isnan(value)) *out = value;
  };
  number("general.sampling.temp", &d->temperature);
  number("general.sampling.top_p", &d->top_p);
  number("general.sampling.min_p", &d->min_p);
  number("general.sampling.penalty_repeat", &d->repetition_penalty);
  int64_t top_k = -1;
  if (gguf.read("general.sampling.top_k", &top_k).ok()) d->top_k = top_k;
  drop_absurd(d);
}

}  // namespace

Result<Checkpoint> Checkpoint::open(const std::string& path) {
  Checkpoint checkpoint;
  checkpoint.path_ = path;
  if (is_directory(path)) {
    const std::string config_path = path + "/config.json";
    if (!is_file(config_path)) {
      return make_error(Code::kNotFound,
                        "{}: has no config.json. Hint: name a model folder (config.json, *.safetensors, "
                        "tokenizer.json) or a .gguf file",
                        path);
    }
    TRY_ASSIGN(const std::string text, read_file(config_path, 16 << 20));
    TRY_ASSIGN(checkpoint.config_, ModelConfig::from_json(text, config_path));
    TRY_ASSIGN(SafetensorsSet tensors, SafetensorsSet::open(path));
    checkpoint.safetensors_ = std::make_unique<SafetensorsSet>(std::move(tensors));
    const std::string generation = path + "/generation_config.json";
    TRY(read_eos(is_file(generation) ? generation : config_path, &checkpoint.eos_token_ids_));
    if (is_file(generation)) TRY(read_sampling(generation, &checkpoint.sampling_defaults_));
    return checkpoint;
  }
  TRY_ASSIGN(Gguf gguf, Gguf::open(path));
  TRY_ASSIGN(checkpoint.config_, ModelConfig::from_gguf(gguf, path));
  int64_t eos = -1;
  TRY(gguf.read("tokenizer.ggml.eos_token_id", &eos));
  if (eos >= 0 && eos < checkpoint.config_.vocab_size) checkpoint.eos_token_ids_.push_back(static_cast<int32_t>(eos));
  read_sampling(gguf, &checkpoint.sampling_defaults_);
  checkpoint.gguf_ = std::make_unique<Gguf>(std::move(gguf));
  return checkpoint;
}

int64_t Checkpoint::file_bytes() const {
  return gguf_ ? gguf_->file_bytes() : safetensors_->file_bytes();
}

std::vector<std::string> Checkpoint::files() const {
  return gguf_ ? gguf_->files() : safetensors_->files();
}

const std::vector<NamedTensor>& Checkpoint::tensors() const {
  return gguf_ ? gguf_->tensors() : safetensors_->tensors();
}

void Checkpoint::will_need() const {
  if (gguf_) {
    gguf_->will_need();
  } else {
    safetensors_->will_need();
  }
}

TensorSource Checkpoint::tensor_source() const {
  TensorSource source;
  source.place = path_;
  source.format = format();
  for (const NamedTensor& tensor : tensors()) source.names.push_back(tensor.name);
  if (gguf_) {
    source.find = [gguf = gguf_.get()](std::string_view name) { return gguf->find(name); };
  } else {
    source.find = [set = safetensors_.get()](std::string_view name) { return set->find(name); };
  }
  return source;
}

}  // namespace westlake
