// The first step of training against the independent references.
#include "model/train_case.h"

#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

namespace westlake {
namespace {

std::vector<std::string> train_cases() {
  std::vector<std::string> folders;
  for (const char* root : {WESTLAKE_SOURCE_DIR "/tests/golden/train", WESTLAKE_SOURCE_DIR "/../shared/golden"}) {
    if (!std::filesystem::is_directory(root)) continue;
    for (const auto& entry : std::filesystem::directory_iterator(root)) {
      if (is_train_case(entry.path().string())) folders.push_back(entry.path().string());
    }
  }
  std::sort(folders.begin(), folders.end());
  return folders;
}

// The step of a case in a context of its own.
template <typename Real>
struct CaseRun {
  CaseRun(const std::string& folder, const TrainKernels<Real>& kernels, int threads, Precision precision,
          bool recompute = false)
      : pool(threads), ctx{kernels, pool, arena, precision} {
    auto opened = open_train_case(folder);
    EXPECT_TRUE(opened.ok()) << opened.error().message;
    c = std::move(*opened);
    auto loaded = load_train_case_model<Real>(c);
    EXPECT_TRUE(loaded.ok()) << loaded.error().message;
    model = std::move(*loaded);
    TrainOptions options = c.options();
    options.recompute = recompute;
    const int64_t bytes = model.plan(ctx, c.B, c.T, options);
    arena.reserve(bytes);
    // NaN everywhere: who reads what nobody has written shows.
    const ArenaScope scope(arena);
    std::memset(arena.take<std::byte>(bytes), 0xff, bytes);
  }
  TrainCase c;
  TrainModel<Real> model;
  ThreadPool pool;
  Arena arena;
  TrainContext<Real> ctx;
};

TEST(TrainCase, FirstStepOfEveryFolder) {
  const std::vector<std::string> folders = train_cases();
  ASSERT_GE(folders.size(), 2u) << "tests/golden/train is gone";
  for (const std::string& folder : folders) {
    for (const TrainKernels<float>* level : available_train_kernels()) {
      CaseRun<float> run(folder, *level, 2, Precision::kFull);
      auto report = check_first_step(run.ctx, run.c, run.model);
      ASSERT_TRUE(report.ok()) << report.error().message;
      EXPECT_TRUE(report->passed()) << folder << " " << level->name << ": "
                                    << fmt::format("{}", fmt::join(report->failures, "; "));
      EXPECT_GT(report->grads.compared, 10);
      RecordProperty(run.c.name + "_" + std::string(level->name), fmt::format("{:.2g}", report->grads.rel_l2));
    }
  }
}

TEST(TrainCase, FirstStepInDouble) {
  for (const std::string& folder : train_cases()) {
    CaseRun<double> run(folder, ref_train_kernels_double(), 1, Precision::kFull);
    auto report = check_first_step(run.ctx, run.c, run.model);
    ASSERT_TRUE(report.ok()) << report.error().message;
    EXPECT_TRUE(report->passed()) << folder << ": " << fmt::format("{}", fmt::join(report->failures, "; "));
    // A tenth of the tolerance is the reference's own error.
    EXPECT_LT(report->grads.rel_l2, 4e-6) << folder << " " << report->grads.worst;
  }
}

// bfloat16 operands flip choices of experts, so only the loss is held.
TEST(TrainCase, LossOfBf16) {
  for (const std::string& folder : train_cases()) {
    for (const TrainKernels<float>* level : available_train_kernels()) {
      CaseRun<float> run(folder, *level, 2, Precision::kBf16);
      auto report = check_first_step(run.ctx, run.c, run.model);
      ASSERT_TRUE(report.ok()) << report.error().message;
      EXPECT_LT(report->loss_rel, 1e-2) << folder;
      EXPECT_LT(report->grad_norm_rel, 5e-2) << folder;
    }
  }
}

template <typename Real>
std::vector<Real> all_gradients(TrainModel<Real>& model) {
  std::vector<Real> all;
  for (const TrainParam<Real>& p : model.params()) all.insert(all.end(), p.grad, p.grad + p.rows * p.cols);
  return all;
}

TEST(TrainCase, BitsDependOnNeitherThreadsNorRecompute) {
  for (const std::string& folder : train_cases()) {
    for (const Precision precision : {Precision::kFull, Precision::kBf16}) {
      std::vector<float> expected;
      double loss = 0;
      for (const bool recompute : {false, true}) {
        for (const int threads : {1, 2, 3}) {
          CaseRun<float> run(folder, *train_kernels_by_name(""), threads, precision, recompute);
          TrainOptions options = run.c.options();
          options.recompute = recompute;
          run.model.pack_weights(run.ctx);
          const TrainLoss seen = run.model.loss_and_gradients(run.ctx, run.c.batch(0), options);
          const std::vector<float> grads = all_gradients(run.model);
          if (expected.empty()) {
            expected = grads;
            loss = seen.loss;
          }
          EXPECT_EQ(seen.loss, loss) << folder;
          EXPECT_TRUE(grads == expected) << folder << ", " << threads << " threads, recompute " << recompute;
          EXPECT_EQ(run.arena.mark(), 0);
        }
      }
    }
  }
}

}  // namespace
}  // namespace westlake
