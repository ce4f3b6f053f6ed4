// Checkpoints of a run: what is written is read back, the newest two are kept, half a checkpoint is never seen.
#include "train/run_folder.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "base/file.h"

namespace westlake {
namespace {

namespace fs = std::filesystem;

struct Folder {
  Folder() : path(fs::path(testing::TempDir()) / ("run_" + std::to_string(::getpid()))) { fs::remove_all(path); }
  ~Folder() { fs::remove_all(path); }
  fs::path path;
};

ModelConfig tiny() {
  ModelConfig c;
  c.architecture = Architecture::kLlama;
  c.model_type = "llama";
  c.vocab_size = 8;
  c.hidden_size = 4;
  c.intermediate_size = 4;
  c.num_hidden_layers = 1;
  c.num_attention_heads = c.num_key_value_heads = 1;
  c.head_dim = 4;
  c.max_position_embeddings = 16;
  return c;
}

TEST(RunFolder, KeepsTheNewestTwoAndReadsThemBack) {
  Folder folder;
  RunFolder run(folder.path.string());
  ASSERT_TRUE(run.begin(tiny(), "/nowhere", 0, {1}).ok());
  std::vector<float> w = {1, 2, 3, 4}, m = {5, 6};
  const std::vector<RunTensor> weights = {{"w", {2, 2}, w.data(), 4}}, optimiser = {{"w.m", {2}, m.data(), 2}};
  for (const int64_t step : {0, 10, 20}) {
    w[0] = static_cast<float>(step);
    ASSERT_TRUE(run.save(step, weights, optimiser, "{\"step\":1}").ok());
  }
  EXPECT_FALSE(fs::exists(folder.path / "trainer/step-00000000"));
  EXPECT_TRUE(fs::exists(folder.path / "trainer/step-00000010"));
  ASSERT_EQ(run.newest().value(), 20);
  w = {0, 0, 0, 0};
  m = {0, 0};
  ASSERT_TRUE(run.load(20, weights, optimiser).ok());
  EXPECT_EQ(w, (std::vector<float>{20, 2, 3, 4}));
  EXPECT_EQ(m, (std::vector<float>{5, 6}));
  ASSERT_TRUE(run.load(10, weights, optimiser).ok());
  EXPECT_EQ(w[0], 10);
  // The folder itself is a checkpoint of the newest.
  EXPECT_EQ(read_file(folder.path / "model.safetensors").value(),
            read_file(folder.path / "trainer/step-00000020/model.safetensors").value());
  EXPECT_NE(read_file(folder.path / "config.json").value().find("\"llama\""), std::string::npos);
  // A second run in the same folder is refused.
  EXPECT_EQ(RunFolder(folder.path.string()).begin(tiny(), "", 0, {1}).error().code, Code::kInvalidArgument);
}

TEST(RunFolder, DoesNotSeeWhatWasCutOff) {
  Folder folder;
  RunFolder run(folder.path.string());
  EXPECT_EQ(run.newest().error().code, Code::kNotFound);
  ASSERT_TRUE(run.begin(tiny(), "", 0, {1}).ok());
  EXPECT_EQ(run.newest().error().code, Code::kNotFound);
  std::vector<float> w = {1};
  ASSERT_TRUE(run.save(3, {{"w", {1}, w.data(), 1}}, {}, "{}").ok());
  fs::create_directories(folder.path / "trainer/step-00000004.tmp");  // killed while writing
  EXPECT_EQ(run.newest().value(), 3);
  EXPECT_EQ(run.load(3, {{"other", {1}, w.data(), 1}}, {}).error().code, Code::kCorrupt);
  EXPECT_EQ(run.load(3, {{"w", {1, 1}, w.data(), 1}}, {}).error().code, Code::kCorrupt);
}

}  // namespace
}  // namespace westlake
