// AVX2 with FMA and F16C (Haswell, Zen and later): training, eight lanes, bfloat16 widened.
//
// Made like the levels of kernels.h: see avx2.cc.
#if defined(__x86_64__)

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
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

#define WESTLAKE_VNNI 0
#define WESTLAKE_TILES 0
#define WESTLAKE_BF16 0

// The order is that of use.
// clang-format off
namespace westlake::train_avx2 {
namespace {
#include "kernels/x86/bytes.h"
#include "kernels/x86/vec256.h"
#include "kernels/x86/operands256.h"
#include "kernels/x86/train_pack.h"
#include "kernels/x86/train_products.h"
#include "kernels/x86/train_multiply.h"
#include "kernels/x86/rows.h"
#include "kernels/x86/train_rows.h"
#include "kernels/x86/train_attend.h"
#include "kernels/x86/train_table.h"
}  // namespace
}  // namespace westlake::train_avx2
// clang-format on

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace westlake {

constinit const TrainKernels<float> kAvx2TrainKernels = train_avx2::train_table("avx2");

}  // namespace westlake

#endif  // __x86_64__
