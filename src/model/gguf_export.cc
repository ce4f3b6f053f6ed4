#include "model/gguf_export.h"

#include <filesystem>

#include "base/file.h"
#include "formats/gguf_writer.h"
#include "model/gguf_export_metadata.h"
#include "model/text_bundle.h"
#include "tensor/codec.h"

namespace westlake {
namespace {

std::string base_name(const std::string& path) {
  std::filesystem::path p(path);
  if (!p.has_filename()) p = p.parent_path();
  return p.extension() == ".gguf" ? p.stem().string() : p.filename().string();
}

// A GGUF that becomes another keeps what it says about itself and its tokenizer, to the letter.
void copy_text_keys(const Gguf& gguf, bool tokenizer, GgufMetadata* out) {
  for (const GgufEntry& entry : gguf.metadata()) {
    const bool general = entry.key.starts_with("general.") && entry.key != "general.architecture";
    if (general || (tokenizer && entry.key.starts_with("tokenizer."))) out->set_value(entry.key, entry.value);
  }
}

Status set_text_keys(const Checkpoint& checkpoint, int64_t vocab_size, GgufMetadata* out, ExportNotes* notes) {
  const auto bundle = TextBundle::open(checkpoint.path());
  if (!bundle.ok()) {
    if (bundle.error().code != Code::kNotFound) {
      Error error = bundle.error();
      error.message += ". Hint: --no-tokenizer leaves the tokenizer out";
      return error;
    }
    notes->add("there is no tokenizer: the file says so, and runs on token ids alone");
    set_no_tokenizer_keys(out);
    return {};
  }
  TRY_ASSIGN(const GgufVocab vocab, bundle->tokenizer.to_gguf_vocab());
  TRY(set_tokenizer_keys(vocab, vocab_size, checkpoint.eos_token_ids(), checkpoint.path(), out));
  if (!bundle->chat_template_source.empty()) out->set_string("tokenizer.chat_template", bundle->chat_template_source);
  return {};
}

Result<GgufMetadata> metadata_of(const Checkpoint& checkpoint, const ModelConfig& config,
                                 const GgufExportOptions& options, ExportNotes* notes) {
  GgufMetadata metadata;
  TRY(set_architecture_keys(config, checkpoint.path(), &metadata, notes));
  metadata.set_string("general.type", "model");
  metadata.set_string("general.name", base_name(checkpoint.path()));
  if (checkpoint.gguf() != nullptr) {
    copy_text_keys(*checkpoint.gguf(), options.tokenizer, &metadata);
    if (!options.tokenizer) set_no_tokenizer_keys(&metadata);
  } else if (options.tokenizer) {
    TRY(set_text_keys(checkpoint, config.vocab_size, &metadata, notes));
  } else {
    set_no_tokenizer_keys(&metadata);
  }
  set_file_type_keys(options.quant, &metadata);
  return metadata;
}

// The file that is written must not be one that is read.
Status refuse_self(const Checkpoint& checkpoint, const std::string& out) {
  std::error_code ignored;
  const std::optional<GgufPartName> parts = gguf_part_name(checkpoint.path());
  for (int part = 1; part <= (parts ? parts->count : 1); ++part) {
    const std::string source = parts ? parts->path_of(part) : checkpoint.path();
    if (std::filesystem::equivalent(source, out, ignored))
      return make_error(Code::kInvalidArgument, "{}: is both the source and the target. Hint: name another file", out);
  }
  if (is_directory(out))
    return make_error(Code::kInvalidArgument, "{}: is a folder, expected the name of a file to write", out);
  return {};
}

// llama.cpp's factors for Llama 3's rule: a tensor that no published checkpoint has.
std::optional<ExportTensor> rope_tensor(const std::vector<float>& factors) {
  if (factors.empty()) return std::nullopt;
  ExportTensor tensor;
  tensor.rows = 1;
  tensor.cols = static_cast<int64_t>(factors.size());
  tensor.spec = {"rope_freqs.weight", DType::kF32, {tensor.cols}};
  tensor.make = [factors](ThreadPool&, float* out) { std::copy(factors.begin(), factors.end(), out); };
  return tensor;
}

}  // namespace

Result<DType> parse_export_dtype(std::string_view name) {
  std::string known;
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8_0, DType::kQ6_K, DType::kQ5_K, DType::kQ4_K,
                      DType::kQ5_0, DType::kQ5_1, DType::kQ4_0, DType::kQ4_1}) {
    if (!can_quantise(dtype)) continue;
    if (dtype_name(dtype) == name) return dtype;
    known += (known.empty() ? "" : ", ") + std::string(dtype_name(dtype));
  }
  return make_error(Code::kInvalidArgument, "--quant {}: unknown, expected one of {}", name, known);
}

Result<GgufPlan> plan_gguf(const Checkpoint& checkpoint, const GgufExportOptions& options) {
  GgufPlan plan;
  TRY_ASSIGN(plan.source, ExportSource::open(checkpoint));
  ModelConfig& config = plan.source.config;
  if (!options.mtp) config.num_nextn_predict_layers = 0;
  ExportNotes notes;
  TRY_ASSIGN(plan.metadata, metadata_of(checkpoint, config, options, &notes));
  plan.tensors =
      export_tensors(plan.source, WeightFormat::kGguf, options.mtp, gguf_dtypes(config, options.quant, &notes));
  if (auto rope = rope_tensor(rope_factors(config))) plan.tensors.push_back(std::move(*rope));
  if (config.num_nextn_predict_layers > 0)
    notes.add(
        "the multi-token-prediction module is written as nextn.*; readers that do not know it refuse the file. "
        "--no-mtp leaves it out");
  plan.notes = notes.all();
  for (const ExportTensor& tensor : plan.tensors)
    plan.bytes += static_cast<uint64_t>(*tensor_bytes(tensor.spec.dtype, tensor.spec.shape));
  return plan;
}

Status write_gguf(ThreadPool& pool, const GgufPlan& plan, const std::string& out, const ExportProgress& progress) {
  std::vector<TensorSpec> specs;
  for (const ExportTensor& tensor : plan.tensors) specs.push_back(tensor.spec);
  TRY_ASSIGN(GgufWriter writer, GgufWriter::create(out, plan.metadata, std::move(specs)));
  uint64_t done = 0;
  for (const ExportTensor& tensor : plan.tensors) {
    TRY(stream_tensor(pool, tensor, plan.source.place, [&](std::span<const std::byte> bytes) -> Status {
      TRY(writer.write(bytes));
      done += bytes.size();
      if (progress && !progress(done, plan.bytes)) return make_error(Code::kCancelled, "{}: stopped", out);
      return {};
    }));
  }
  return writer.finish();
}

Result<ExportReport> export_gguf(ThreadPool& pool, const Checkpoint& checkpoint, const std::string& out,
                                 const GgufExportOptions& options, const ExportProgress& progress) {
  TRY(refuse_self(checkpoint, out));
  TRY_ASSIGN(const GgufPlan plan, plan_gguf(checkpoint, options));
  TRY(write_gguf(pool, plan, out, progress));
  return ExportReport{static_cast<int64_t>(plan.tensors.size()), plan.bytes, plan.notes};
}

}  // namespace westlake
