// What convert writes is read back: every reference checkpoint as GGUF, as a folder again, and as GGUF from GGUF, gives
// the reference's logits.
#include "model/gguf_export.h"

#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/file.h"
#include "formats/safetensors_writer.h"
#include "model/gguf_export_metadata.h"
#include "model/hf_export.h"
#include "model/model.h"
#include "model/reference_case.h"

namespace westlake {
namespace {

namespace fs = std::filesystem;

const std::string kCases = WESTLAKE_SOURCE_DIR "/tests/golden/models";

std::vector<std::string> case_names() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(kCases)) {
    if (is_model_case(entry.path().string())) names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

class ExportTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fmt::format("{}/export_test.{}.{}", fs::temp_directory_path().string(), getpid(),
                          testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(folder_);
    fs::create_directory(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string at(const std::string& name) const { return folder_ + "/" + name; }

  std::string to_gguf(const std::string& in, const std::string& name, DType quant, bool mtp = true) {
    auto checkpoint = Checkpoint::open(in);
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.error().message;
    GgufExportOptions options;
    options.quant = quant;
    options.mtp = mtp;
    auto report = export_gguf(pool_, *checkpoint, at(name), options);
    EXPECT_TRUE(report.ok()) << in << ": " << report.error().message;
    return at(name);
  }
  std::string to_folder(const std::string& in, const std::string& name, const FolderExportOptions& options) {
    auto checkpoint = Checkpoint::open(in);
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.error().message;
    auto report = export_folder(pool_, *checkpoint, at(name), options);
    EXPECT_TRUE(report.ok()) << in << ": " << report.error().message;
    return at(name);
  }
  void expect_case(const std::string& name, const std::string& model) {
    Context ctx{*available_kernels().front(), pool_, /*exact=*/true};
    auto report = run_model_case(ctx, kCases + "/" + name, model);
    ASSERT_TRUE(report.ok()) << report.error().message;
    EXPECT_TRUE(report->passed()) << model << " as " << name << ": " << fmt::format("{}", fmt::join(report->failures, "; "));
  }

  ThreadPool pool_{3};
  std::string folder_;
};

TEST_F(ExportTest, EveryCaseThroughGgufAndBack) {
  FolderExportOptions f32;
  f32.dtype = DType::kF32;
  for (const std::string& name : case_names()) {
    const std::string first = to_gguf(kCases + "/" + name, name + ".gguf", DType::kF32);
    expect_case(name, first);
    const std::string again = to_gguf(first, name + "-2.gguf", DType::kF32);
    expect_case(name, again);
    EXPECT_EQ(fs::file_size(first), fs::file_size(again)) << name;
    expect_case(name, to_folder(first, name, f32));
    expect_case(name, to_folder(kCases + "/" + name, name + "-folder", f32));
  }
}

}  // namespace
}  // namespace westlake
