#include "model/synth.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "formats/gguf_writer.h"
#include "model/gguf_export_metadata.h"
#include "tensor/random_blocks.h"
#include "text/byte_level.h"

namespace westlake {
namespace {

// The unit of randomness: every part has a generator of its own, so that threads may take parts in any order.
constexpr int64_t kPartBytes = 256 << 10;
constexpr int64_t kPieceParts = 64;

constexpr std::string_view kControl[] = {"<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"};
constexpr std::string_view kTemplate =
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}";

// 256 tokens that are bytes, no merges, control tokens behind them, and filler up to the size. Every text can be
// encoded; every id the model may choose decodes to something.
GgufVocab synthetic_vocab(int64_t vocab_size) {
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte)
    append_byte_level(tokens.emplace_back(), std::string(1, static_cast<char>(byte)));
  GgufVocab vocab;
  vocab.token_types.assign(256, 1);
  for (std::string_view control : kControl) {
    tokens.emplace_back(control);
    vocab.token_types.push_back(3);
  }
  for (int64_t i = static_cast<int64_t>(tokens.size()); i < vocab_size; ++i) tokens.push_back(fmt::format("w{}", i));
  vocab.token_types.resize(tokens.size(), 1);

  auto storage = std::make_shared<std::string>();
  for (const std::string& token : tokens) *storage += token;
  size_t at = 0;
  for (const std::string& token : tokens) {
    vocab.tokens.push_back(std::string_view(*storage).substr(at, token.size()));
    at += token.size();
  }
  vocab.storage = storage;
  vocab.pre = "gpt-2";
  vocab.bos_id = 256;
  vocab.eos_id = 257;
  vocab.add_bos = false;
  return vocab;
}

// Exactly the tensors of a published file: no kv_b_proj beside its halves, no copies of the embedding in MTP modules.
bool is_written(const WeightSpec& spec) {
  return !spec.optional || spec.layout != GgufLayout::kSame || spec.name == "lm_head.weight";
}

bool is_norm(const WeightSpec& spec) {
  return spec.shape.size() == 1 && spec.gguf_name.ends_with("norm.weight");
}

float deviation(const WeightSpec& spec) {
  if (spec.shape.size() == 1) return 0.02f;
  return static_cast<float>(1 / std::sqrt(static_cast<double>(spec.shape.back())));
}

struct Random {
  ThreadPool& pool;
  uint64_t seed;
};

// One tensor's bytes, in pieces.
Status write_random(const Random& random, const GgufTensor& tensor, uint64_t index, const ExportSink& sink) {
  const WeightSpec& spec = *tensor.parts[0];
  const DType dtype = tensor.spec.dtype;
  const int64_t total = *tensor_bytes(dtype, tensor.spec.shape);
  const int64_t block = dtype_info(dtype).block_bytes, part_bytes = kPartBytes / block * block;
  const int64_t piece_bytes = std::min(total, part_bytes * kPieceParts);
  std::vector<std::byte> piece(piece_bytes);
  for (int64_t first = 0; first < total; first += piece_bytes) {
    const int64_t bytes = std::min(piece_bytes, total - first), parts = (bytes + part_bytes - 1) / part_bytes;
    random.pool.for_each_chunk(parts, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t part = begin; part < end; ++part) {
        uint64_t state = random.seed;
        state = splitmix64(state) + index;
        state = splitmix64(state) + static_cast<uint64_t>(first / part_bytes + part);
        Rng rng(splitmix64(state));
        const int64_t at = part * part_bytes;
        fill_random_blocks(dtype, rng, deviation(spec), std::span(piece).subspan(at, std::min(part_bytes, bytes - at)));
      }
    });
    if (is_norm(spec)) {  // a vector of float32 around one
      CHECK(dtype == DType::kF32);
      for (int64_t at = 0; at < bytes; at += 4) {
        float value;
        std::memcpy(&value, piece.data() + at, 4);
        value += 1;
        std::memcpy(piece.data() + at, &value, 4);
      }
    }
    TRY(sink(std::span(piece).first(static_cast<size_t>(bytes))));
  }
  return {};
}

}  // namespace

Result<ExportReport> write_synthetic_gguf(ThreadPool& pool, const ModelConfig& config, const std::string& out,
                                          const SynthOptions& options, const ExportProgress& progress) {
  constexpr int64_t kLeastVocab = 256 + std::size(kControl);
  if (config.vocab_size < kLeastVocab)
    return make_error(Code::kInvalidArgument, "a vocabulary of {} has no room for the {} tokens of bytes and control",
                      config.vocab_size, kLeastVocab);
  ExportNotes notes;
  GgufMetadata metadata;
  TRY(set_architecture_keys(config, out, &metadata, &notes));
  metadata.set_string("general.type", "model");
  metadata.set_string("general.name", options.name);
  metadata.set_string("general.description", "random weights in the shape of a published model");
  TRY(set_tokenizer_keys(synthetic_vocab(config.vocab_size), config.vocab_size, {}, out, &metadata));
  metadata.set_string("tokenizer.chat_template", kTemplate);
  set_file_type_keys(options.quant, &metadata);

  Weights weights;
  const std::vector<WeightSpec> table =
      weight_table(config, WeightFormat::kGguf, config.num_nextn_predict_layers > 0, &weights);
  const std::vector<GgufTensor> tensors = gguf_tensors(table, is_written, gguf_dtypes(config, options.quant, &notes));
  const std::vector<float> factors = rope_factors(config);
  std::vector<TensorSpec> specs;
  for (const GgufTensor& tensor : tensors) specs.push_back(tensor.spec);
  if (!factors.empty()) specs.push_back({"rope_freqs.weight", DType::kF32, {static_cast<int64_t>(factors.size())}});
  ExportReport report;
  report.notes = notes.all();
  report.tensors = static_cast<int64_t>(specs.size());
  for (const TensorSpec& spec : specs) report.bytes += static_cast<uint64_t>(*tensor_bytes(spec.dtype, spec.shape));

  TRY_ASSIGN(GgufWriter writer, GgufWriter::create(out, metadata, std::move(specs)));
  uint64_t done = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    TRY(write_random({pool, options.seed}, tensors[i], i, [&](std::span<const std::byte> bytes) -> Status {
      TRY(writer.write(bytes));
      done += bytes.size();
      if (progress && !progress(done, report.bytes)) return make_error(Code::kCancelled, "{}: stopped", out);
      return {};
    }));
  }
  if (!factors.empty()) TRY(writer.write(std::as_bytes(std::span(factors))));
  TRY(writer.finish());
  return report;
}

}  // namespace westlake
