// The bodies of avx512_amx with the words of tiles.h in plain C++: for tests, on any machine with AVX-512 VNNI. Never
// chosen unless named.
//
// The bodies are written once, in the words of vec512.h, and compiled here for this level alone: everything between
// the two pragmas may use its instructions, so only kernels_by_name(), which asked the machine, may hand them out.
// Every header of others comes before the first pragma: its inline functions must stay runnable anywhere.
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
#include "tensor/blocks.h"
#include "tensor/codec.h"
#include "tensor/panels.h"
#include "tensor/scalar.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#endif

#define WESTLAKE_VNNI 0

// The order is that of use.
// clang-format off
namespace westlake::avx512_amx_emulated {
namespace {
#include "kernels/x86/bytes.h"
#include "kernels/x86/vec512.h"
#include "kernels/x86/bf16.h"
#include "kernels/x86/formats.h"
#include "kernels/x86/packed_q8.h"
#include "kernels/x86/gemm_q8.h"
#include "kernels/x86/tiles_emulated.h"
#include "kernels/x86/gemm_q8_tiles.h"
#include "kernels/x86/gemm_bf16_tiles.h"
}  // namespace
}  // namespace westlake::avx512_amx_emulated
// clang-format on

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace westlake {

constinit const LevelAdditions kAvx512AmxEmulated = {avx512_amx_emulated::gemm_q8_tiles,
                                                     avx512_amx_emulated::round_bf16, avx512_amx_emulated::gemm_bf16};

}  // namespace westlake

#endif  // __x86_64__
