// Scheduler: which sequence gets how much of an engine's step. The engine asks, a policy answers; what the policy
// decides changes when tokens come, never which tokens.
#pragma once

#include <cstdint>
#include <span>

namespace westlake {

// A sequence as a policy sees it.
struct SequenceLoad {
  uint64_t id = 0;          // ascending in the order of arrival
  int64_t tag = 0;          // whatever submit() was given: a user, a class of service
  int64_t prompt_left = 0;  // tokens of the prompt that are not computed yet; 0: an answer is being written
};

class Scheduler {
 public:
  virtual ~Scheduler() = default;

  // Who of `waiting`, which is not empty and in the order of arrival, comes next: an index. Until there is room for it
  // nobody else is let in, so that a large request cannot be starved by small ones.
  virtual size_t next(std::span<const SequenceLoad> waiting) = 0;

  // Fills shares [running]: tokens of its prompt for one that has some left, 1 for one that writes (0: it sits this
  // step out). budget: tokens of prompts that a step should have; not less than one. `running` is in the order of
  // admission.
  virtual void share(std::span<const SequenceLoad> running, int64_t budget, std::span<int64_t> shares) = 0;
};

// The default. First come, first admitted; all that write, write in every step. Half of the budget goes to the prompt
// that came first, so that a long one moves on whatever comes after it; the other half to those with the least left, so
// that short ones need not wait for a long one.
class FairScheduler : public Scheduler {
 public:
  size_t next(std::span<const SequenceLoad> waiting) override;
  void share(std::span<const SequenceLoad> running, int64_t budget, std::span<int64_t> shares) override;
};

}  // namespace westlake
