// The roofs of this machine: what memory and arithmetic can do at most, measured, so that a kernel's speed has a scale.
#pragma once

#include <cstdint>
#include <memory>

#include "base/thread_pool.h"

namespace westlake {

struct Roof {
  double read_gb_s = 0;     // reading memory, all threads, far beyond the caches
  double f32_gflop_s = 0;   // fused multiply-adds counted as two
  double int8_gop_s = 0;    // int8 multiply-adds counted as two
  double bf16_gflop_s = 0;  // bf16 dot products; 0 when this machine has no instruction for them
};

// The read roof alone, again and again: on a machine that shares its memory with others it moves by a factor of two
// within seconds, so that a figure needs the roof of its own moment. Holds a quarter of the free memory, at most 384
// MB.
class ReadRoof {
 public:
  explicit ReadRoof(ThreadPool& pool);
  // The best of three passes, some 20 ms; 0 when there was no memory for it.
  double gb_s();

 private:
  ThreadPool& pool_;
  int64_t words_ = 0;
  std::unique_ptr<uint64_t[]> buffer_;
};

// All threads of the pool work. Takes about half a second and, for the while, at most 384 MB of memory.
Roof measure_roof(ThreadPool& pool);

}  // namespace westlake
