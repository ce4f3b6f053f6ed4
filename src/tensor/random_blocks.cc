// Random weights: first random bytes everywhere, then each block gets its scales in place ("dressed"); the bits that
// stood there are the randomness of signs and sub-block scales. Plain numbers come from a table of 256 normal
// quantiles.
#include "tensor/random_blocks.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "tensor/codec_parts.h"
#include "tensor/scalar.h"

namespace westlake {
namespace {

constexpr uint16_t kSign = 0x8000;

void fill_random_bytes(Rng& rng, std::span<std::byte> out) {
  while (!out.empty()) {
    const uint64_t word = rng.next();
    const size_t n = std::min(out.size(), sizeof word);
    std::memcpy(out.data(), &word, n);
    out = out.subspan(n);
  }
}

// Mean of (x - zero)^2 over the integers low..high.
double mean_square(int low, int high, double zero = 0) {
  double sum = 0;
  for (int x = low; x <= high; ++x) sum += (x - zero) * (x - zero);
  return sum / (high - low + 1);
}

double mean_square_iq4() {
  double sum = 0;
  for (int8_t value : kIQ4Values) sum += value * value;
  return sum / 16;
}

// ---- Plain numbers ----

// 256 equally likely values of mean 0 and deviation 1: the normal quantiles at (i + 1/2) / 256, by bisection.
std::array<float, 256> normal_levels() {
  std::array<double, 256> levels;
  double sum_of_squares = 0;
  for (int i = 0; i < 128; ++i) {
    double low = 0, high = 8;
    for (int step = 0; step < 60; ++step) {
      const double middle = (low + high) / 2;
      (std::erf(middle / std::sqrt(2.0)) < (2 * i + 1) / 256.0 ? low : high) = middle;
    }
    levels[static_cast<size_t>(128 + i)] = low;
    levels[static_cast<size_t>(127 - i)] = -low;
    sum_of_squares += 2 * low * low;
  }
  std::array<float, 256> out;
  const double scale = std::sqrt(256 / sum_of_squares);
  for (size_t i = 0; i < 256; ++i) out[i] = static_cast<float>(levels[i] * scale);
  return out;
}

// The nearest finite E4M3 code, by trying all.
uint8_t nearest_e4m3(float x) {
  uint8_t best = 0;
  for (int code = 0; code < 0x7f; ++code) {
    const float miss = std::fabs(e4m3_to_float(static_cast<uint8_t>(code)) - std::fabs(x));
    if (miss < std::fabs(e4m3_to_float(best) - std::fabs(x))) best = static_cast<uint8_t>(code);
  }
  return static_cast<uint8_t>(best | (x < 0 ? 0x80 : 0));
}

template <typename Stored, typename Encode>
void fill_numbers(Rng& rng, float stddev, std::span<std::byte> out, Encode encode) {
  std::array<Stored, 256> table;
  const std::array<float, 256> levels = normal_levels();
  for (size_t i = 0; i < 256; ++i) table[i] = encode(levels[i] * stddev);
  while (!out.empty()) {
    uint64_t word = rng.next();
    Stored chunk[8];
    for (Stored& number : chunk) number = table[word & 255], word >>= 8;
    const size_t n = std::min(out.size(), sizeof chunk);
    std::memcpy(out.data(), chunk, n);
    out = out.subspan(n);
  }
}

// ---- Blocks. Each dress_x returns what sets the scales of one block, given the deviation of the weights ----

uint16_t half_scale(double stddev, double mean_square_of_integers) {
  return std::max<uint16_t>(1, finite_f16(static_cast<float>(stddev / std::sqrt(mean_square_of_integers))));
}

// A symmetric format whose integers lean to one side: the scale takes a random sign, so the mean over blocks is zero.
template <typename Block>
auto dress_symmetric(double stddev, double mean_square_of_integers) {
  return [d = half_scale(stddev, mean_square_of_integers)](Block& block) { block.d = (block.d & kSign) | d; };
}

// The half nearest to factor times the half d.
uint16_t multiple_of(uint16_t d, double factor) {
  return finite_f16(static_cast<float>(static_cast<double>(f16_to_float(d)) * factor));
}

// w = d * q + m with q in 0..top: m sits at minus the middle.
template <typename Block>
auto dress_offset(double stddev, int top) {
  const uint16_t d = half_scale(stddev, mean_square(0, top, top / 2.0));
  return [d, m = multiple_of(d, -top / 2.0)](Block& block) { block.d = d, block.m = m; };
}

auto dress_q8_0(double stddev) {
  return [d = half_scale(stddev, mean_square(-127, 127))](BlockQ8_0& block) {
    block.d = d;
    for (int8_t& q : block.qs) q = q == -128 ? int8_t{0} : q;  // the format has no -128
  };
}

// w = d * scale * q - dmin * min with q in 0..3: min = scale in 8..15 and dmin = 1.5 d put the middle on zero.
auto dress_q2_k(double stddev) {
  const uint16_t d = half_scale(stddev, mean_square(8, 15) * mean_square(0, 3, 1.5));
  return [d, dmin = multiple_of(d, 1.5)](BlockQ2_K& block) {
    block.d = d, block.dmin = dmin;
    for (uint8_t& byte : block.scales) byte = static_cast<uint8_t>((8 | (byte & 7)) * 17);
  };
}

// The same for Q4_K and Q5_K: min = scale in 32..63, dmin = top / 2 * d.
template <typename Block>
auto dress_q45_k(double stddev, int top) {
  const uint16_t d = half_scale(stddev, mean_square(32, 63) * mean_square(0, top, top / 2.0));
  return [d, dmin = multiple_of(d, top / 2.0)](Block& block) {
    block.d = d, block.dmin = dmin;
    for (int j = 0; j < 4; ++j) {
      const int first = 32 | (block.scales[j] & 31), second = 32 | (block.scales[j + 4] & 31);
      block.scales[j] = block.scales[j + 4] = static_cast<uint8_t>(first | second >> 4 << 6);
      block.scales[j + 8] = static_cast<uint8_t>((second & 15) * 17);
    }
  };
}

template <typename Block, typename Dress>
void fill_blocks(Rng& rng, std::span<std::byte> out, Dress dress) {
  constexpr size_t kChunk = 64 * sizeof(Block);  // stays in the first-level cache between the two passes
  while (!out.empty()) {
    const std::span<std::byte> chunk = out.first(std::min(out.size(), kChunk));
    fill_random_bytes(rng, chunk);
    for (size_t at = 0; at < chunk.size(); at += sizeof(Block)) {
      Block block;
      std::memcpy(&block, chunk.data() + at, sizeof block);
      dress(block);
      std::memcpy(chunk.data() + at, &block, sizeof block);
    }
    out = out.subspan(chunk.size());
  }
}

template <typename Block>
void fill_symmetric(Rng& rng, double stddev, std::span<std::byte> out, double mean_square_of_integers) {
  fill_blocks<Block>(rng, out, dress_symmetric<Block>(stddev, mean_square_of_integers));
}

}  // namespace

void fill_random_blocks(DType dtype, Rng& rng, float stddev, std::span<std::byte> out) {
  CHECK(std::isfinite(stddev) && stddev > 0, "deviation {}", stddev);
  CHECK(out.size() % static_cast<size_t>(dtype_info(dtype).block_bytes) == 0, "{} bytes are no whole blocks of {}",
        out.size(), dtype_name(dtype));
  const double s = static_cast<double>(stddev);
  const double six_bits = mean_square(-32, 31);  // of integers, and of scales less 32
  switch (dtype) {
    case DType::kF32:
      return fill_numbers<float>(rng, stddev, out, [](float x) { return x; });
    case DType::kF16:
      return fill_numbers<uint16_t>(rng, stddev, out, finite_f16);
    case DType::kBF16:
      return fill_numbers<uint16_t>(rng, stddev, out, float_to_bf16);
    case DType::kF8E4M3:
      return fill_numbers<uint8_t>(rng, stddev, out, nearest_e4m3);
    case DType::kQ4_0:
      return fill_symmetric<BlockQ4_0>(rng, s, out, mean_square(-8, 7));
    case DType::kQ4_1:
      return fill_blocks<BlockQ4_1>(rng, out, dress_offset<BlockQ4_1>(s, 15));
    case DType::kQ5_0:
      return fill_symmetric<BlockQ5_0>(rng, s, out, mean_square(-16, 15));
    case DType::kQ5_1:
      return fill_blocks<BlockQ5_1>(rng, out, dress_offset<BlockQ5_1>(s, 31));
    case DType::kQ8_0:
      return fill_blocks<BlockQ8_0>(rng, out, dress_q8_0(s));
    case DType::kQ2_K:
      return fill_blocks<BlockQ2_K>(rng, out, dress_q2_k(s));
    case DType::kQ3_K:
      return fill_symmetric<BlockQ3_K>(rng, s, out, six_bits * mean_square(-4, 3));
    case DType::kQ4_K:
      return fill_blocks<BlockQ4_K>(rng, out, dress_q45_k<BlockQ4_K>(s, 15));
    case DType::kQ5_K:
      return fill_blocks<BlockQ5_K>(rng, out, dress_q45_k<BlockQ5_K>(s, 31));
    case DType::kQ6_K:
      return fill_symmetric<BlockQ6_K>(rng, s, out, mean_square(-128, 127) * six_bits);
    case DType::kIQ4_NL:
      return fill_symmetric<BlockIQ4_NL>(rng, s, out, mean_square_iq4());
    case DType::kIQ4_XS:
      return fill_symmetric<BlockIQ4_XS>(rng, s, out, six_bits * mean_square_iq4());
    default:
      CHECK(false, "no random weights of {}", dtype_name(dtype));
  }
}

}  // namespace westlake
