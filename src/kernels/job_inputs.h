// What products multiply their weights with: the inputs of jobs, rounded and laid out as the kernels take them.
//
// Idea: int8 rows of x are made once for all jobs that read some of them, each through its index. Rests and bfloat16 go
// in groups of tokens, so that these inputs, and float32 ones that are no rows of x, are made for the tokens of one
// job; neighbours with the same tokens share them.
#pragma once

#include "kernels/context.h"

namespace westlake {

// One of the three.
struct JobInput {
  Q8Rows q8{};
  Bf16Rows bf16{};
  const float* x = nullptr;  // [T, K]
  int64_t ldx = 0;           // of x
  Q8Rest* rest = nullptr;    // of q8, for fine activations
  float* made = nullptr;     // x, when it is written here
  bool first = false;        // of the jobs that share it: to be made for this one
};

bool takes_q8(const Context& ctx, const Mat& w);

// One a job, in scratch memory.
const JobInput* make_inputs(Context& ctx, const LinearJob* jobs, int n_jobs);

}  // namespace westlake
