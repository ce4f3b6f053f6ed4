// Operations on one row: norm, activation, softmax, rotation, and activations to int8. Included inside the level's
// namespace and target region; includes nothing itself. All are bound by memory or by latency; one pass each, two for
// rms_norm, three for softmax.

// exp(x) to about one unit in the last place, with the right limits at both ends; NaN stays NaN.
//   x = n ln2 + r, |r| <= ln2 / 2:  exp(x) = 2^n exp(r), exp(r) by its Taylor series, whose next term is below 2^-27
inline Floats exp(Floats x) {
  constexpr float kLog2e = 0x1.715476p+0f, kLn2High = 0x1.62e43p-1f, kLn2Low = -0x1.05c61p-29f;
  constexpr float kOverflow = 89.0f;     // exp is infinite from here on
  constexpr float kUnderflow = -104.0f;  // exp rounds to zero
  x = min(set(kOverflow), max(set(kUnderflow), x));
  const Floats n = round_even(mul(x, set(kLog2e)));
  const Floats r = fma(n, set(-kLn2Low), fma(n, set(-kLn2High), x));
  Floats p = set(1.0f / 5040);
  p = fma(p, r, set(1.0f / 720));
  p = fma(p, r, set(1.0f / 120));
  p = fma(p, r, set(1.0f / 24));
  p = fma(p, r, set(1.0f / 6));
  p = fma(p, r, set(0.5f));
  p = fma(p, r, set(1.0f));
  p = fma(p, r, set(1.0f));
  return scale_by_power(p, n);
}

inline float dot(const float* a, const float* b, int64_t n) {
  Floats sums[4] = {zero(), zero(), zero(), zero()};  // latency of an FMA over two units: eight would be faster in L1
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) sums[j] = fma(load(a + i + j * kLanes), load(b + i + j * kLanes), sums[j]);
  }
  for (; i + kLanes <= n; i += kLanes) sums[0] = fma(load(a + i), load(b + i), sums[0]);
  if (i < n) sums[1] = fma(load_part(a + i, n - i), load_part(b + i, n - i), sums[1]);
  return sum(add(add(sums[0], sums[1]), add(sums[2], sums[3])));
}

// y += a x
inline void axpy(float a, const float* x, int64_t n, float* y) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(y + i, fma(set(a), load(x + i), load(y + i)));
  if (i < n) store_part(y + i, fma(set(a), load_part(x + i, n - i), load_part(y + i, n - i)), n - i);
}

// y = x / sqrt(mean(x^2) + eps) * weight
inline void rms_norm(const float* x, const float* weight, float eps, int64_t n, float* y) {
  const float scale = 1.0f / __builtin_sqrtf(dot(x, x, n) / static_cast<float>(n) + eps);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Floats scaled = mul(load(x + i), set(scale));
    store(y + i, weight ? mul(scaled, load(weight + i)) : scaled);
  }
  if (i < n) {
    const Floats scaled = mul(load_part(x + i, n - i), set(scale));
    store_part(y + i, weight ? mul(scaled, load_part(weight + i, n - i)) : scaled, n - i);
  }
}

// g / (1 + exp(-g)) u
inline Floats silu_mul_of(Floats g, Floats u) {
  return mul(div(g, add(set(1.0f), exp(sub(zero(), g)))), u);
}

inline void silu_mul(const float* gate, const float* up, int64_t n, float* y) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(y + i, silu_mul_of(load(gate + i), load(up + i)));
  if (i < n) store_part(y + i, silu_mul_of(load_part(gate + i, n - i), load_part(up + i, n - i)), n - i);
}

// The largest of n >= 1 numbers. A NaN may be lost; softmax meets it again in its sum.
inline float largest_of(const float* x, int64_t n) {
  if (n < kLanes) {
    float top = x[0];
    for (int64_t i = 1; i < n; ++i) top = x[i] > top ? x[i] : top;
    return top;
  }
  Floats top = load(x + n - kLanes);  // overlaps: a number may be seen twice
  for (int64_t i = 0; i + kLanes <= n; i += kLanes) top = max(top, load(x + i));
  return largest(top);
}

// x = exp(x - max) / sum exp(x - max)
inline void softmax(float* x, int64_t n) {
  const Floats top = set(largest_of(x, n));
  Floats sums = zero();
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Floats e = exp(sub(load(x + i), top));
    store(x + i, e);
    sums = add(sums, e);
  }
  if (i < n) {
    store_part(x + i, exp(sub(load_part(x + i, n - i), top)), n - i);
    sums = add(sums, load_part(x + i, n - i));
  }
  const Floats scale = set(1.0f / sum(sums));
  for (i = 0; i + kLanes <= n; i += kLanes) store(x + i, mul(load(x + i), scale));
  if (i < n) store_part(x + i, mul(load_part(x + i, n - i), scale), n - i);
}

inline void rope_interleaved(float* x, const float* cos, const float* sin, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(x + i, rotate_pairs(load(x + i), cos + i / 2, sin + i / 2));
  if (i == n) return;
  float c[kLanes / 2] = {}, s[kLanes / 2] = {};
  for (int64_t j = 0; j < (n - i) / 2; ++j) c[j] = cos[i / 2 + j], s[j] = sin[i / 2 + j];
  store_part(x + i, rotate_pairs(load_part(x + i, n - i), c, s), n - i);
}

inline void rope_halves(float* x, const float* cos, const float* sin, int64_t n) {
  const int64_t half = n / 2;
  int64_t i = 0;
  for (; i + kLanes <= half; i += kLanes) {
    const Floats a = load(x + i), b = load(x + half + i), c = load(cos + i), s = load(sin + i);
    store(x + i, sub(mul(a, c), mul(b, s)));
    store(x + half + i, add(mul(a, s), mul(b, c)));
  }
  if (i == half) return;
  const int64_t rest = half - i;
  const Floats a = load_part(x + i, rest), b = load_part(x + half + i, rest);
  const Floats c = load_part(cos + i, rest), s = load_part(sin + i, rest);
  store_part(x + i, sub(mul(a, c), mul(b, s)), rest);
  store_part(x + half + i, add(mul(a, s), mul(b, c)), rest);
}

// Of each pair of lanes kDistance apart the sum and the difference.
template <int kDistance>
KERNEL_INLINE Floats butterfly(Floats v) {
  alignas(64) float signs[kLanes];
  for (int i = 0; i < kLanes; ++i) signs[i] = i & kDistance ? -1.0f : 1.0f;
  return fma(v, load(signs), swap_lanes<kDistance>(v));
}

// log2 n steps of sums and differences: within the registers, then between them.
inline void hadamard(float* x, int64_t n) {
  const Floats scale = set(1.0f / __builtin_sqrtf(static_cast<float>(n)));
  for (int64_t i = 0; i < n; i += kLanes) {
    Floats v = butterfly<4>(butterfly<2>(butterfly<1>(mul(load(x + i), scale))));
    if constexpr (kLanes == 16) v = butterfly<8>(v);
    store(x + i, v);
  }
  for (int64_t h = kLanes; h < n; h *= 2) {
    for (int64_t i = 0; i < n; i += 2 * h) {
      for (int64_t j = i; j < i + h; j += kLanes) {
        const Floats a = load(x + j), b = load(x + j + h);
        store(x + j, add(a, b));
        store(x + j + h, sub(a, b));
      }
    }
  }
}

// Blocks of 32 to int8; the cases are those of ref, and so are the bits.
inline void quantise_q8(const float* x, int64_t ldx, int64_t T, Q8Rows out) {
  constexpr uint32_t kInfinity = 0x7f800000, kSmallest = 0x0d800000;  // the bits of infinity and of 2^-100
  const int64_t blocks = out.cols / 32;
  for (int64_t t = 0; t < T; ++t) {
    const float* row = x + t * ldx;
    int8_t* qs = out.qs_row(t);
    float* d = out.d_row(t);
    int16_t* sums = out.sums_row(t);
    const auto quantise = [&](int64_t b) {
      const Block32 block = load_block(row + 32 * b);
      const uint32_t bits = largest_magnitude_bits(block);
      if (bits - kSmallest < kInfinity - kSmallest) [[likely]] {
        const float top = __builtin_bit_cast(float, bits);
        d[b] = top / 127.0f;
        store_rounded(block, 127.0f / top, qs + 32 * b, sums + 2 * b);
      } else {
        d[b] = bits < kSmallest ? 0.0f : __builtin_nanf("");
        std::memset(qs + 32 * b, 0, 32);
        sums[2 * b] = sums[2 * b + 1] = 0;
      }
    };
    int64_t b = 0;
    for (; kBlocksAtOnce > 0 && b + kBlocksAtOnce <= blocks; b += kBlocksAtOnce) {
      if (quantise_blocks(row + 32 * b, qs + 32 * b, d + b, sums + 2 * b, kSmallest, kInfinity)) [[likely]]
        continue;
      for (int i = 0; i < kBlocksAtOnce; ++i) quantise(b + i);
    }
    for (; b < blocks; ++b) quantise(b);
  }
}
