// The whole against the independent references, at every level of kernels this machine has.
#include "model/reference_case.h"

#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

namespace westlake {
namespace {

std::vector<std::string> model_cases() {
  std::vector<std::string> folders;
  for (const char* root : {WESTLAKE_SOURCE_DIR "/tests/golden/models", WESTLAKE_SOURCE_DIR "/../shared/golden"}) {
    if (!std::filesystem::is_directory(root)) continue;
    for (const auto& entry : std::filesystem::directory_iterator(root)) {
      const std::string folder = entry.path().string();
      if (is_model_case(folder) && std::filesystem::exists(folder + "/config.json")) folders.push_back(folder);
    }
  }
  std::sort(folders.begin(), folders.end());
  return folders;
}

class ReferenceCase : public testing::TestWithParam<const KernelTable*> {};

TEST_P(ReferenceCase, EveryFolder) {
  const std::vector<std::string> folders = model_cases();
  ASSERT_GE(folders.size(), 4u) << "tests/golden/models is gone";
  for (int threads : {1, 3}) {
    ThreadPool pool(threads);
    Context ctx{*GetParam(), pool, /*exact=*/true};
    for (const std::string& folder : folders) {
      auto report = run_model_case(ctx, folder);
      ASSERT_TRUE(report.ok()) << report.error().message;
      EXPECT_TRUE(report->passed()) << folder << ": " << fmt::format("{}", fmt::join(report->failures, "; "));
      // Far below the tolerance: what float32 leaves. A drift would show here first.
      EXPECT_LT(report->max_logit_difference, 3e-4) << folder;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Levels, ReferenceCase, testing::ValuesIn(available_kernels()),
                         [](const auto& info) { return std::string(info.param->name); });

}  // namespace
}  // namespace westlake
