// Numbers to superblocks of 256: Q4_K and Q6_K.
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

float largest_magnitude(const float* x, int n) {
  float magnitude = 0;
  for (int i = 0; i < n; ++i) magnitude = std::max(magnitude, std::fabs(x[i]));
  return magnitude;
}

// The search works on numbers in [-2, 2): the superblock over a power of two, which is exact, so that squares neither
// overflow nor vanish. Below half the smallest scale a half can hold, zero is the nearest value of all.
constexpr float kVanishes = 0x1p-25f;

float power_of_two_below(float magnitude) {
  return std::ldexp(1.0f, std::ilogb(magnitude));
}

// The stored scale d for which d * top reaches `largest`: rounding to a half may fall short by half a step at most.
// (That matters for halves below 2^-14, whose steps are coarse.)
uint16_t reaching_scale(float largest, float top) {
  uint16_t bits = finite_f16(largest / top);
  if (f16_to_float(bits) * (top + 0.5f) < largest && (bits & 0x7fff) < 0x7bff) ++bits;
  return bits;
}

// The search over step widths: as if the range had (levels + kFirstStep) ... steps, each kStepWidth further, then up to
// kRounds roundings under the scale just found. Measured on Gaussian and on real weights: more and finer steps lower
// the error by less than 0.1 %; without the steps below the number of levels (clipping the extremes) it rises by 1 to 2
// %.
constexpr int kSteps = 12, kRounds = 2, kRefits = 2;
constexpr float kFirstStep = -1.8f, kStepWidth = 0.3f;

constexpr float step_offset(int step) {
  return kFirstStep + kStepWidth * static_cast<float>(step);
}

// ---- Q4_K: x = scale * q - min, min >= 0, q in 0..15 ----

constexpr float kTop4 = 15;

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

// Adds the sums over q = nearest((x + min) * inverse).
void round_and_sum(const float* x, float min, float inverse, AffineSums& s) {
  Lanes q_sum = all(0), qq_sum = all(0), xq_sum = all(0);
  for (int i = 0; i < 32; i += kLanes) {
    const Lanes xi = load(x + i);
    const Lanes q = nearest_within((xi + all(min)) * all(inverse), 0, kTop4);
    q_sum += q;
    qq_sum += q * q;
    xq_sum += xi * q;
  }
  s.q = sum(q_sum), s.qq = sum(qq_sum), s.xq = sum(xq_sum);
}

Affine search_affine(const float* x) {
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
    round_and_sum(x, min, inverse, sums);
    Affine line;
    const float gain = best_line(sums, line);
    if (!(gain > best_gain) || !(line.scale > 0)) return false;
    best = line;
    best_gain = gain;
    return true;
  };
  for (int step = 0; step < kSteps; ++step) attempt(-low, (kTop4 + step_offset(step)) / range);
  for (int round = 0; round < kRounds && best.scale > 0; ++round) {
    if (!attempt(best.min, 1 / best.scale)) break;
  }
  return best_gain > 0 ? best : Affine{range / kTop4, -low};
}

// Squared error of 32 numbers under a scale and minimum as stored.
float affine_error(const float* x, Affine line) {
  const float inverse = line.scale > 0 ? 1 / line.scale : 0;
  Lanes error = all(0);
  for (int i = 0; i < 32; i += kLanes) {
    const Lanes xi = load(x + i);
    const Lanes q = nearest_within((xi + all(line.min)) * all(inverse), 0, kTop4);
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
SuperAffine choose_sub_scales(const float* x, const Affine fits[8], uint16_t d_bits, uint16_t dmin_bits, float unit) {
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
      const float error = affine_error(x + sub * 32, {d * scale, dmin * min});
      if (error >= least) continue;
      least = error;
      chosen.sub[sub] = {static_cast<uint8_t>(scale), static_cast<uint8_t>(min)};
    }
    chosen.error += least;
  }
  return chosen;
}

// Least squares of d and dmin over the whole superblock, integers as chosen.
void refit_halves(const float* x, const SuperAffine& from, float unit, float& d, float& dmin) {
  const float d0 = f16_to_float(from.d) / unit, dmin0 = f16_to_float(from.dmin) / unit;
  double qq = 0, qm = 0, mm = 0, xq = 0, xm = 0;
  for (int sub = 0; sub < 8; ++sub) {
    const float scale = from.sub[sub].scale, min = from.sub[sub].min;
    if (scale * d0 <= 0) continue;
    AffineSums s{.n = 32};
    round_and_sum(x + sub * 32, dmin0 * min, 1 / (d0 * scale), s);
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

}  // namespace

void quantise_block(const float* in, BlockQ4_K& block) {
  block = {};
  const float magnitude = largest_magnitude(in, 256);
  if (magnitude < kVanishes) return;
  const float unit = power_of_two_below(magnitude);
  float x[256];
  for (int i = 0; i < 256; ++i) x[i] = in[i] / unit;
  Affine fits[8];
  float largest_scale = 0, largest_min = 0;
  for (int sub = 0; sub < 8; ++sub) {
    fits[sub] = search_affine(x + sub * 32);
    largest_scale = std::max(largest_scale, fits[sub].scale);
    largest_min = std::max(largest_min, fits[sub].min);
  }
  SuperAffine best = choose_sub_scales(x, fits, reaching_scale(largest_scale * unit, 63),
                                       reaching_scale(largest_min * unit, 63), unit);
  for (int refit = 0; refit < kRefits; ++refit) {
    float d, dmin;
    refit_halves(x, best, unit, d, dmin);
    const SuperAffine next = choose_sub_scales(x, fits, finite_f16(d * unit), finite_f16(dmin * unit), unit);
    if (!(next.error < best.error)) break;
    best = next;
  }
  block.d = best.d;
  block.dmin = best.dmin;
  const float d = f16_to_float(best.d) / unit, dmin = f16_to_float(best.dmin) / unit;
  for (int sub = 0; sub < 8; ++sub) {
    const auto [scale, min] = best.sub[sub];
    if (sub < 4) {
      block.scales[sub] |= scale;
      block.scales[sub + 4] |= min;
    } else {
      block.scales[sub + 4] = (scale & 15) | (min & 15) << 4;
      block.scales[sub - 4] |= scale >> 4 << 6;
      block.scales[sub] |= min >> 4 << 6;
    }
    const float inverse = scale * d > 0 ? 1 / (scale * d) : 0;
    for (int i = 0; i < 32; i += kLanes) {
      const Lanes q = nearest_within((load(x + sub * 32 + i) + all(dmin * min)) * all(inverse), 0, kTop4);
      for (int lane = 0; lane < kLanes; ++lane) {
        uint8_t& byte = block.qs[sub / 2 * 32 + i + lane];
        byte = static_cast<uint8_t>(byte | static_cast<int>(q[lane]) << (sub % 2 * 4));
      }
    }
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
  const float inverse = scale != 0 ? 1 / scale : 0;
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
      if (error >= least) continue;
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
    if (scale * d == 0) continue;
    const LinearSums s = round_and_sum(x + sub * 16, 1 / (scale * d));
    qq += scale * scale * s.qq;
    xq += scale * s.xq;
  }
  return qq > 0 ? static_cast<float>(xq / qq) : d;
}

}  // namespace

void quantise_block(const float* in, BlockQ6_K& block) {
  block = {};
  const float magnitude = largest_magnitude(in, 256);
  if (magnitude < kVanishes) return;
  const float unit = power_of_two_below(magnitude);
  float x[256], fits[16], largest = 0;
  for (int i = 0; i < 256; ++i) x[i] = in[i] / unit;
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

  block.d = best.d;
  const float d = f16_to_float(best.d) / unit;
  for (int sub = 0; sub < 16; ++sub) {
    block.scales[sub] = best.sub[sub];
    const float scale = d * best.sub[sub], inverse = scale != 0 ? 1 / scale : 0;
    const int half = sub / 8, row = sub / 2 % 4, column = sub % 2 * 16;
    uint8_t* ql = block.ql + half * 64 + row % 2 * 32 + column;
    uint8_t* qh = block.qh + half * 32 + column;
    for (int i = 0; i < 16; i += kLanes) {
      const Lanes nearest = nearest_within(load(x + sub * 16 + i) * all(inverse), kLow6, kHigh6);
      for (int lane = 0; lane < kLanes; ++lane) {
        const int q = static_cast<int>(nearest[lane]) + 32;
        ql[i + lane] = static_cast<uint8_t>(ql[i + lane] | (q & 15) << (row / 2 * 4));
        qh[i + lane] = static_cast<uint8_t>(qh[i + lane] | q >> 4 << (row * 2));
      }
    }
  }
}

}  // namespace westlake
