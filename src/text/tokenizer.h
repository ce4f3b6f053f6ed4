// The tokenizer: text to ids and back, id for id what Hugging Face tokenizers give for the same file.
// Idea: one pipeline from a tokenizer.json or from a GGUF's vocabulary: added tokens are cut out, the rest is
// normalised, split into pieces and merged. A GGUF names its pipeline by one word (tokenizer.ggml.pre); that word is
// looked up in a table of pre_tokenizer texts and read by the same code.
// Input that is not valid UTF-8 is read as if every invalid piece were U+FFFD, which is what a Python caller gets from
// decode("utf-8", "replace"). A tokenizer.json without "decoder" is decoded as byte-level.
// Source: Hugging Face tokenizers; llama.cpp's llama-vocab.cpp for the names of pre-tokenizers.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/added_tokens.h"
#include "text/tokenizer_config.h"

namespace westlake {

// What a GGUF says about its tokenizer (keys tokenizer.ggml.*). Filled from metadata by the reader of the file, or by
// Tokenizer::to_gguf_vocab for a writer.
struct GgufVocab {
  std::string model = "gpt2";
  std::string pre;                       // empty: "default"
  std::vector<std::string_view> tokens;  // in id order; byte-level alphabet, added tokens as raw text
  std::vector<int32_t> token_types;  // 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte; may be empty
  std::vector<std::string_view> merges;  // "left right"
  int64_t bos_id = -1, eos_id = -1, unk_id = -1, pad_id = -1;
  std::optional<bool> add_bos, add_eos;  // unset: as llama.cpp has it for `pre`
  bool add_space_prefix = false;
  std::shared_ptr<const std::string> storage;  // what the views point into, unless that is the mapped file
};

struct EncodeOptions {
  bool parse_added_tokens = true;   // false: the list of added tokens is taken as empty, text is only text
  bool add_special_tokens = false;  // what the post-processor puts around a text (BOS for most)
};

struct DecodeOptions {
  bool skip_special = false;
};

// The tokens around a text, apart from the model: a tokenizer_config.json changes them.
struct TokenEnds {
  int32_t bos = -1, eos = -1, pad = -1, unk = -1;  // -1: none
  std::vector<int32_t> before, after;              // what add_special_tokens puts around a text
};

struct TokenizerModel;  // tokenizer_model.h

class Tokenizer {
 public:
  // `place` opens messages ("tokenizer.json"). Errors: kCorrupt for a file that contradicts itself, kUnsupported for a
  // construct that is not run exactly.
  static Result<Tokenizer> from_json(std::string_view text, std::string_view place);
  static Result<Tokenizer> from_gguf(const GgufVocab& vocab, std::string_view place);

  // Takes bos, eos, pad and unk from a tokenizer_config.json, and whether BOS and EOS are put around a text.
  void apply_config(const TokenizerConfig& config);

  // Thread-safe.
  std::vector<int32_t> encode(std::string_view text, const EncodeOptions& options = {}) const;
  void encode(std::string_view text, const EncodeOptions& options, std::vector<int32_t>& out) const;  // appends

  // Unknown ids are passed over; bytes that are not UTF-8 become U+FFFD.
  std::string decode(std::span<const int32_t> ids, const DecodeOptions& options = {}) const;

  // The raw bytes of a token, which may be a part of a character; empty for an unknown id.
  std::string_view token_bytes(int32_t id) const;
  // The token as the file writes it: byte-level alphabet, added tokens as raw text.
  std::string_view token_text(int32_t id) const;
  int32_t token_to_id(std::string_view text) const;  // by token_text; -1 when unknown

  int32_t vocab_size() const;         // one past the largest id
  bool is_special(int32_t id) const;  // an added token marked special: a control token
  bool is_added(int32_t id) const;
  const std::vector<AddedToken>& added_tokens() const;  // in id order
  int32_t bos_id() const { return ends_.bos; }          // -1: none
  int32_t eos_id() const { return ends_.eos; }
  int32_t pad_id() const { return ends_.pad; }
  int32_t unk_id() const { return ends_.unk; }
  bool adds_bos() const;  // add_special_tokens starts with bos_id()

  // The same tokenizer for a GGUF. Errors: kUnsupported when llama.cpp has no name for its pipeline.
  Result<GgufVocab> to_gguf_vocab() const;
  // The same tokenizer as a tokenizer.json.
  std::string to_json() const;

  // The names of tokenizer.ggml.pre that are read.
  static std::string supported_gguf_names();

 private:
  Tokenizer(std::shared_ptr<const TokenizerModel> model, TokenEnds ends)
      : model_(std::move(model)), ends_(std::move(ends)) {}
  std::shared_ptr<const TokenizerModel> model_;  // copies of a tokenizer share it
  TokenEnds ends_;
};

// Decodes ids one by one. What it hands out is whole characters only; joined, it is what decode gives for all ids.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, const DecodeOptions& options = {});

  // The characters that are whole now; bytes that can never become one are U+FFFD.
  std::string push(int32_t id);
  // The end: an unfinished character becomes U+FFFD.
  std::string flush();
  // Bytes that wait for the rest of their character.
  std::string_view pending() const { return pending_; }

 private:
  Tokenizer tokenizer_;
  DecodeOptions options_;
  std::string pending_;
};

}  // namespace westlake
