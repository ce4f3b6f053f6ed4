// Numbers to superblocks of 256: Q4_K, Q5_K and Q6_K.
// Idea: every sub-block gets its own best real scale (and minimum) by a search: for each of a few step widths round to
// integers, then the least-squares scale for these integers has a closed form, and so has the error it leaves. The
// superblock's half-precision scale must reach the largest of them; then each sub-block takes the integer scale (and
// minimum) that leaves the smallest error under the scale as stored. Plain squared error: no weights are preferred.
// Source: the problem is that of ggml's k-quants; the closed form is linear regression of x on q.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "tensor/codec_parts.h"
#include "tensor/scalar.h"

namespace westlake {
namespace {

// Sums run in four lanes, which SSE2 and NEON have as one register: quick, and the same result on every machine.
using Lanes = float __attribute__((vector_size(16)));
constexpr int kLanes = 4;

inline Lanes load(const float* x) {
  Lanes lanes;
  std::memcpy(&lanes, x, sizeof lanes);
  return lanes;
}
inline Lanes all(float x) {
  return Lanes{x, x, x, x};
}
inline float sum(Lanes x) {
  return (x[0] + x[2]) + (x[1] + x[3]);
}

// The integer nearest to x within [low, high], ties to even. Adding 1.5 * 2^23 leaves no bits below the point.
inline Lanes nearest_within(Lanes x, float low, float high) {
  x = x < all(low) ? all(low) : x;
  x = x > all(high) ? all(high) : x;
  return (x + all(0x1.8p23f)) - all(0x1.8p23f);
}

// Small integers to bytes.
inline void store(Lanes q, uint8_t* out) {
  for (int lane = 0; lane < kLanes; ++lane) out[lane] = static_cast<uint8_t>(static_cast<int>(q[lane]));
}

// The search works on numbers in [-2, 2): the superblock over a power of two, which is exact, so that squares neither
// overflow nor vanish. Below half the smallest scale a half can hold, zero is the nearest value of all.
constexpr float kVanishes = 0x1p-25f;

// x = in / unit with unit the power of two below the largest magnitude; returns it, or 0 if the superblock vanishes.
float to_units(const float* in, float x[256]) {
  float magnitude = 0;
  for (int i = 0; i < 256; ++i) magnitude = std::max(magnitude, std::fabs(in[i]));
  if (magnitude < kVanishes) return 0;
  const float unit = std::ldexp(1.0f, std::ilogb(magnitude));
  for (int i = 0; i < 256; ++i) x[i] = in[i] / unit;
  return unit;
}

// The stored scale d for which d * top reaches `largest`: rounding to a half may fall short by half a step at most.
// (That matters for halves below 2^-14, whose steps are coarse.)
uint16_t reaching_scale(float largest, float top) {
  uint16_t bits = finite_f16(largest / top);
  if (f16_to_float(bits) * (top + 0.5f) < largest && (bits & 0x7fff) < 0x7bff) ++bits;
  return bits;
}

// The search over step widths: the range counts as `levels` + step_offset(step) steps (more than there are: the
// extremes are clipped), then up to kRounds roundings under the scale just found. Measured on Gaussian and on real
// weights: finer steps lower the error by less than 0.1 %; without clipping that of Q6_K rises by 4 %.
constexpr int kSteps = 12, kRounds = 2, kRefits = 2;
constexpr float kFirstStep = -1.8f, kStepWidth = 0.3f;

constexpr float step_offset(int step) {
  return kFirstStep + kStepWidth * static_cast<float>(step);
}

// ---- Q4_K and Q5_K: x = scale * q - min, min >= 0, q in 0..top (15 or 31) ----

struct Affine {
  float scale = 0, min = 0;
};

// Least squares of x on q with the slope and offset in closed form; what is needed of the data is in these sums.
struct AffineSums {
  float n, x = 0, xx = 0, q = 0, qq = 0, xq = 0;
};

// The best line for the sums, and (returned) how much it lowers the squared error below sum x^2.
float best_line(const AffineSums& s, Affine& line) {
  const float determinant = s.n * s.qq - s.q * s.q;
  if (determinant > 0) {
    const float scale = (s.n * s.xq - s.x * s.q) / determinant;
    const float offset = (s.x - scale * s.q) / s.n;
    if (offset <= 0) {
      line = {scale, -offset};
      return scale * s.xq + offset * s.x;
    }
  }
  if (s.qq <= 0) {
    line = {0, std::max(0.0f, -s.x / s.n)};
    return line.min * line.min * s.n;
  }
  line = {s.xq / s.qq, 0};
  return line.scale * s.xq;
}

// Sets the sums over q = nearest((x + min) * inverse).
void round_and_sum(const float* x, float top, float min, float inverse, AffineSums& s) {
  Lanes q_sum = all(0), qq_sum = all(0), xq_sum = all(0);
  for (int i = 0; i < 32; i += kLanes) {
    const Lanes xi = load(x + i);
    const Lanes q = nearest_within((xi + all(min)) * all(inverse), 0, top);
    q_sum += q;
    qq_sum += q * q;
    xq_sum += xi * q;
  }
  s.q = sum(q_sum), s.qq = sum(qq_sum), s.xq = sum(xq_sum);
}

// The scale and minimum that leave the smallest squared error of 32 numbers.
Affine search_affine(const float* x, float top) {
  AffineSums sums{.n = 32};
  Lanes x_sum = all(0), xx_sum = all(0);
  for (int i = 0; i < 32; i += kLanes) x_sum += load(x + i), xx_sum += load(x + i) * load(x + i);
  sums.x = sum(x_sum), sums.xx = sum(xx_sum);
  const auto [low_at, high_at] = std::minmax_element(x, x + 32);
  const float low = std::min(*low_at, 0.0f), range = *high_at - low;
  if (range <= 0) return {0, -low};

  Affine best;
  float best_gain = -1;
  const auto attempt = [&](float min, float inverse) {
    round_and_sum(x, top, min, inverse, sums);
    Affine line;
    const float gain = best_line(sums, line);
    if (!(gain > best_gain) || !(line.scale > 0)) return false;
    best = line;
    best_gain = gain;
    return true;
  };
  for (int step = 0; step < kSteps; ++step) attempt(-low, (top + step_offset(step)) / range);
  for (int round = 0; round < kRounds && best.scale > 0; ++round) {
    if (!attempt(best.min, 1 / best.scale)) break;
  }
  return best_gain > 0 ? best : Affine{range / top, -low};
}

// Squared error of 32 numbers under a scale and minimum as stored.
float affine_error(const float* x, float top, Affine line) {
  const float inverse = inverse_or_zero(line.scale);
  Lanes error = all(0);
  for (int i = 0; i < 32; i += kLanes) {
    const Lanes xi = load(x + i);
    const Lanes q = nearest_within((xi + all(line.min)) * all(inverse), 0, top);
    const Lanes miss = all(line.scale) * q - all(line.min) - xi;
    error += miss * miss;
  }
  return sum(error);
}

struct SuperAffine {
  uint16_t d = 0, dmin = 0;
  ScaleMin sub[8] = {};
  float error = 0;
};

// The best integer scales and minima of the eight sub-blocks under the halves d and dmin (in units of `unit`).
SuperAffine choose_sub_scales(const float* x, float top, const Affine fits[8], uint16_t d_bits, uint16_t dmin_bits,
                              float unit) {
  SuperAffine chosen{.d = d_bits, .dmin = dmin_bits};
  const float d = f16_to_float(d_bits) / unit, dmin = f16_to_float(dmin_bits) / unit;
  const auto below = [](float x) { return std::clamp(std::floor(x), 0.0f, 62.0f); };
  for (int sub = 0; sub < 8; ++sub) {
    const float scale_floor = d > 0 ? below(fits[sub].scale / d) : 0;
    const float min_floor = dmin > 0 ? below(fits[sub].min / dmin) : 0;
    float least = INFINITY;
    for (int choice = 0; choice < 4; ++choice) {
      const float scale = scale_floor + static_cast<float>(choice % 2),
                  min = min_floor + static_cast<float>(choice / 2);
      const float error = affine_error(x + sub * 32, top, {d * scale, dmin * min});
      if (!(error < least)) continue;
      least = error;
      chosen.sub[sub] = {static_cast<uint8_t>(scale), static_cast<uint8_t>(min)};
    }
    chosen.error += least;
  }
  return chosen;
}

// Least squares of d and dmin over the whole superblock, integers as chosen.
void refit_halves(const float* x, float top, const SuperAffine& from, float unit, float& d, float& dmin) {
  const float d0 = f16_to_float(from.d) / unit, dmin0 = f16_to_float(from.dmin) / unit;
  double qq = 0, qm = 0, mm = 0, xq = 0, xm = 0;
  for (int sub = 0; sub < 8; ++sub) {
    const float scale = from.sub[sub].scale, min = from.sub[sub].min;
    const float inverse = inverse_or_zero(d0 * scale);
    if (inverse == 0) continue;
    AffineSums s{.n = 32};
    round_and_sum(x + sub * 32, top, dmin0 * min, inverse, s);
    Lanes x_sum = all(0);
    for (int i = 0; i < 32; i += kLanes) x_sum += load(x + sub * 32 + i);
    qq += scale * scale * s.qq;
    qm += scale * min * s.q;
    mm += min * min * 32;
    xq += scale * s.xq;
    xm += min * sum(x_sum);
  }
  d = d0, dmin = dmin0;
  const double det = qq * mm - qm * qm;
  if (mm <= 0) {
    if (qq > 0) d = static_cast<float>(xq / qq);
  } else if (det > 1e-9 * qq * mm) {
    d = static_cast<float>((xq * mm - xm * qm) / det);
    dmin = static_cast<float>((xq * qm - xm * qq) / det);
  }
}

SuperAffine fit_superblock(const float* x, float top, float unit) {
  Affine fits[8];
  float largest_scale = 0, largest_min = 0;
  for (int sub = 0; sub < 8; ++sub) {
    fits[sub] = search_affine(x + sub * 32, top);
    largest_scale = std::max(largest_scale, fits[sub].scale);
    largest_min = std::max(largest_min, fits[sub].min);
  }
  SuperAffine best = choose_sub_scales(x, top, fits, reaching_scale(largest_scale * unit, 63),
                                       reaching_scale(largest_min * unit, 63), unit);
  for (int refit = 0; refit < kRefits; ++refit) {
    float d, dmin;
    refit_halves(x, top, best, unit, d, dmin);
    const SuperAffine next = choose_sub_scales(x, top, fits, finite_f16(d * unit), finite_f16(dmin * unit), unit);
    if (!(next.error < best.error)) break;
    best = next;
  }
  return best;
}

// The inverse of unpack_scale_min.
void pack_scales(const ScaleMin sub[8], uint8_t packed[12]) {
  for (int i = 0; i < 4; ++i) {
    packed[i] = static_cast<uint8_t>(sub[i].scale | sub[i + 4].scale >> 4 << 6);
    packed[i + 4] = static_cast<uint8_t>(sub[i].min | sub[i + 4].min >> 4 << 6);
    packed[i + 8] = static_cast<uint8_t>((sub[i + 4].scale & 15) | (sub[i + 4].min & 15) << 4);
  }
}

// Fills d, dmin and scales of a zeroed block, and q[0..256) with the integers of its weights.
template <typename Block>
void quantise_affine(const float* in, float top, Block& block, uint8_t* q) {
  float x[256];
  const float unit = to_units(in, x);
  if (unit == 0) return;
  const SuperAffine best = fit_superblock(x, top, unit);
  block.d = best.d;
  block.dmin = best.dmin;
  pack_scales(best.sub, block.scales);
  const float d = f16_to_float(best.d) / unit, dmin = f16_to_float(best.dmin) / unit;
  for (int i = 0; i < 256; i += kLanes) {
    const auto [scale, min] = best.sub[i / 32];
    const Lanes shifted = load(x + i) + all(dmin * min);
    store(nearest_within(shifted * all(inverse_or_zero(d * scale)), 0, top), q + i);
  }
}

}  // namespace

void quantise_block(const float* in, BlockQ4_K& block) {
  block = {};
  uint8_t q[256] = {};
  quantise_affine(in, 15, block, q);
  for (int i = 0; i < 128; ++i) {
    const uint8_t* pair = q + i / 32 * 64 + i % 32;
    block.qs[i] = static_cast<uint8_t>(pair[0] | pair[32] << 4);
  }
}

void quantise_block(const float* in, BlockQ5_K& block) {
  block = {};
  uint8_t q[256] = {};
  quantise_affine(in, 31, block, q);
  for (int i = 0; i < 128; ++i) {
    const uint8_t* pair = q + i / 32 * 64 + i % 32;
    block.qs[i] = static_cast<uint8_t>((pair[0] & 15) | (pair[32] & 15) << 4);
    const int high = pair[0] >> 4 | pair[32] >> 4 << 1;
    block.qh[i % 32] = static_cast<uint8_t>(block.qh[i % 32] | high << (i / 32 * 2));
  }
}

// ---- Q6_K: x = scale * q, scale of either sign, q in -32..31 ----

namespace {

constexpr float kLow6 = -32, kHigh6 = 31;

struct LinearSums {
  float qq = 0, xq = 0;
};

LinearSums round_and_sum(const float* x, float inverse) {
  Lanes qq_sum = all(0), xq_sum = all(0);
  for (int i = 0; i < 16; i += kLanes) {
    const Lanes xi = load(x + i);
    const Lanes q = nearest_within(xi * all(inverse), kLow6, kHigh6);
    qq_sum += q * q;
    xq_sum += xi * q;
  }
  return {sum(qq_sum), sum(xq_sum)};
}

// The scale that leaves the smallest squared error of 16 numbers. Its sign puts the extreme on -32, the longer side.
float search_linear(const float* x) {
  float extreme = 0;
  for (int i = 0; i < 16; ++i) {
    if (std::fabs(x[i]) > std::fabs(extreme)) extreme = x[i];
  }
  if (extreme == 0) return 0;
  float best = extreme / kLow6, best_gain = 0;
  const auto attempt = [&](float inverse) {
    const LinearSums s = round_and_sum(x, inverse);
    if (s.qq <= 0 || !(s.xq * s.xq > best_gain * s.qq)) return false;
    best = s.xq / s.qq;
    best_gain = best * s.xq;
    return true;
  };
  for (int step = 0; step < kSteps; ++step) attempt((kLow6 + step_offset(step)) / extreme);
  for (int round = 0; round < kRounds; ++round) {
    if (!attempt(1 / best)) break;
  }
  return best;
}

float linear_error(const float* x, float scale) {
  const float inverse = inverse_or_zero(scale);
  Lanes error = all(0);
  for (int i = 0; i < 16; i += kLanes) {
    const Lanes xi = load(x + i);
    const Lanes miss = all(scale) * nearest_within(xi * all(inverse), kLow6, kHigh6) - xi;
    error += miss * miss;
  }
  return sum(error);
}

struct SuperLinear {
  uint16_t d = 0;
  int8_t sub[16] = {};
  float error = 0;
};

// The best integer scales of the sixteen sub-blocks under the half d (in units of `unit`).
SuperLinear choose_sub_scales(const float* x, const float fits[16], uint16_t d_bits, float unit) {
  SuperLinear chosen{.d = d_bits};
  const float d = f16_to_float(d_bits) / unit;
  for (int sub = 0; sub < 16; ++sub) {
    const float floor = d != 0 ? std::clamp(std::floor(fits[sub] / d), -128.0f, 126.0f) : 0;
    float least = INFINITY;
    for (float scale : {floor, floor + 1}) {
      const float error = linear_error(x + sub * 16, d * scale);
      if (!(error < least)) continue;
      least = error;
      chosen.sub[sub] = static_cast<int8_t>(scale);
    }
    chosen.error += least;
  }
  return chosen;
}

// Least squares of d over the whole superblock, integers as chosen.
float refit_half(const float* x, const SuperLinear& from, float unit) {
  const float d = f16_to_float(from.d) / unit;
  double qq = 0, xq = 0;
  for (int sub = 0; sub < 16; ++sub) {
    const float scale = from.sub[sub];
    const float inverse = inverse_or_zero(scale * d);
    if (inverse == 0) continue;
    const LinearSums s = round_and_sum(x + sub * 16, inverse);
    qq += scale * scale * s.qq;
    xq += scale * s.xq;
  }
  return qq > 0 ? static_cast<float>(xq / qq) : d;
}

SuperLinear fit_superblock(const float* x, float unit) {
  float fits[16], largest = 0;
  for (int sub = 0; sub < 16; ++sub) {
    fits[sub] = search_linear(x + sub * 16);
    if (std::fabs(fits[sub]) > std::fabs(largest)) largest = fits[sub];
  }
  // The largest scale falls on -128, the longer side.
  const uint16_t sign = largest > 0 ? 0x8000 : 0;
  SuperLinear best = choose_sub_scales(x, fits, sign | reaching_scale(std::fabs(largest) * unit, 128), unit);
  for (int refit = 0; refit < kRefits; ++refit) {
    const SuperLinear next = choose_sub_scales(x, fits, finite_f16(refit_half(x, best, unit) * unit), unit);
    if (!(next.error < best.error)) break;
    best = next;
  }
  return best;
}

}  // namespace

void quantise_block(const float* in, BlockQ6_K& block) {
  block = {};
  float x[256];
  const float unit = to_units(in, x);
  if (unit == 0) return;
  const SuperLinear best = fit_superblock(x, unit);
  block.d = best.d;
  std::memcpy(block.scales, best.sub, sizeof block.scales);
  const float d = f16_to_float(best.d) / unit;
  uint8_t q[256];
  for (int i = 0; i < 256; i += kLanes) {
    const Lanes nearest = nearest_within(load(x + i) * all(inverse_or_zero(d * best.sub[i / 16])), kLow6, kHigh6);
    store(nearest + all(32), q + i);
  }
  for (int i = 0; i < 64; ++i) {  // column i % 32 of half i / 32: four rows 32 apart
    const uint8_t* rows = q + i / 32 * 128 + i % 32;
    uint8_t* ql = block.ql + i / 32 * 64 + i % 32;
    ql[0] = static_cast<uint8_t>((rows[0] & 15) | (rows[64] & 15) << 4);
    ql[32] = static_cast<uint8_t>((rows[32] & 15) | (rows[96] & 15) << 4);
    block.qh[i] = static_cast<uint8_t>(rows[0] >> 4 | rows[32] >> 4 << 2 | rows[64] >> 4 << 4 | rows[96] >> 4 << 6);
  }
}

}  // namespace westlake
