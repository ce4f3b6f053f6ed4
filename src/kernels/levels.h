// The tables of this build, one a level of machine. Only registry.cc and the level's own file name them.
#pragma once

#include "base/cpu.h"  // for the bodies of the levels
#include "kernels/kernels.h"
#include "kernels/training.h"

namespace westlake {

extern const KernelTable kRefKernels;
extern const TrainKernels<float> kRefTrainKernels;

#if defined(__x86_64__)
extern const KernelTable kAvx2Kernels;        // AVX2, FMA, F16C
extern const KernelTable kAvx512Kernels;      // AVX-512 F, BW, DQ, VL
extern const KernelTable kAvx512VnniKernels;  // and VNNI

extern const TrainKernels<float> kAvx2TrainKernels;
extern const TrainKernels<float> kAvx512TrainKernels;
extern const TrainKernels<float> kAvx512Bf16TrainKernels;         // AVX-512 with BF16
extern const TrainKernels<float> kAvx512AmxTrainKernels;          // and matrix tiles
extern const TrainKernels<float> kAvx512AmxEmulatedTrainKernels;  // the same bodies, their tiles in plain C++

// What a level adds to the one before it; null: nothing.
struct LevelAdditions {
  decltype(KernelTable::gemm_q8) gemm_q8;
  decltype(KernelTable::round_bf16) round_bf16;
  decltype(KernelTable::gemm_bf16) gemm_bf16;
};
extern const LevelAdditions kAvx512Bf16;         // VNNI, and dots of bfloat16
extern const LevelAdditions kAvx512Amx;          // and matrix tiles
extern const LevelAdditions kAvx512AmxEmulated;  // the same bodies, their tiles in plain C++: needs VNNI alone
#endif

}  // namespace westlake
