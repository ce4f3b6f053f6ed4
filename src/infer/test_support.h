// What the tests of this room share: tiny checkpoints with known logits, opened; and numbers compared bit for bit.
#pragma once

#include <fmt/format.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "formats/npy.h"
#include "infer/session.h"
#include "model/checkpoint.h"
#include "model/gguf_export.h"
#include "model/model.h"
#include "model/synth.h"
#include "text/tokenizer.h"

namespace westlake {

inline constexpr int32_t kUser = 256, kEnd = 257;

// A token a byte, and two control tokens.
inline Tokenizer byte_tokenizer() {
  JsonWriter w;
  w.begin_object().key("added_tokens").begin_array();
  for (const auto& [id, content] : {std::pair{kUser, "<|user|>"}, std::pair{kEnd, "<|end|>"}}) {
    w.begin_object().key("id").value(id).key("content").value(content).key("special").value(true);
    for (const char* flag : {"single_word", "lstrip", "rstrip", "normalized"}) w.key(flag).value(false);
    w.end_object();
  }
  w.end_array().key("pre_tokenizer").begin_object().key("type").value("ByteLevel");
  w.key("add_prefix_space").value(false).key("use_regex").value(false).end_object();
  w.key("decoder").begin_object().key("type").value("ByteLevel").end_object();
  w.key("model").begin_object().key("type").value("BPE").key("vocab").begin_object();
  // The alphabet of byte-level vocabularies: printable bytes stand for themselves, the others for U+0100 on.
  int next = 256;
  for (int b = 0; b < 256; ++b) {
    const bool kept = (b >= 33 && b < 127) || (b >= 161 && b < 173) || b >= 174;
    const int code = kept ? b : next++;
    std::string letter;
    if (code < 0x80) {
      letter += static_cast<char>(code);
    } else {
      letter += static_cast<char>(0xc0 | code >> 6);
      letter += static_cast<char>(0x80 | (code & 0x3f));
    }
    w.key(letter).value(b);
  }
  w.end_object().key("merges").begin_array().end_array().end_object().end_object();
  Result<Tokenizer> tokenizer = Tokenizer::from_json(w.text(), "test");
  CHECK(tokenizer.ok(), "{}", tokenizer.error().message);
  return std::move(tokenizer).value();
}

struct Opened {
  // quant: the matrices in that format, blocks in panels, on the fast path; none: as they are, on the exact path.
  explicit Opened(const std::string& name, std::string_view kernels = "ref", int threads = 1,
                  std::optional<DType> quant = {})
      : folder(std::string(WESTLAKE_SOURCE_DIR "/tests/golden/models/") + name), pool(threads) {
    context = std::make_unique<Context>(Context{*kernels_by_name(kernels), pool, !quant});
    checkpoint = std::make_unique<Checkpoint>(quant ? quantised(*quant) : value(Checkpoint::open(folder)));
    model = std::make_unique<Model>(value(Model::bind(*checkpoint)));
    if (quant) CHECK(model->lay_out(*checkpoint, {}, pool).ok());
    tokens = ids("tokens");
    greedy = ids("greedy");
  }
  // A model of that shape with random weights in Q4_0, its cache in int8, and a text of n tokens for it.
  Opened(const ModelConfig& config, int64_t n, std::string_view kernels, int threads) : pool(threads) {
    context = std::make_unique<Context>(Context{*kernels_by_name(kernels), pool});
    CHECK(write_synthetic_gguf(pool, config, gguf_path(), {.quant = DType::kQ4_0}).ok());
    checkpoint = std::make_unique<Checkpoint>(open_and_remove(gguf_path()));
    model = std::make_unique<Model>(value(Model::bind(*checkpoint)));
    CHECK(model->lay_out(*checkpoint, {}, pool).ok() && model->use_q8_cache());
    for (int64_t i = 0; i < n; ++i) tokens.push_back(static_cast<int32_t>(3 + i * 7 % 200));
  }
  static std::string gguf_path() {
    return fmt::format("{}/infer_test.{}.gguf", std::filesystem::temp_directory_path().string(), getpid());
  }
  // The file is gone from the disk once it is mapped.
  static Checkpoint open_and_remove(const std::string& path) {
    Checkpoint opened = value(Checkpoint::open(path));
    std::filesystem::remove(path);
    return opened;
  }
  Checkpoint quantised(DType quant) {
    const Checkpoint plain = value(Checkpoint::open(folder));
    CHECK(export_gguf(pool, plain, gguf_path(), {.quant = quant, .tokenizer = false}).ok());
    return open_and_remove(gguf_path());
  }
  template <typename T>
  static T value(Result<T> result) {
    CHECK(result.ok(), "{}", result.error().message);
    return std::move(result).value();
  }
  std::vector<int32_t> ids(const std::string& name) const {
    return value(value(Npy::open(folder + "/" + name + ".npy")).int32s());
  }
  std::vector<float> golden_last_logits() const {
    const std::vector<float> all = value(value(Npy::open(folder + "/logits.npy")).floats());
    const auto V = static_cast<ptrdiff_t>(model->config().vocab_size);
    return {all.end() - V, all.end()};
  }
  Session session(const SessionOptions& options = {}) const {
    return value(Session::create(*context, *model, options));
  }
  // Logits after `prompt`, computed by a new session in one piece.
  std::vector<float> fresh(std::span<const int32_t> prompt) const {
    Session s = session();
    return copy(s.sync(prompt));
  }
  static std::vector<float> copy(const Result<std::span<const float>>& logits) {
    CHECK(logits.ok(), "{}", logits.error().message);
    return {logits->begin(), logits->end()};
  }

  std::string folder;
  ThreadPool pool;
  std::unique_ptr<Context> context;
  std::unique_ptr<Checkpoint> checkpoint;
  std::unique_ptr<Model> model;
  std::vector<int32_t> tokens, greedy;
};

inline float max_difference(const std::vector<float>& a, const std::vector<float>& b) {
  CHECK(a.size() == b.size());
  float most = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const float d = std::abs(a[i] - b[i]);
    most = d > most || std::isnan(d) ? d : most;
  }
  return most;
}

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace westlake
