// The int8 cache: the same bits however a text is cut and whoever computes, and close to float32.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>

#include "model/checkpoint.h"
#include "model/model.h"
#include "model/synth.h"

namespace westlake {
namespace {

// Wide enough that activations are one int8 row (Context::fine is two).
ModelConfig wide_config(const char* preset) {
  ModelConfig c = synth_config(preset).value();
  c.hidden_size = 1088;
  c.num_hidden_layers = 2;
  if (c.mla()) {
    c.kv_lora_rank = 128;
    c.qk_rope_head_dim = 64;
    c.qk_nope_head_dim = c.v_head_dim = 64;
    c.first_k_dense_replace = c.num_hidden_layers;  // a router would make a jump of a rounding
  } else {
    c.head_dim = 64;
  }
  return c;
}

class Q8Cache : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    path_ = fmt::format("{}/q8_cache_test.{}.gguf", std::filesystem::temp_directory_path().string(), getpid());
    ThreadPool pool(2);
    SynthOptions options;
    options.quant = DType::kQ8_0;
    const auto written = write_synthetic_gguf(pool, wide_config(GetParam()), path_, options);
    ASSERT_TRUE(written.ok()) << written.error().message;
    for (int i = 0; i < 600; ++i) tokens_.push_back(3 + i * 7 % 200);
  }
  void TearDown() override { std::filesystem::remove(path_); }

  // Logits of the last 20 tokens; the text goes through the model in chunks, the last `alone` tokens one by one, as an
  // answer does.
  std::vector<float> logits(bool q8, int64_t chunk, int64_t alone, int threads) {
    ThreadPool pool(threads);
    Context ctx{*kernels_by_name(""), pool};
    Checkpoint checkpoint = Checkpoint::open(path_).value();
    Model model = Model::bind(checkpoint).value();
    if (q8) {
      EXPECT_TRUE(model.use_q8_cache());
    }
    const CacheShape shape = model.cache_shape(kKvBlock);
    const auto n = static_cast<int64_t>(tokens_.size());
    std::vector<std::vector<float>> memory(static_cast<size_t>((n + kKvBlock - 1) / kKvBlock));
    std::vector<float*> pages;
    for (auto& page : memory) {
      page.assign(static_cast<size_t>(shape.page_floats()), NAN);  // what was never written must not be seen
      pages.push_back(page.data());
    }
    const int64_t V = model.config().vocab_size;
    std::vector<float> out(static_cast<size_t>(20 * V));
    for (int64_t start = 0; start < n;) {
      const int64_t T = start >= n - alone ? 1 : std::min(chunk, n - alone - start);
      Segment segment;
      segment.tokens = std::span<const int32_t>(tokens_).subspan(static_cast<size_t>(start), static_cast<size_t>(T));
      segment.start = start;
      segment.form = start >= n - alone ? MlaForm::kAbsorbed : model.prompt_form(n - alone);
      segment.pages = pages.data();
      segment.logits_from = std::max<int64_t>(0, n - 20 - start);
      const int64_t row = std::max<int64_t>(0, start - (n - 20));
      model.forward(ctx, {&segment, 1}, kKvBlock, out.data() + row * V);
      start += T;
    }
    return out;
  }

  std::string path_;
  std::vector<int32_t> tokens_;
};

INSTANTIATE_TEST_SUITE_P(All, Q8Cache, testing::Values("tiny-deepseek-v3", "tiny-llama"), [](const auto& info) {
  return std::string(info.param).find("llama") != std::string::npos ? std::string("gqa") : std::string("mla");
});

double relative_error(const std::vector<float>& seen, const std::vector<float>& truth) {
  double error = 0, size = 0;
  for (size_t i = 0; i < seen.size(); ++i) {
    error += std::pow(seen[i] - truth[i], 2);
    size += std::pow(truth[i], 2);
  }
  return std::sqrt(error / size);
}

TEST_P(Q8Cache, ChunksAndThreadsChangeNoBit) {
  const std::vector<float> whole = logits(true, 600, 0, 2);
  EXPECT_EQ(whole, logits(true, 600, 0, 1));
  EXPECT_EQ(whole, logits(true, 77, 0, 3));
  EXPECT_EQ(whole, logits(true, 9, 0, 2));
}

TEST_P(Q8Cache, AnswersChangeNoBitWithTheChunksBeforeThem) {
  const std::vector<float> whole = logits(true, 580, 20, 2), prompt = logits(true, 600, 0, 2);
  EXPECT_EQ(whole, logits(true, 200, 20, 1));
  EXPECT_EQ(whole, logits(true, 77, 20, 3));
  // A row decoded alone is the prompt's in GQA; MLA's two forms round at other places.
  if (std::string(GetParam()).find("llama") != std::string::npos) {
    EXPECT_EQ(whole, prompt);
  } else {
    const double error = relative_error(whole, prompt);
    EXPECT_LT(error, 0.1);
    EXPECT_GT(error, 0);
  }
}

// Both forms are as far from float32 as its rounding makes them: neither much farther than the other.
TEST_P(Q8Cache, IsCloseToFloat32) {
  const std::vector<float> f32 = logits(false, 600, 0, 2);
  const double prompt = relative_error(logits(true, 600, 0, 2), f32);
  const double short_prompt = relative_error(logits(true, 1, 600, 2), f32);  // every row alone, absorbed
  EXPECT_LT(prompt, 0.1);                                                    // of the numbers of a random model
  EXPECT_GT(prompt, 0);                                                      // it is another cache
  EXPECT_LT(prompt, 1.5 * short_prompt);
}

}  // namespace
}  // namespace westlake
