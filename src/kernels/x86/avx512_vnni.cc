// AVX-512 with VNNI (Cascade Lake, Zen 4 and later): an int8 dot of four a lane is one instruction.
//
// The bodies are written once, in the words of vec512.h, and compiled here for this level alone: everything between
// the two pragmas may use its instructions, so only kernels_by_name(), which asked the machine, may hand out the table.
// Every header of others comes before the first pragma: its inline functions must stay runnable anywhere.
#if defined(__x86_64__)

// GCC 12 takes the undefined inputs inside its own AVX-512 intrinsics for ours.
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <immintrin.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <type_traits>

#include "base/check.h"
#include "kernels/levels.h"
#include "tensor/blocks.h"
#include "tensor/codec.h"
#include "tensor/panels.h"
#include "tensor/scalar.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")
#endif

#define WESTLAKE_VNNI 1

// The order is that of use.
// clang-format off
namespace westlake::avx512_vnni {
namespace {
#include "kernels/x86/bytes.h"
#include "kernels/x86/vec512.h"
#include "kernels/x86/formats.h"
#include "kernels/x86/packed_q8.h"
#include "kernels/x86/gemm_q8.h"
#include "kernels/x86/e4m3_tables.h"
#include "kernels/x86/gemm_f32.h"
#include "kernels/x86/rows.h"
#include "kernels/x86/attend.h"
#include "kernels/x86/dots_q8.h"
#include "kernels/x86/attend_q8.h"
#include "kernels/x86/expand_q8.h"
#include "kernels/table.h"
}  // namespace
}  // namespace westlake::avx512_vnni
// clang-format on

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace westlake {

constinit const KernelTable kAvx512VnniKernels = avx512_vnni::table_named("avx512_vnni");

}  // namespace westlake

#endif  // __x86_64__
