// config.json: what is refused, and the kept inputs of the fuzz target.
#include "model/config.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "base/file.h"
#include "model/checkpoint.h"
#include "model/config_fuzz_body.h"

namespace westlake {
namespace {

const std::string kModels = WESTLAKE_SOURCE_DIR "/tests/golden/models/";

std::string published(const std::string& model) {
  return read_file(kModels + model + "/config.json").value();
}

std::string with(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  CHECK(at != std::string::npos, "'{}' is not in the config", from);
  return text.replace(at, from.size(), to);
}

TEST(Config, RefusalsNameTheKey) {
  struct Case {
    std::string model, from, to, word;
    Code code;
  };
  const Case cases[] = {
      {"qwen3", "\"model_type\": \"qwen3\"", "\"model_type\": \"gemma\"", "qwen3_moe", Code::kUnsupported},
      {"qwen3", "\"hidden_act\": \"silu\"", "\"hidden_act\": \"gelu\"", "hidden_act", Code::kUnsupported},
      {"qwen3", "\"use_sliding_window\": false", "\"use_sliding_window\": true", "use_sliding_window",
       Code::kUnsupported},
      {"qwen3", "\"hidden_size\": 64", "\"hidden_size\": -64", "hidden_size", Code::kCorrupt},
      {"qwen3", "\"hidden_size\": 64", "\"hidden_size\": \"64\"", "hidden_size", Code::kCorrupt},
      {"qwen3", "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 4", "num_key_value_heads", Code::kCorrupt},
      {"qwen3", "\"num_hidden_layers\": 3", "\"num_hidden_layers\": 9000000000000000000", "num_hidden_layers",
       Code::kCorrupt},
      {"deepseek_v2", "\"type\": \"yarn\"", "\"type\": \"dynamic\"", "dynamic", Code::kUnsupported},
      {"deepseek_v2", "\"norm_topk_prob\": false", "\"norm_topk_prob\": true", "norm_topk_prob", Code::kUnsupported},
      {"deepseek_v2", "\"n_group\": 4", "\"n_group\": 5", "n_group", Code::kCorrupt},
      {"deepseek_v3_mtp", "\"topk_method\": \"noaux_tc\"", "\"topk_method\": \"greedy\"", "topk_method",
       Code::kUnsupported},
      {"deepseek_v3_fp8_ue8m0", "\"quant_method\": \"fp8\"", "\"quant_method\": \"awq\"", "quant_method",
       Code::kUnsupported},
  };
  for (const Case& c : cases) {
    const auto config = ModelConfig::from_json(with(published(c.model), c.from, c.to), "config.json");
    ASSERT_FALSE(config.ok()) << c.to;
    EXPECT_EQ(config.error().code, c.code) << config.error().message;
    EXPECT_NE(config.error().message.find(c.word), std::string::npos) << config.error().message;
    EXPECT_TRUE(config.error().message.starts_with("config.json: ")) << config.error().message;
  }
}

TEST(Config, AskingForMoreThanTheFileHolds) {
  auto checkpoint = Checkpoint::open(kModels + "qwen3_moe");
  ASSERT_TRUE(checkpoint.ok());
  ModelConfig config = checkpoint->config();
  config.num_hidden_layers = 4096;
  config.n_routed_experts = 65536;
  Weights weights;
  const Status status = bind_weights(config, checkpoint->tensor_source(), &weights);
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.error().message.find("4096 layers"), std::string::npos) << status.error().message;
  EXPECT_TRUE(weights.layers.empty());
}

TEST(Config, KeptInputsOfTheFuzzer) {
  int n = 0;
  for (const auto& entry : std::filesystem::directory_iterator(WESTLAKE_SOURCE_DIR "/tests/golden/fuzz/config")) {
    fuzz_config(read_file(entry.path().string()).value());
    ++n;
  }
  EXPECT_GE(n, 7);
}

}  // namespace
}  // namespace westlake
