// What the tests of this room share: tiny checkpoints with known logits, opened; and numbers compared bit for bit.
#pragma once

#include <cmath>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/npy.h"
#include "infer/session.h"
#include "model/checkpoint.h"
#include "model/model.h"

namespace westlake {

struct Opened {
  explicit Opened(const std::string& name, std::string_view kernels = "ref", int threads = 1)
      : folder(std::string(WESTLAKE_SOURCE_DIR "/tests/golden/models/") + name), pool(threads) {
    context = std::make_unique<Context>(Context{*kernels_by_name(kernels), pool, true});
    checkpoint = std::make_unique<Checkpoint>(value(Checkpoint::open(folder)));
    model = std::make_unique<Model>(value(Model::bind(*checkpoint)));
    tokens = ids("tokens");
    greedy = ids("greedy");
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
