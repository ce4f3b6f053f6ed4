#include "model/hf_export.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <unordered_map>

#include "base/file.h"
#include "formats/safetensors_writer.h"
#include "model/hf_export_text.h"

namespace westlake {
namespace {

namespace fs = std::filesystem;

bool same_factors(const ModelConfig& config, const std::vector<float>& factors) {
  const Rope plain(config.head_dim, config.rope_theta, RopeScaling());
  const Rope scaled(config.head_dim, config.rope_theta, config.rope_scaling);
  for (size_t i = 0; i < factors.size(); ++i) {
    const float factor = plain.inv_freq()[i] / scaled.inv_freq()[i];
    if (!(std::fabs(factor - factors[i]) <= 1e-4f * factors[i])) return false;
  }
  return true;
}

// The llama3 rule with these factors. All published ones have low_freq_factor 1 and high_freq_factor 4.
bool find_llama3_rule(ModelConfig& config) {
  const std::vector<float> factors = std::move(config.rope_scaling.factors);
  RopeScaling& s = config.rope_scaling;
  s = RopeScaling();
  s.type = RopeScaling::Type::kLlama3;
  const double largest = *std::max_element(factors.begin(), factors.end());
  for (double factor : {std::round(largest), largest, 8.0, 32.0, 2.0, 4.0, 16.0, 64.0}) {
    for (double context = 8192; context >= 256; context /= 2) {
      s.factor = factor, s.original_max_position_embeddings = context;
      if (factor >= 1 && same_factors(config, factors)) return true;
      s.original_max_position_embeddings = 8192 * 8192 / context;
      if (factor >= 1 && same_factors(config, factors)) return true;
    }
  }
  return false;
}

// The folder to be, under a temporary name; gone when it was not moved into place.
class NewFolder {
 public:
  explicit NewFolder(const std::string& path) : path_(path), temporary_(fmt::format("{}.{}.tmp", path, getpid())) {
    while (path_.size() > 1 && path_.ends_with('/')) path_.pop_back();
    temporary_ = fmt::format("{}.{}.tmp", path_, getpid());
  }
  ~NewFolder() {
    std::error_code ignored;
    if (created_) fs::remove_all(temporary_, ignored);
  }
  const std::string& path() const { return temporary_; }

  Status create() {
    std::error_code error;
    fs::remove_all(temporary_, error);
    if (!fs::create_directory(temporary_, error))
      return make_error(Code::kIo, "{}: cannot create the folder: {}", path_, error.message());
    created_ = true;
    return {};
  }

  // Swaps with an old folder in one step, so that a kill leaves one or the other whole.
  Status move_into_place() {
    std::error_code error;
    if (fs::exists(path_, error)) {
      constexpr unsigned kExchange = 2;  // RENAME_EXCHANGE
      if (syscall(SYS_renameat2, AT_FDCWD, temporary_.c_str(), AT_FDCWD, path_.c_str(), kExchange) == 0) return {};
      // A filesystem that cannot exchange: a moment without either.
      const std::string old = temporary_ + ".old";
      fs::rename(path_, old, error);
      if (!error) fs::rename(temporary_, path_, error);
      if (error) return make_error(Code::kIo, "{}: cannot replace the old folder: {}", path_, error.message());
      created_ = false;
      fs::remove_all(old, error);
      return {};
    }
    fs::rename(temporary_, path_, error);
    if (error) return make_error(Code::kIo, "{}: cannot rename {} to it: {}", path_, temporary_, error.message());
    created_ = false;
    return {};
  }

 private:
  std::string path_, temporary_;
  bool created_ = false;
};

// Whether everything in an existing folder is what model folders hold: it will be replaced as a whole.
Status may_replace(const std::string& out) {
  std::error_code error;
  if (!fs::exists(out, error)) return {};
  if (!fs::is_directory(out, error))
    return make_error(Code::kInvalidArgument, "{}: is there and is no folder. Hint: a file is written to NAME.gguf",
                      out);
  constexpr std::string_view kEndings[] = {".json", ".safetensors", ".txt", ".jinja", ".md", ".zst", ".py", ".model"};
  constexpr std::string_view kNames[] = {"LICENSE", "NOTICE", ".gitattributes"};
  bool empty = true, config = false;
  for (const auto& entry : fs::directory_iterator(out, error)) {
    empty = false;
    const std::string name = entry.path().filename().string();
    config = config || name == "config.json";
    const bool known =
        entry.is_regular_file(error) && (std::find(std::begin(kNames), std::end(kNames), name) != std::end(kNames) ||
                                         std::any_of(std::begin(kEndings), std::end(kEndings),
                                                     [&](std::string_view ending) { return name.ends_with(ending); }));
    if (!known)
      return make_error(Code::kInvalidArgument,
                        "{}: holds '{}', which is no part of a model; the folder would be replaced as a whole. Hint: "
                        "name a folder that is not there",
                        out, name);
  }
  if (!empty && !config)
    return make_error(Code::kInvalidArgument,
                      "{}: is a folder without config.json, and would be replaced as a whole. "
                      "Hint: name a folder that is not there",
                      out);
  return {};
}

DType natural_dtype(const ExportSource& source) {
  const DType stored = source.weights->embed_tokens.dtype;
  if (is_quantised(stored)) return DType::kF16;
  return stored == DType::kF8E4M3 ? DType::kBF16 : stored;
}

Status write_tensors(ThreadPool& pool, const ExportSource& source, const std::vector<ExportTensor>& tensors,
                     const std::string& folder, const FolderExportOptions& options, uint64_t total_bytes,
                     const ExportProgress& progress) {
  std::vector<TensorSpec> specs;
  std::unordered_map<std::string_view, const ExportTensor*> by_name;
  for (const ExportTensor& tensor : tensors) {
    specs.push_back(tensor.spec);
    by_name[tensor.spec.name] = &tensor;
  }
  SafetensorsWriterOptions writer_options;
  writer_options.shard_limit_bytes = options.shard_limit_bytes;
  TRY_ASSIGN(SafetensorsWriter writer, SafetensorsWriter::create_folder(folder, std::move(specs), writer_options));
  uint64_t done = 0;
  for (const TensorSpec& spec : writer.tensors()) {
    TRY(stream_tensor(pool, *by_name.at(spec.name), source.place, [&](std::span<const std::byte> bytes) -> Status {
      TRY(writer.write(bytes));
      done += bytes.size();
      if (progress && !progress(done, total_bytes)) return make_error(Code::kCancelled, "{}: stopped", folder);
      return {};
    }));
  }
  return writer.finish();
}

}  // namespace

Result<ModelConfig> published_config(const ModelConfig& config, std::string_view place) {
  ModelConfig published = config;
  if (config.rope_scaling.type == RopeScaling::Type::kFactors && !find_llama3_rule(published)) {
    return make_error(
        Code::kUnsupported,
        "{}: rope_freqs.weight is none of the llama3 rules that are published; config.json has no key for "
        "free factors",
        place);
  }
  TRY_ASSIGN(const ModelConfig back, ModelConfig::from_json(published.to_json(), "config.json to be"));
  if (back == published) return published;
  if (back.qkv_bias != published.qkv_bias || back.o_bias != published.o_bias) {
    return make_error(Code::kUnsupported,
                      "{}: a {} model with biases on q, k, v: {}, on o: {} has no published form: one key says both",
                      place, published.model_type, published.qkv_bias, published.o_bias);
  }
  return make_error(Code::kUnsupported, "{}: config.json has no keys for all of this model's config", place);
}

Result<ExportReport> export_folder(ThreadPool& pool, const Checkpoint& checkpoint, const std::string& out,
                                   const FolderExportOptions& options, const ExportProgress& progress) {
  std::error_code ignored;
  if (fs::equivalent(checkpoint.path(), out, ignored))
    return make_error(Code::kInvalidArgument, "{}: is both the source and the target. Hint: name another folder", out);
  TRY(may_replace(out));
  TRY_ASSIGN(ExportSource source, ExportSource::open(checkpoint));
  if (!options.mtp) source.config.num_nextn_predict_layers = 0;
  TRY_ASSIGN(const ModelConfig config, published_config(source.config, checkpoint.path()));
  const DType dtype = options.dtype.value_or(natural_dtype(source));
  // A router in fewer bits than it had would choose other experts; elsewhere one dtype is what loaders expect.
  auto choose = [&](const WeightSpec& spec, int64_t) {
    if (!spec.router) return dtype;
    const Mat* gate = std::holds_alternative<Mat*>(spec.target) ? std::get<Mat*>(spec.target) : nullptr;
    return gate != nullptr && gate->dtype == dtype ? dtype : DType::kF32;
  };
  const std::vector<ExportTensor> tensors = export_tensors(source, WeightFormat::kPublished, options.mtp, choose);
  ExportReport report;
  report.tensors = static_cast<int64_t>(tensors.size());
  for (const ExportTensor& tensor : tensors)
    report.bytes += static_cast<uint64_t>(*tensor_bytes(tensor.spec.dtype, tensor.spec.shape));

  NewFolder folder(out);
  TRY(folder.create());
  TRY(write_tensors(pool, source, tensors, folder.path(), options, report.bytes, progress));
  TRY(write_folder_texts(checkpoint, config, dtype, options.tokenizer, folder.path(), &report.notes));
  TRY(folder.move_into_place());
  return report;
}

}  // namespace westlake
