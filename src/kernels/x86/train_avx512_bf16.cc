// AVX-512 with BF16 (Cooper Lake, Zen 4 and later): training, pairs of bfloat16 in one instruction.
//
// Made like the levels of kernels.h: see avx512.cc.
#if defined(__x86_64__)

// GCC 12 takes the undefined inputs inside its own AVX-512 intrinsics for ours.
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <immintrin.h>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "base/check.h"
#include "kernels/levels.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")
#endif

#define WESTLAKE_VNNI 0
#define WESTLAKE_TILES 0
#define WESTLAKE_BF16 1

// The order is that of use.
// clang-format off
namespace westlake::train_avx512_bf16 {
namespace {
#include "kernels/x86/bytes.h"
#include "kernels/x86/vec512.h"
#include "kernels/x86/operands512.h"
#include "kernels/x86/train_pack.h"
#include "kernels/x86/train_products.h"
#include "kernels/x86/train_multiply.h"
#include "kernels/x86/rows.h"
#include "kernels/x86/train_rows.h"
#include "kernels/x86/train_attend.h"
#include "kernels/x86/train_table.h"
}  // namespace
}  // namespace westlake::train_avx512_bf16
// clang-format on

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace westlake {

constinit const TrainKernels<float> kAvx512Bf16TrainKernels = train_avx512_bf16::train_table("avx512_bf16");

}  // namespace westlake

#endif  // __x86_64__
