// AMX (Sapphire Rapids and later): tiles of int8 and bfloat16 for products with many tokens. The level is avx512_bf16
// in everything else, and its int8 products have the bits of that level.
//
// No machine with these units was at hand: the bodies were run and checked as avx512_amx_emulated only, where the words
// of tiles.h are plain C++; what the instructions themselves do, and how fast they are, was not seen.
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
#pragma clang attribute push(                                                                                          \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,amx-tile,amx-int8,amx-bf16,avx2,fma,f16c"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,amx-tile,amx-int8,amx-bf16,avx2,fma,f16c")
#endif

#define WESTLAKE_VNNI 0

// The order is that of use.
// clang-format off
namespace westlake::avx512_amx {
namespace {
#include "kernels/x86/bytes.h"
#include "kernels/x86/vec512.h"
#include "kernels/x86/bf16.h"
#include "kernels/x86/formats.h"
#include "kernels/x86/packed_q8.h"
#include "kernels/x86/gemm_q8.h"
#include "kernels/x86/tiles.h"
#include "kernels/x86/gemm_q8_tiles.h"
#include "kernels/x86/gemm_bf16_tiles.h"
}  // namespace
}  // namespace westlake::avx512_amx
// clang-format on

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace westlake {

constinit const LevelAdditions kAvx512Amx = {avx512_amx::gemm_q8_tiles, avx512_amx::round_bf16, avx512_amx::gemm_bf16};

}  // namespace westlake

#endif  // __x86_64__
