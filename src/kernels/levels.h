// The tables of this build, one a level of machine. Only registry.cc and the level's own file name them.
#pragma once

#include "kernels/kernels.h"

namespace westlake {

extern const KernelTable kRefKernels;

#if defined(__x86_64__)
extern const KernelTable kAvx2Kernels;        // AVX2, FMA, F16C
extern const KernelTable kAvx512Kernels;      // AVX-512 F, BW, DQ, VL
extern const KernelTable kAvx512VnniKernels;  // and VNNI

// What a level adds to the one before it.
struct Bf16Kernels {
  decltype(KernelTable::round_bf16) round_bf16;
  decltype(KernelTable::gemm_bf16) gemm_bf16;
};
extern const Bf16Kernels kAvx512Bf16;  // VNNI, and dots of bfloat16
#endif

}  // namespace westlake
