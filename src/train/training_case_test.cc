// Ten steps of the references, in float32 with the plain kernels: every number within its tolerance. In bfloat16, at
// every level, the losses.
#include "train/training_case.h"

#include <gtest/gtest.h>

#include "formats/npy.h"

namespace westlake {
namespace {

const char* const kCases[] = {"train_llama_adamw", "train_v3_mtp", "train_v3_muon"};

std::string folder_of(const std::string& name) {
  return std::string(WESTLAKE_SOURCE_DIR "/tests/golden/train/") + name;
}

TEST(TrainingCase, TenStepsWithinTolerance) {
  ThreadPool pool(2);
  for (const char* name : kCases) {
    const Result<TrainingReport> report = run_training_case(pool, *train_kernels_by_name("ref"), folder_of(name));
    ASSERT_TRUE(report.ok()) << report.error().message;
    EXPECT_TRUE(report->failures.empty()) << name;
    EXPECT_GE(report->differences.size(), 5u);
    for (const TrainingDifference& d : report->differences)
      EXPECT_TRUE(d.passed()) << name << ": " << d.what << " " << d.difference << " of " << d.tolerance << " "
                              << d.worst;
  }
}

TEST(TrainingCase, LossOfBfloat16IsNear) {
  ThreadPool pool(2);
  for (const TrainKernels<float>* kernels : available_train_kernels()) {
    const Result<TrainingReport> report =
        run_training_case(pool, *kernels, folder_of("train_llama_adamw"), {Precision::kBf16, ""});
    ASSERT_TRUE(report.ok()) << report.error().message;
    EXPECT_LT(report->differences[0].difference, 5e-3) << kernels->name;
    EXPECT_EQ(report->differences[0].what, "loss");
  }
}

// What is dumped is what was compared.
TEST(TrainingCase, DumpsItsNumbers) {
  ThreadPool pool(1);
  const std::string out = testing::TempDir() + "training_case_dump";
  const Result<TrainingReport> report =
      run_training_case(pool, *train_kernels_by_name("ref"), folder_of("train_v3_mtp"), {Precision::kFull, out});
  ASSERT_TRUE(report.ok()) << report.error().message;
  const auto ours = Npy::open(out + "/loss.npy").value().floats().value();
  const auto expected = Npy::open(folder_of("train_v3_mtp") + "/loss.npy").value().floats().value();
  ASSERT_EQ(ours.size(), expected.size());
  for (size_t i = 0; i < ours.size(); ++i) EXPECT_NEAR(ours[i], expected[i], 1e-5);
  EXPECT_TRUE(Npy::open(out + "/load.npy").ok());
}

}  // namespace
}  // namespace westlake
