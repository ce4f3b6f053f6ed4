// Quantising on first load: the bits of a converted file, made once; and what may happen to the copy.
#include "model/quantised_copy.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/file.h"
#include "model/gguf_export.h"
#include "model/model.h"
#include "model/synth.h"

namespace westlake {
namespace {

namespace fs = std::filesystem;

const std::string kCases = WESTLAKE_SOURCE_DIR "/tests/golden/models";

class QuantisedCopies : public testing::Test {
 protected:
  void SetUp() override {
    root_ = fmt::format("{}/quantised_copy_test.{}", fs::temp_directory_path().string(), getpid());
    fs::remove_all(root_);
    fs::create_directories(root_);
    model_ = write_model("model.gguf", 0);
  }
  void TearDown() override { fs::remove_all(root_); }

  // A model of plain numbers.
  std::string write_model(const std::string& name, uint64_t seed) {
    SynthOptions options;
    options.quant = DType::kBF16;
    options.seed = seed;
    const std::string path = root_ + "/" + name;
    EXPECT_TRUE(write_synthetic_gguf(pool_, synth_config("tiny-deepseek-v3").value(), path, options).ok());
    return path;
  }
  QuantiseOptions options(DType dtype = DType::kQ4_0) const { return {dtype, root_ + "/quantised"}; }

  QuantisedCopy open(const std::string& path, DType dtype = DType::kQ4_0) {
    const Checkpoint source = Checkpoint::open(path).value();
    Result<QuantisedCopy> copy = open_quantised_copy(source, options(dtype), pool_);
    EXPECT_TRUE(copy.ok()) << copy.error().message;
    return std::move(copy).value();
  }

  std::vector<float> logits_of(const Checkpoint& checkpoint) {
    const Model model = Model::bind(checkpoint).value();
    Context ctx{*kernels_by_name(""), pool_};
    const CacheShape shape = model.cache_shape(kKvBlock);
    std::vector<float> page(static_cast<size_t>(shape.page_floats()));
    float* pages[] = {page.data()};
    const std::vector<int32_t> tokens = {1, 5, 9, 2, 7};
    Segment segment;
    segment.tokens = tokens;
    segment.pages = pages;
    std::vector<float> logits(tokens.size() * static_cast<size_t>(model.config().vocab_size));
    model.forward(ctx, {&segment, 1}, kKvBlock, logits.data());
    return logits;
  }
  std::vector<float> converted_logits(const std::string& path, DType dtype) {
    GgufExportOptions convert;
    convert.quant = dtype;
    const std::string out = root_ + "/converted.gguf";
    EXPECT_TRUE(export_gguf(pool_, Checkpoint::open(path).value(), out, convert).ok());
    return logits_of(Checkpoint::open(out).value());
  }

  std::vector<fs::path> files() const {
    std::vector<fs::path> paths;
    for (const auto& entry : fs::directory_iterator(root_ + "/quantised")) {
      if (entry.is_regular_file()) paths.push_back(entry.path());
    }
    return paths;
  }
  static std::pair<ino_t, timespec> stamp(const std::string& path) {
    struct stat s = {};
    EXPECT_EQ(stat(path.c_str(), &s), 0);
    return {s.st_ino, s.st_ctim};
  }

  ThreadPool pool_{2};
  std::string root_, model_;
};

TEST_F(QuantisedCopies, GiveTheBitsOfAConvertedFile) {
  for (const DType dtype : {DType::kQ4_0, DType::kQ8_0, DType::kQ4_K})
    EXPECT_EQ(logits_of(open(model_, dtype).checkpoint), converted_logits(model_, dtype)) << dtype_name(dtype);
  EXPECT_EQ(files().size(), 3u);
}

TEST_F(QuantisedCopies, OfFoldersInBf16AndFp8) {
  for (const char* name : {"deepseek_v3_fp8_ue8m0", "qwen3", "llama_rope_tied"}) {
    const std::string folder = kCases + "/" + name;
    const QuantisedCopy copy = open(folder, DType::kQ8_0);
    EXPECT_TRUE(copy.made);
    EXPECT_FALSE(open(folder, DType::kQ8_0).made);
    EXPECT_EQ(logits_of(copy.checkpoint), converted_logits(folder, DType::kQ8_0)) << name;
  }
}

TEST_F(QuantisedCopies, TheSecondStartWritesNothing) {
  const QuantisedCopy first = open(model_);
  EXPECT_TRUE(first.made);
  const auto [inode, time] = stamp(first.checkpoint.path());
  const QuantisedCopy second = open(model_);
  EXPECT_FALSE(second.made);
  const auto [inode_after, time_after] = stamp(second.checkpoint.path());
  EXPECT_EQ(inode, inode_after);
  EXPECT_EQ(time.tv_sec, time_after.tv_sec);
  EXPECT_EQ(time.tv_nsec, time_after.tv_nsec);
  EXPECT_EQ(files().size(), 1u);
}

TEST_F(QuantisedCopies, AreFoundByTheirWeights) {
  const QuantisedCopy first = open(model_);
  fs::copy_file(model_, root_ + "/copy.gguf");
  const QuantisedCopy same = open(root_ + "/copy.gguf");
  EXPECT_FALSE(same.made);
  EXPECT_EQ(same.checkpoint.path(), first.checkpoint.path());
  write_model("model.gguf", 99);  // another model under the same name
  const QuantisedCopy other = open(model_);
  EXPECT_TRUE(other.made);
  EXPECT_NE(other.checkpoint.path(), first.checkpoint.path());
}

TEST_F(QuantisedCopies, ThatAreDamagedAreMadeAgain) {
  const std::string path = open(model_).checkpoint.path();
  const std::string good = read_file(path).value();
  fs::resize_file(path, good.size() - 1000);
  EXPECT_TRUE(open(model_).made);
  EXPECT_EQ(read_file(path).value(), good);
  std::ofstream(path) << "GGUF, but no more";
  EXPECT_TRUE(open(model_).made);
  EXPECT_EQ(read_file(path).value(), good);
  std::string zeros = good;  // a whole header, and nothing behind it: blocks that the disk never got
  std::fill(zeros.begin() + static_cast<std::ptrdiff_t>(good.size() / 2), zeros.end(), '\0');
  std::ofstream(path, std::ios::binary) << zeros;
  EXPECT_TRUE(open(model_).made);
  EXPECT_EQ(read_file(path).value(), good);
}

TEST_F(QuantisedCopies, WhatAKilledWriterLeftIsWrittenOver) {
  const std::string path = open(model_).checkpoint.path();
  const std::string good = read_file(path).value();
  fs::remove(path);
  std::ofstream(path + ".tmp") << "a lock without an owner";
  std::ofstream(path + ".999999999.tmp") << std::string(100000, 'x');
  EXPECT_TRUE(open(model_).made);
  EXPECT_EQ(read_file(path).value(), good);
  EXPECT_EQ(files().size(), 1u);
}

TEST_F(QuantisedCopies, AWriterMayBeKilledAtAnyMoment) {
  const std::string good = read_file(open(model_).checkpoint.path()).value();
  for (const int64_t size : {int64_t{0}, int64_t{1}, int64_t(good.size() / 2)}) {
    fs::remove_all(root_ + "/quantised");
    const pid_t child = fork();
    if (child == 0) {
      ThreadPool alone(1);
      const Checkpoint source = Checkpoint::open(model_).value();
      const Result<QuantisedCopy> copy = open_quantised_copy(source, options(), alone);
      _exit(0);
    }
    const auto far_enough = [&] {
      std::error_code none;
      for (const auto& entry : fs::directory_iterator(root_ + "/quantised", none)) {
        if (entry.path().extension() == ".tmp" && static_cast<int64_t>(entry.file_size(none)) >= size && !none)
          return true;
      }
      return false;
    };
    while (!far_enough() && waitpid(child, nullptr, WNOHANG) == 0) usleep(200);
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    EXPECT_EQ(read_file(open(model_).checkpoint.path()).value(), good) << "killed at " << size;
    EXPECT_EQ(files().size(), 1u);
  }
}

TEST_F(QuantisedCopies, ManyProcessesMakeOneFile) {
  std::vector<pid_t> children;
  for (int i = 0; i < 4; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      ThreadPool alone(1);  // the threads of pool_ are not here
      const Checkpoint source = Checkpoint::open(model_).value();
      const Result<QuantisedCopy> copy = open_quantised_copy(source, options(), alone);
      _exit(!copy.ok() ? 2 : copy->made ? 1 : 0);
    }
    children.push_back(child);
  }
  int failed = 0;
  for (const pid_t child : children) {
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    failed += !WIFEXITED(status) || WEXITSTATUS(status) > 1;
  }
  EXPECT_EQ(failed, 0);
  EXPECT_EQ(files().size(), 1u);
  EXPECT_FALSE(open(model_).made);
}

TEST_F(QuantisedCopies, AFullDiskLosesNothing) {
  const QuantisedCopy kept = open(model_, DType::kQ8_0);
  const auto before = files();
  const pid_t child = fork();
  if (child == 0) {
    signal(SIGXFSZ, SIG_IGN);
    const rlimit limit = {20000, 20000};  // writing beyond fails, as on a full disk
    setrlimit(RLIMIT_FSIZE, &limit);
    ThreadPool alone(1);
    const Checkpoint source = Checkpoint::open(model_).value();
    const Result<QuantisedCopy> copy = open_quantised_copy(source, options(), alone);
    _exit(!copy.ok() && copy.error().message.find("cannot write") != std::string::npos ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  EXPECT_EQ(files(), before);
  EXPECT_FALSE(open(model_, DType::kQ8_0).made);
}

TEST_F(QuantisedCopies, OfBlocksAreRefused) {
  SynthOptions blocks;
  blocks.quant = DType::kQ4_K;
  const std::string path = root_ + "/blocks.gguf";
  ASSERT_TRUE(write_synthetic_gguf(pool_, synth_config("tiny-llama").value(), path, blocks).ok());
  const Checkpoint source = Checkpoint::open(path).value();
  const Result<QuantisedCopy> copy = open_quantised_copy(source, options(), pool_);
  ASSERT_FALSE(copy.ok());
  EXPECT_EQ(copy.error().code, Code::kInvalidArgument);
  EXPECT_NE(copy.error().message.find("is quantised already, to q"), std::string::npos) << copy.error().message;
}

}  // namespace
}  // namespace westlake
