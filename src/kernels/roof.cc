// Measures the roofs with the widest instructions of the machine.
//
// Idea: read: every thread sums its part of a large buffer in four streams; the best of a few passes counts, because
// other programs can only make it slower. Arithmetic: chains of independent instructions on registers, enough of them
// to hide their latency, the best of a few short runs.
#include "kernels/roof.h"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

#include "base/clock.h"
#include "base/cpu.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace westlake {
namespace {

// The steps of one run of a compute roof: some hundred microseconds.
constexpr int64_t kSteps = 50'000;
constexpr int kChains = 12;  // latency (up to 5) x instructions a cycle (2), and two in reserve

std::atomic<uint64_t> sink;  // results end here, so that no loop can be dropped

using Compute = void (*)();  // kSteps x kChains instructions
using Read = uint64_t (*)(const uint64_t* p, int64_t words);

struct Probe {
  Compute run = nullptr;
  double operations = 0;  // of one instruction
};

uint64_t read_plain(const uint64_t* p, int64_t words) {
  uint64_t sum[4] = {};
  for (int64_t i = 0; i + 4 <= words; i += 4) {
    for (int j = 0; j < 4; ++j) sum[j] ^= p[i + j];
  }
  return sum[0] ^ sum[1] ^ sum[2] ^ sum[3];
}

void f32_plain() {
  float sums[kChains] = {};
  const float factor = static_cast<float>(sink.load(std::memory_order_relaxed) & 1) * 0.5f;
  for (int64_t i = 0; i < kSteps; ++i) {
    for (float& sum : sums) sum = sum * factor + factor;
  }
  float total = 0;
  for (float sum : sums) total += sum;
  sink += static_cast<uint64_t>(total);
}

}  // namespace

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
namespace {

uint64_t read_avx2(const uint64_t* p, int64_t words) {
  const int64_t quarter = words / 4 / 8 * 8;
  __m256i sums[4] = {};
  for (int64_t i = 0; i + 8 <= quarter; i += 8) {
    for (int s = 0; s < 4; ++s) {
      const auto* q = reinterpret_cast<const __m256i*>(p + s * quarter + i);
      sums[s] = _mm256_xor_si256(sums[s], _mm256_xor_si256(_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)));
    }
  }
  const __m256i all = _mm256_xor_si256(_mm256_xor_si256(sums[0], sums[1]), _mm256_xor_si256(sums[2], sums[3]));
  return static_cast<uint64_t>(_mm256_extract_epi64(all, 0) ^ _mm256_extract_epi64(all, 3));
}

void f32_avx2() {
  __m256 sums[kChains] = {};
  const __m256 factor = _mm256_set1_ps(static_cast<float>(sink.load(std::memory_order_relaxed) & 1) * 0.5f);
  for (int64_t i = 0; i < kSteps; ++i) {
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) sums[c] = _mm256_fmadd_ps(sums[c], factor, factor);
  }
  float total = 0;
  for (const __m256& sum : sums) total += _mm256_cvtss_f32(sum);
  sink += static_cast<uint64_t>(total);
}

// maddubs, madd and add: three instructions for 32 products.
void int8_avx2() {
  const __m256i x = _mm256_set1_epi8(static_cast<char>(sink.load(std::memory_order_relaxed) & 1));
  __m256i sums[kChains];
  for (__m256i& sum : sums) sum = x;
  for (int64_t i = 0; i < kSteps; ++i) {
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) {
      const __m256i pairs = _mm256_maddubs_epi16(x, sums[c]);
      sums[c] = _mm256_add_epi32(sums[c], _mm256_madd_epi16(pairs, x));
    }
  }
  __m256i all = sums[0];
  for (const __m256i& sum : sums) all = _mm256_xor_si256(all, sum);
  sink += static_cast<uint64_t>(_mm256_extract_epi64(all, 0));
}

}  // namespace
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni,avx512bf16"))), \
                             apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512vnni,avx512bf16")
#endif
namespace {

// One body for the three kinds of dot; each is only called where its instruction exists.
template <typename Sum, typename Step>
inline __attribute__((always_inline)) void chains(Sum start, Step step) {
  Sum sums[kChains];
  for (Sum& sum : sums) sum = start;
  for (int64_t i = 0; i < kSteps; ++i) {
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) sums[c] = step(sums[c]);
  }
  alignas(64) uint64_t words[8], all = 0;
  for (const Sum& sum : sums) {
    __builtin_memcpy(words, &sum, sizeof words);
    for (uint64_t word : words) all ^= word;
  }
  sink += all;
}

void f32_avx512() {
  const __m512 factor = _mm512_set1_ps(static_cast<float>(sink.load(std::memory_order_relaxed) & 1) * 0.5f);
  chains(factor, [&](__m512 sum) { return _mm512_fmadd_ps(sum, factor, factor); });
}

void int8_avx512_vnni() {
  const __m512i x = _mm512_set1_epi8(static_cast<char>(sink.load(std::memory_order_relaxed) & 1));
  chains(x, [&](__m512i sum) { return _mm512_dpbusd_epi32(sum, x, x); });
}

void bf16_avx512() {
  const __m512 one = _mm512_set1_ps(static_cast<float>(sink.load(std::memory_order_relaxed) & 1));
  __m512bh pairs;
  __builtin_memcpy(&pairs, &one, sizeof pairs);
  chains(one, [&](__m512 sum) { return _mm512_dpbf16_ps(sum, pairs, pairs); });
}

}  // namespace
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("amx-tile,amx-int8,amx-bf16"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("amx-tile,amx-int8,amx-bf16")
#endif
namespace {
#define KERNEL_INLINE inline __attribute__((always_inline))
#include "kernels/x86/tiles.h"
#undef KERNEL_INLINE

constexpr TileShape kFull = {16, 64};
constexpr int kTileChains = 4;  // C: a dot takes sixteen cycles, its result four times as long

void int8_amx() {
  tiles_configure({kFull, kFull, kFull, kFull, kFull, kFull, kFull, kFull});
  for (int64_t i = 0; i < kSteps * kChains / kTileChains; ++i) {
    dot_i8<0, 4, 6>();
    dot_i8<1, 4, 7>();
    dot_i8<2, 5, 6>();
    dot_i8<3, 5, 7>();
  }
  tiles_release();
}

void bf16_amx() {
  tiles_configure({kFull, kFull, kFull, kFull, kFull, kFull, kFull, kFull});
  for (int64_t i = 0; i < kSteps * kChains / kTileChains; ++i) {
    dot_bf16<0, 4, 6>();
    dot_bf16<1, 4, 7>();
    dot_bf16<2, 5, 6>();
    dot_bf16<3, 5, 7>();
  }
  tiles_release();
}

}  // namespace
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // __x86_64__

namespace {

double compute_roof(ThreadPool& pool, const Probe& probe) {
  if (probe.run == nullptr) return 0;
  double best = 0;
  for (int repeat = 0; repeat < 20; ++repeat) {
    const int64_t start = now_ns();
    pool.run([&](int) { probe.run(); });
    best = std::max(
        best, static_cast<double>(pool.size() * kSteps * kChains) * probe.operations / (seconds_since(start) * 1e9));
  }
  return best;
}

int64_t part(int64_t words, int thread, int threads) {
  return words / 64 * thread / threads * 64;
}

Read widest_read() {
#if defined(__x86_64__)
  if (cpu_features().avx2) return read_avx2;
#endif
  return read_plain;
}

}  // namespace

ReadRoof::ReadRoof(ThreadPool& pool) : pool_(pool) {
  const int64_t size = std::clamp<int64_t>(static_cast<int64_t>(available_memory_bytes() / 4), 64 << 20, 384 << 20);
  buffer_.reset(new (std::nothrow) uint64_t[static_cast<size_t>(size / 8)]);
  if (buffer_ == nullptr) return;
  words_ = size / 8;
  pool_.run([&](int thread) {
    std::fill(&buffer_[part(words_, thread, pool_.size())], &buffer_[part(words_, thread + 1, pool_.size())],
              uint64_t{1});
  });
}

double ReadRoof::gb_s() {
  const Read read = widest_read();
  double best = 0;
  for (int repeat = 0; repeat < 3 && words_ > 0; ++repeat) {
    const int64_t start = now_ns();
    pool_.run([&](int thread) {
      const int64_t begin = part(words_, thread, pool_.size()), end = part(words_, thread + 1, pool_.size());
      sink += read(&buffer_[begin], end - begin);
    });
    best = std::max(best, static_cast<double>(8 * words_) / (seconds_since(start) * 1e9));
  }
  return best;
}

Roof measure_roof(ThreadPool& pool) {
  Probe f32 = {f32_plain, 2}, int8, bf16;
#if defined(__x86_64__)
  const CpuFeatures& cpu = cpu_features();
  if (cpu.avx2) {
    f32 = {f32_avx2, 16};
    int8 = {int8_avx2, 64};
  }
  if (cpu.avx512) f32 = {f32_avx512, 32};
  if (cpu.avx512_vnni) int8 = {int8_avx512_vnni, 128};
  if (cpu.avx512_bf16) bf16 = {bf16_avx512, 64};
  if (cpu.amx_int8) int8 = {int8_amx, 2 * 16 * 16 * 64};
  if (cpu.amx_bf16) bf16 = {bf16_amx, 2 * 16 * 16 * 32};
#endif
  return {ReadRoof(pool).gb_s(), compute_roof(pool, f32), compute_roof(pool, int8), compute_roof(pool, bf16)};
}

}  // namespace westlake
