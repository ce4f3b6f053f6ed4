// Synthetic models: every preset is a valid config, the bytes are the same whoever writes them, and the files open.
#include "model/synth.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>

#include "base/file.h"
#include "model/model.h"
#include "model/text_bundle.h"
#include "tensor/codec.h"

namespace westlake {
namespace {

std::string temporary(std::string_view name) {
  return fmt::format("{}/synth_test.{}.{}", std::filesystem::temp_directory_path().string(), getpid(), name);
}

TEST(Synth, PresetsHaveThePublishedSizes) {
  struct Known {
    std::string_view preset;
    double billions, active;
  };
  for (const Known& known :
       {Known{"deepseek-v2-lite", 15.7, 2.4}, Known{"deepseek-v2", 235.7, 21}, Known{"deepseek-v3", 671, 37},
        Known{"moonlight-16b-a3b", 16, 2.5}, Known{"kimi-k2", 1026, 32.5}, Known{"llama-3.1-8b", 8.03, 7.5},
        Known{"llama-3.2-1b", 1.236, 1.236}, Known{"smollm2-135m", 0.1345, 0.1345}, Known{"qwen2-1.5b", 1.543, 1.543},
        Known{"qwen3-0.6b", 0.596, 0.596}, Known{"qwen3-8b", 8.19, 7.57}, Known{"qwen3-30b-a3b", 30.5, 3.04},
        Known{"deepseek-coder-1.3b", 1.346, 1.28}}) {
    const auto config = synth_config(known.preset);
    ASSERT_TRUE(config.ok()) << config.error().message;
    EXPECT_NEAR(static_cast<double>(config->parameters()) * 1e-9, known.billions, 0.01 * known.billions)
        << known.preset;
    EXPECT_NEAR(static_cast<double>(config->active_parameters()) * 1e-9, known.active, 0.05 * known.active)
        << known.preset;
  }
  for (const SynthPreset& preset : synth_presets()) EXPECT_TRUE(synth_config(preset.name).ok()) << preset.name;
  const auto unknown = synth_config("gpt-5");
  ASSERT_FALSE(unknown.ok());
  EXPECT_NE(unknown.error().message.find("deepseek-v2-lite"), std::string::npos);
}

TEST(Synth, BytesDependOnTheSeedAlone) {
  const ModelConfig config = synth_config("tiny-deepseek-v3").value();
  SynthOptions options;
  auto bytes = [&](int threads, uint64_t seed) {
    ThreadPool pool(threads);
    options.seed = seed;
    const std::string path = temporary("bytes.gguf");
    EXPECT_TRUE(write_synthetic_gguf(pool, config, path, options).ok());
    const std::string content = read_file(path).value();
    std::filesystem::remove(path);
    return content;
  };
  const std::string one = bytes(1, 7);
  EXPECT_EQ(one, bytes(3, 7));
  EXPECT_NE(one, bytes(1, 8));
}

TEST(Synth, FilesOpenAndActivationsStayInBounds) {
  ThreadPool pool(2);
  Context ctx{*available_kernels().front(), pool, /*exact=*/true};
  const std::string path = temporary("open.gguf");
  for (std::string_view name :
       {"tiny-llama", "tiny-qwen2", "tiny-qwen3", "tiny-qwen3-moe", "tiny-deepseek-v2", "tiny-deepseek-v3"}) {
    for (DType quant : {DType::kBF16, DType::kQ4_0, DType::kIQ4_XS}) {
      SynthOptions options;
      options.quant = quant;
      const ModelConfig config = synth_config(name).value();
      const auto report = write_synthetic_gguf(pool, config, path, options);
      ASSERT_TRUE(report.ok()) << report.error().message;
      const auto checkpoint = Checkpoint::open(path);
      ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
      const auto model = Model::bind(*checkpoint);
      ASSERT_TRUE(model.ok()) << model.error().message;
      EXPECT_EQ(model->weights().mtp.size(), static_cast<size_t>(config.num_nextn_predict_layers));
      const auto bundle = TextBundle::open(path);
      ASSERT_TRUE(bundle.ok()) << bundle.error().message;
      const std::vector<int32_t> tokens = bundle->tokenizer.encode("Hé, you!");
      EXPECT_EQ(tokens.size(), 9u);
      EXPECT_EQ(bundle->tokenizer.decode(tokens), "Hé, you!");
      EXPECT_TRUE(bundle->chat_template.has_value());
      EXPECT_EQ(bundle->stop_ids, std::vector<int32_t>{257});

      std::vector<float> page(model->cache_shape(64).page_floats()), logits(tokens.size() * config.vocab_size);
      float* pages[] = {page.data()};
      Segment segment;
      segment.tokens = tokens;
      segment.pages = pages;
      model->forward(ctx, {&segment, 1}, 64, logits.data());
      double squares = 0;
      for (float logit : logits) squares += logit * logit;
      const double deviation = std::sqrt(squares / static_cast<double>(logits.size()));
      EXPECT_TRUE(deviation > 0.3 && deviation < 3) << name << " " << dtype_name(quant) << ": " << deviation;
    }
  }
  std::filesystem::remove(path);
}

TEST(Synth, RefusesWhatHasNoRoomOrNoForm) {
  ThreadPool pool(1);
  ModelConfig config = synth_config("tiny-llama").value();
  config.vocab_size = 256;
  EXPECT_FALSE(write_synthetic_gguf(pool, config, temporary("no.gguf"), {}).ok());
  config = synth_config("tiny-llama").value();
  SynthOptions options;
  options.quant = DType::kF8E4M3;
  const auto report = write_synthetic_gguf(pool, config, temporary("no.gguf"), options);
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.error().code, Code::kUnsupported);
  EXPECT_FALSE(is_file(temporary("no.gguf")));
}

}  // namespace
}  // namespace westlake
