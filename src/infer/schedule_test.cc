// The default policy: everybody who writes writes, the first prompt moves on, short prompts do not wait for long ones.
#include "infer/schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "base/rng.h"

namespace westlake {
namespace {

std::vector<int64_t> share(const std::vector<SequenceLoad>& loads, int64_t budget) {
  std::vector<int64_t> shares(loads.size(), -1);
  FairScheduler().share(loads, budget, shares);
  return shares;
}

using Shares = std::vector<int64_t>;

TEST(FairScheduler, Shares) {
  EXPECT_EQ(share({{1, 0, 0}, {2, 0, 0}}, 10), (Shares{1, 1}));
  EXPECT_EQ(share({{1, 0, 100}}, 10), (Shares{10}));
  EXPECT_EQ(share({{1, 0, 4}}, 10), (Shares{4}));
  // Half to the oldest, half to the shortest.
  EXPECT_EQ(share({{1, 0, 100}, {2, 0, 50}, {3, 0, 3}}, 10), (Shares{5, 2, 3}));
  EXPECT_EQ(share({{3, 0, 3}, {1, 0, 100}, {2, 0, 50}}, 10), (Shares{3, 5, 2}));
  // What one does not need, another gets.
  EXPECT_EQ(share({{1, 0, 2}, {2, 0, 0}, {3, 0, 100}}, 10), (Shares{2, 1, 8}));
  EXPECT_EQ(share({{1, 0, 9}, {2, 0, 100}}, 10), (Shares{9, 1}));
  EXPECT_EQ(share({{1, 0, 100}, {2, 0, 50}}, 1), (Shares{1, 0}));
  EXPECT_EQ(FairScheduler().next(std::vector<SequenceLoad>{{4, 0, 9}, {5, 0, 1}}), 0u);
}

TEST(FairScheduler, WastesNothing) {
  Rng rng(1);
  for (int round = 0; round < 500; ++round) {
    std::vector<SequenceLoad> loads(1 + rng.below(8));
    int64_t prompts = 0, writers = 0;
    for (size_t i = 0; i < loads.size(); ++i) {
      loads[i] = {i, 0, static_cast<int64_t>(rng.below(3) == 0 ? 0 : rng.below(60))};
      prompts += loads[i].prompt_left;
      writers += loads[i].prompt_left == 0;
    }
    const int64_t budget = 1 + static_cast<int64_t>(rng.below(100));
    const Shares shares = share(loads, budget);
    for (size_t i = 0; i < loads.size(); ++i) {
      ASSERT_GE(shares[i], 0);
      ASSERT_LE(shares[i], std::max<int64_t>(loads[i].prompt_left, 1));
    }
    ASSERT_EQ(std::accumulate(shares.begin(), shares.end(), int64_t{0}), writers + std::min(budget, prompts));
  }
}

}  // namespace
}  // namespace westlake
