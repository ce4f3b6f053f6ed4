// The tables of this build, one a level of machine. Only registry.cc and the level's own file name them.
#pragma once

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
#endif

}  // namespace westlake
