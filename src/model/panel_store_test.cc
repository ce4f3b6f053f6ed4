// The panels of a model: the same bits as its rows, in memory and from a kept file; and what may happen to the file.
#include "model/panel_store.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "model/checkpoint.h"
#include "model/model.h"
#include "model/synth.h"

namespace westlake {
namespace {

namespace fs = std::filesystem;

class PanelFiles : public testing::Test {
 protected:
  void SetUp() override {
    root_ = fmt::format("{}/panel_store_test.{}", fs::temp_directory_path().string(), getpid());
    fs::create_directories(root_);
    model_ = root_ + "/model.gguf";
    SynthOptions options;
    options.quant = DType::kQ4_0;
    ASSERT_TRUE(write_synthetic_gguf(pool_, synth_config("tiny-deepseek-v3").value(), model_, options).ok());
  }
  void TearDown() override { fs::remove_all(root_); }

  struct Run {
    std::vector<float> logits;
    std::string path, note;
    int64_t bytes = 0;
  };
  // The logits of a few tokens; panels: no folder at all when null.
  Run run(const std::string& model_path, const PanelOptions* panels) {
    Run run;
    Checkpoint checkpoint = Checkpoint::open(model_path).value();
    Model model = Model::bind(checkpoint).value();
    if (panels != nullptr) {
      const Status status = model.lay_out(checkpoint, *panels, pool_);
      EXPECT_TRUE(status.ok()) << status.error().message;
      run.path = model.panels().path();
      run.note = model.panels().note();
      run.bytes = model.panels().size_bytes();
    }
    Context ctx{*kernels_by_name(""), pool_};
    const CacheShape shape = model.cache_shape(kKvBlock);
    std::vector<float> page(static_cast<size_t>(shape.page_floats()));
    float* pages[] = {page.data()};
    const std::vector<int32_t> tokens = {1, 5, 9, 2, 7};
    Segment segment;
    segment.tokens = tokens;
    segment.pages = pages;
    run.logits.resize(tokens.size() * static_cast<size_t>(model.config().vocab_size));
    model.forward(ctx, {&segment, 1}, kKvBlock, run.logits.data());
    return run;
  }
  PanelOptions kept() const { return {root_ + "/panels", 1}; }
  std::vector<fs::path> files() const {
    std::vector<fs::path> paths;
    for (const auto& entry : fs::directory_iterator(root_ + "/panels")) {
      if (entry.is_regular_file()) paths.push_back(entry.path());
    }
    return paths;
  }

  ThreadPool pool_{2};
  std::string root_, model_;
};

TEST_F(PanelFiles, GiveTheBitsOfTheRows) {
  const Run rows = run(model_, nullptr);
  const PanelOptions memory;
  const Run in_memory = run(model_, &memory);
  EXPECT_GT(in_memory.bytes, 10000);
  EXPECT_EQ(in_memory.path, "");
  EXPECT_EQ(rows.logits, in_memory.logits);
  const PanelOptions options = kept();
  const Run written = run(model_, &options), again = run(model_, &options);
  EXPECT_EQ(written.path, again.path);
  EXPECT_TRUE(fs::exists(written.path));
  EXPECT_EQ(rows.logits, written.logits);
  EXPECT_EQ(rows.logits, again.logits);
}

TEST_F(PanelFiles, AreFoundByTheirWeights) {
  const PanelOptions options = kept();
  const Run first = run(model_, &options);
  fs::copy_file(model_, root_ + "/copy.gguf");
  EXPECT_EQ(run(root_ + "/copy.gguf", &options).path, first.path);
  // Another model at the same path is another file.
  SynthOptions other;
  other.quant = DType::kQ4_0;
  other.seed = 99;
  ASSERT_TRUE(write_synthetic_gguf(pool_, synth_config("tiny-deepseek-v3").value(), model_, other).ok());
  const Run second = run(model_, &options);
  EXPECT_NE(second.path, first.path);
  EXPECT_EQ(second.logits, run(model_, nullptr).logits);
}

TEST_F(PanelFiles, ThatAreBrokenAreMadeAgain) {
  const PanelOptions options = kept();
  const Run good = run(model_, &options);
  const auto size = fs::file_size(good.path);
  fs::resize_file(good.path, size - 100);  // torn
  EXPECT_EQ(run(model_, &options).logits, good.logits);
  EXPECT_EQ(fs::file_size(good.path), size);
  for (const int64_t at : {int64_t{3}, int64_t{20}, int64_t{4096}}) {  // the name, the header, the first panel
    {
      std::fstream file(good.path, std::ios::in | std::ios::out | std::ios::binary);
      file.seekg(at);
      const int byte = file.get();
      file.seekp(at);
      file.put(static_cast<char>(byte ^ 1));
    }
    EXPECT_EQ(run(model_, &options).logits, good.logits) << "a bit at " << at;
  }
}

TEST_F(PanelFiles, ALeftOverOfAKilledWriterIsWrittenOver) {
  const PanelOptions options = kept();
  const Run good = run(model_, &options);
  fs::remove(good.path);
  std::ofstream(good.path + ".tmp") << std::string(100000, 'x');
  EXPECT_EQ(run(model_, &options).logits, good.logits);
  EXPECT_EQ(files().size(), 1u);
}

TEST_F(PanelFiles, ManyProcessesMakeOneFile) {
  const PanelOptions options = kept();
  const Run rows = run(model_, nullptr);
  std::vector<pid_t> children;
  for (int i = 0; i < 4; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      // The pool's threads are not here: a store of its own, on this thread.
      ThreadPool alone(1);
      Checkpoint checkpoint = Checkpoint::open(model_).value();
      Model model = Model::bind(checkpoint).value();
      const bool good = model.lay_out(checkpoint, options, alone).ok() && !model.panels().path().empty();
      _exit(good ? 0 : 1);
    }
    children.push_back(child);
  }
  for (const pid_t child : children) {
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  }
  EXPECT_EQ(files().size(), 1u);
  EXPECT_EQ(run(model_, &options).logits, rows.logits);
}

TEST_F(PanelFiles, WithoutAFolderTheyAreInMemoryAndSaySo) {
  std::ofstream(root_ + "/panels") << "a file where the folder should be";
  const PanelOptions options = kept();
  const Run run_ = run(model_, &options);
  EXPECT_EQ(run_.path, "");
  EXPECT_NE(run_.note.find(root_ + "/panels"), std::string::npos) << run_.note;
  EXPECT_EQ(run_.logits, run(model_, nullptr).logits);
}

}  // namespace
}  // namespace westlake
