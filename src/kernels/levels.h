// The tables of this build, one a level of machine. Only registry.cc and the level's own file name them.
#pragma once

#include "base/cpu.h"  // for the bodies of the levels
#include "kernels/kernels.h"

namespace westlake {

extern const KernelTable kRefKernels;

#if defined(__x86_64__)
extern const KernelTable kAvx2Kernels;        // AVX2, FMA, F16C
extern const KernelTable kAvx512Kernels;      // AVX-512 F, BW, DQ, VL
extern const KernelTable kAvx512VnniKernels;  // and VNNI
#endif

}  // namespace westlake
