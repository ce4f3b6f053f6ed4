// The roofs of this machine: what memory and arithmetic can do at most, measured, so that a kernel's speed has a scale.
#pragma once

#include "base/thread_pool.h"

namespace westlake {

struct Roof {
  double read_gb_s = 0;     // reading memory, all threads, far beyond the caches
  double f32_gflop_s = 0;   // fused multiply-adds counted as two
  double int8_gop_s = 0;    // int8 multiply-adds counted as two
  double bf16_gflop_s = 0;  // bf16 dot products; 0 when this machine has no instruction for them
};

// All threads of the pool work. Takes about half a second and, for the while, at most 384 MB of memory.
Roof measure_roof(ThreadPool& pool);

}  // namespace westlake
