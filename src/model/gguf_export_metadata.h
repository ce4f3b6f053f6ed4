// The metadata of a GGUF that is to be: what llama.cpp's converters write for these architectures, and what
// ModelConfig::from_gguf reads back.
// Source: llama.cpp's conversion/*.py, gguf-py constants and src/models/*.cpp.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "formats/gguf_writer.h"
#include "model/config.h"
#include "model/export_tensors.h"
#include "text/tokenizer.h"

namespace westlake {

// Sentences for the user, each once: what llama.cpp will do differently, which tensors fell back to another format.
class ExportNotes {
 public:
  void add(std::string note) { notes_.push_back(std::move(note)); }
  // A tensor whose rows are no whole blocks of `wanted`.
  void add_fallback(DType wanted, DType kept, std::string_view tensor, int64_t cols);
  std::vector<std::string> all() const;

 private:
  struct Fallback {
    DType wanted, kept;
    std::string first;  // tensor
    int64_t cols, tensors;
  };
  std::vector<std::string> notes_;
  std::vector<Fallback> fallbacks_;
};

// general.architecture and everything under its prefix. Errors: kUnsupported for what the format has no key for.
Status set_architecture_keys(const ModelConfig& config, std::string_view place, GgufMetadata* out, ExportNotes* notes);

// Llama 3's rule as the factors of rope_freqs.weight, [head_dim / 2]; empty for other rules.
std::vector<float> rope_factors(const ModelConfig& config);

// tokenizer.ggml.*: the list of tokens is filled up to vocab_size. eos_ids: what ends an answer by the checkpoint's own
// word; the first that is not the vocabulary's eos becomes eot_token_id. Errors: kUnsupported for more tokens than
// vocab_size.
Status set_tokenizer_keys(const GgufVocab& vocab, int64_t vocab_size, std::span<const int32_t> eos_ids,
                          std::string_view place, GgufMetadata* out);
// For a model without a tokenizer: llama.cpp then takes vocab_size and runs on ids alone.
void set_no_tokenizer_keys(GgufMetadata* out);

// general.file_type and general.quantization_version.
void set_file_type_keys(DType quant, GgufMetadata* out);

// Which dtype a tensor gets in a file of `quant`: vectors and routers float32; the head (or the embedding where it is
// the head too) finer than 6 bits' worth; rows that are no whole blocks the nearest format that fits, with a note.
// Requires: notes outlives the result.
ExportDType gguf_dtypes(const ModelConfig& config, DType quant, ExportNotes* notes);

}  // namespace westlake
