#include "train/run_folder.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "base/file.h"
#include "base/json.h"
#include "formats/safetensors.h"
#include "formats/safetensors_writer.h"
#include "model/hf_export_text.h"

namespace westlake {
namespace {

namespace fs = std::filesystem;
constexpr int kKept = 2;

Status sync_folder(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY);
  if (fd < 0) return make_error(Code::kIo, "{}: {}", path, errno_text(errno));
  const int failed = ::fsync(fd);
  const int error = errno;
  ::close(fd);
  if (failed != 0) return make_error(Code::kIo, "{}: {}", path, errno_text(error));
  return {};
}

Status make_folder(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) return make_error(Code::kIo, "{}: {}", path, error.message());
  return {};
}

Status write_tensors(const std::string& path, const std::vector<RunTensor>& tensors) {
  std::vector<TensorSpec> specs;
  for (const RunTensor& t : tensors) specs.push_back({t.name, DType::kF32, t.shape});
  TRY_ASSIGN(SafetensorsWriter writer, SafetensorsWriter::create_file(path, std::move(specs)));
  for (const TensorSpec& spec : writer.tensors()) {
    const auto t =
        std::find_if(tensors.begin(), tensors.end(), [&](const RunTensor& r) { return r.name == spec.name; });
    CHECK(t != tensors.end());
    TRY(writer.write({reinterpret_cast<const std::byte*>(t->data), static_cast<size_t>(t->numbers) * sizeof(float)}));
  }
  return writer.finish();
}

Status read_tensors(const std::string& path, const std::vector<RunTensor>& tensors) {
  TRY_ASSIGN(const Safetensors file, Safetensors::open(path));
  for (const RunTensor& t : tensors) {
    const TensorView* view = file.find(t.name);
    if (view == nullptr) return make_error(Code::kCorrupt, "{}: there is no tensor '{}'", path, t.name);
    if (view->dtype != DType::kF32 || view->shape != t.shape) {
      return make_error(Code::kCorrupt, "{}: '{}' has {} numbers, expected {} in float32. Hint: another model's run?",
                        path, t.name, view->elements(), t.numbers);
    }
    std::memcpy(t.data, view->data, static_cast<size_t>(t.numbers) * sizeof(float));
  }
  return {};
}

void write_ids(JsonWriter& json, int64_t bos_id, const std::vector<int32_t>& eos_ids) {
  if (bos_id >= 0) json.key("bos_token_id").value(bos_id);
  if (!eos_ids.empty()) {
    json.key("eos_token_id").begin_array();
    for (const int32_t id : eos_ids) json.value(static_cast<int64_t>(id));
    json.end_array();
  }
}

std::string config_text(const ModelConfig& config, int64_t bos_id, const std::vector<int32_t>& eos_ids) {
  JsonWriter json;
  json.begin_object().key("torch_dtype").value("float32");
  write_ids(json, bos_id, eos_ids);
  const std::string own = config.to_json();
  return json.text() + "," + own.substr(1) + "\n";
}

std::string generation_text(int64_t bos_id, const std::vector<int32_t>& eos_ids, const SamplingDefaults& sampling) {
  JsonWriter json;
  json.begin_object();
  write_ids(json, bos_id, eos_ids);
  const auto number = [&](const char* key, const auto& value) {
    if (value) json.key(key).value(*value);
  };
  if (sampling.temperature) json.key("do_sample").value(*sampling.temperature > 0);
  number("temperature", sampling.temperature);
  number("top_p", sampling.top_p);
  number("min_p", sampling.min_p);
  number("top_k", sampling.top_k);
  number("repetition_penalty", sampling.repetition_penalty);
  return json.end_object().text() + "\n";
}

}  // namespace

std::string RunFolder::step_folder(int64_t step) const {
  return fmt::format("{}/trainer/step-{:08}", path_, step);
}

std::vector<int64_t> RunFolder::steps() const {
  std::vector<int64_t> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(path_ + "/trainer", error)) {
    const std::string name = entry.path().filename().string();
    int64_t step = -1;
    int used = 0;
    if (std::sscanf(name.c_str(), "step-%ld%n", &step, &used) == 1 && static_cast<size_t>(used) == name.size())
      found.push_back(step);
  }
  std::sort(found.begin(), found.end());
  return found;
}

// A folder that a run began and left before its first checkpoint is as good as a new one.
Status RunFolder::claim() const {
  if (!steps().empty()) {
    return make_error(Code::kInvalidArgument,
                      "{}: a run is there already (step {}). Hint: --resume {}, or another --out", path_,
                      steps().back(), path_);
  }
  std::error_code error;
  if (fs::exists(path_) && !fs::is_empty(path_, error) && !is_file(file("loss.csv")) &&
      !is_directory(file("trainer"))) {
    return make_error(Code::kInvalidArgument, "{}: is there and is no run, expected a new folder for --out", path_);
  }
  return make_folder(path_ + "/trainer");
}

Status RunFolder::begin(const ModelConfig& config, const std::string& tokenizer, int64_t bos_id,
                        const std::vector<int32_t>& eos_ids) {
  TRY(claim());
  for (const char* name :
       {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"}) {
    if (!is_file(tokenizer + "/" + name)) continue;
    TRY_ASSIGN(const std::string text, read_file(tokenizer + "/" + name));
    TRY(write_file(file(name), text));
  }
  TRY(write_file(file("generation_config.json"), generation_text(bos_id, eos_ids, {})));
  return write_file(file("config.json"), config_text(config, bos_id, eos_ids));
}

Status RunFolder::begin_from(const Checkpoint& source, const ModelConfig& config, int64_t bos_id,
                             const std::vector<int32_t>& eos_ids, const SamplingDefaults& sampling) {
  TRY(claim());
  std::vector<std::string> notes;
  TRY(write_folder_texts(source, config, DType::kF32, true, path_, &notes));
  TRY(write_file(file("generation_config.json"), generation_text(bos_id, eos_ids, sampling)));
  return write_file(file("config.json"), config_text(config, bos_id, eos_ids));
}

Status RunFolder::save(int64_t step, const std::vector<RunTensor>& weights, const std::vector<RunTensor>& optimiser,
                       const std::string& state_json) const {
  const std::string folder = step_folder(step), temporary = folder + ".tmp";
  std::error_code error;
  fs::remove_all(temporary, error);
  TRY(make_folder(temporary));
  const Status written = [&]() -> Status {
    TRY(write_tensors(temporary + "/model.safetensors", weights));
    TRY(write_tensors(temporary + "/optimizer.safetensors", optimiser));
    TRY(write_file(temporary + "/state.json", state_json));
    return sync_folder(temporary);
  }();
  if (!written.ok()) {
    fs::remove_all(temporary, error);
    return written.error().at(fmt::format("checkpoint of step {}", step));
  }
  fs::remove_all(folder, error);
  fs::rename(temporary, folder, error);
  if (error) return make_error(Code::kIo, "{}: {}", folder, error.message());
  TRY(sync_folder(path_ + "/trainer"));

  // A second name for the weights; where the file system has none, a copy.
  const std::string link = file("model.safetensors.tmp");
  fs::remove(link, error);
  fs::create_hard_link(folder + "/model.safetensors", link, error);
  if (error) fs::copy_file(folder + "/model.safetensors", link, error);
  if (!error) fs::rename(link, file("model.safetensors"), error);
  if (error) return make_error(Code::kIo, "{}: {}", file("model.safetensors"), error.message());
  TRY(sync_folder(path_));

  std::vector<int64_t> all = steps();
  while (all.size() > kKept) {
    fs::remove_all(step_folder(all.front()), error);
    all.erase(all.begin());
  }
  return {};
}

Result<int64_t> RunFolder::newest() const {
  const std::vector<int64_t> all = steps();
  for (auto step = all.rbegin(); step != all.rend(); ++step) {
    if (is_file(step_folder(*step) + "/state.json")) return *step;
  }
  return make_error(Code::kNotFound, "{}: there is no checkpoint of a run. Hint: the folder that 'train --out' named",
                    path_);
}

Result<std::string> RunFolder::state(int64_t step) const {
  return read_file(step_folder(step) + "/state.json");
}

Status RunFolder::load(int64_t step, const std::vector<RunTensor>& weights,
                       const std::vector<RunTensor>& optimiser) const {
  TRY(read_tensors(step_folder(step) + "/model.safetensors", weights));
  return read_tensors(step_folder(step) + "/optimizer.safetensors", optimiser);
}

}  // namespace westlake
