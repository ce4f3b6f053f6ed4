// What this machine can do: instruction sets, memory, and its name, for messages and for choosing kernels.
#pragma once

#include <cstdint>
#include <string>

namespace westlake {

struct CpuFeatures {
  bool avx2 = false;    // with FMA and F16C
  bool avx512 = false;  // F, BW, DQ, VL, CD
  bool avx512_vnni = false;
  bool avx512_vbmi = false;
  bool avx512_bf16 = false;
  bool amx_tile = false;  // tile registers, usable by this process
  bool amx_bf16 = false;  // and their products
  bool amx_int8 = false;
};

// Asked once; Thread-safe.
const CpuFeatures& cpu_features();

std::string cpu_name();
uint64_t total_memory_bytes();
uint64_t available_memory_bytes();  // MemAvailable: what can be had without swapping
uint64_t peak_rss_bytes();          // of this process so far

}  // namespace westlake
