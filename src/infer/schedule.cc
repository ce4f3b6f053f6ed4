#include "infer/schedule.h"

#include <algorithm>
#include <vector>

namespace westlake {

size_t FairScheduler::next(std::span<const SequenceLoad>) {
  return 0;
}

void FairScheduler::share(std::span<const SequenceLoad> running, int64_t budget, std::span<int64_t> shares) {
  std::vector<size_t> prompts;
  for (size_t i = 0; i < running.size(); ++i) {
    shares[i] = running[i].prompt_left == 0 ? 1 : 0;
    if (running[i].prompt_left > 0) prompts.push_back(i);
  }
  if (prompts.empty()) return;
  auto give = [&](size_t i, int64_t most) {
    const int64_t n = std::min({running[i].prompt_left - shares[i], most, budget});
    shares[i] += n;
    budget -= n;
  };
  const size_t oldest = *std::min_element(prompts.begin(), prompts.end(),
                                          [&](size_t a, size_t b) { return running[a].id < running[b].id; });
  give(oldest, (budget + 1) / 2);
  std::stable_sort(prompts.begin(), prompts.end(),
                   [&](size_t a, size_t b) { return running[a].prompt_left < running[b].prompt_left; });
  for (size_t i : prompts) give(i, budget);
}

}  // namespace westlake
