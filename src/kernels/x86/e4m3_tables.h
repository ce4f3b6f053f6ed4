// Products with FP8 weights (e4m3) of one token, where the machine looks up bytes (VBMI). Included inside the level's
// namespace and target region, after vec512.h; includes nothing itself.
//
// All 128 magnitudes lie in a table of bf16, which holds each of them exactly, NaN too: 64 bytes are looked up at once
// in two tables of bytes, high and low. Ten operations for 64 numbers instead of the thirty of load_e4m3().

constexpr bool kE4m3Tables = true;
#define WESTLAKE_VBMI_FUNCTION __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx2,fma,f16c")))
struct E4m3Tables {
  alignas(64) uint8_t high[128] = {}, low[128] = {};
  // Where the bytes must lie so that the two unpackings below leave four registers in order.
  alignas(64) uint8_t order[64] = {};
  constexpr E4m3Tables() {
    for (int code = 0; code < 128; ++code) {
      const int e = code / 8, m = code % 8, top = m >= 4 ? 2 : m / 2;  // of a small number: its highest bit
      int bits = e > 0 ? (127 - 7 + e) << 7 | m << 4 : (127 - 9 + top) << 7 | (m << (3 - top) & 7) << 4;
      if (code == 0) bits = 0;
      if (code == 127) bits = 0x7fc0;
      high[code] = static_cast<uint8_t>(bits >> 8);
      low[code] = static_cast<uint8_t>(bits & 0xff);
    }
    for (int i = 0; i < 64; ++i) {
      const int part = i % 16, vector = part / 8 * 2 + part % 2;
      order[i] = static_cast<uint8_t>(16 * vector + i / 16 * 4 + part % 8 / 2);
    }
  }
};
constexpr E4m3Tables kE4m3;
WESTLAKE_VBMI_FUNCTION inline void look_up_e4m3(const void* p, const Ints (&high)[2], const Ints (&low)[2], Ints order,
                                                Floats (&v)[4]) {
  const Ints bytes = _mm512_permutexvar_epi8(order, _mm512_loadu_si512(p));
  const Ints sign = _mm512_set1_epi8(-128), odd = _mm512_set1_epi32(static_cast<int32_t>(0xffff0000));
  const Ints magnitude = _mm512_permutex2var_epi8(high[0], bytes, high[1]);
  const Ints upper = _mm512_ternarylogic_epi32(magnitude, bytes, sign, 0xf8);  // a | (b & c)
  const Ints lower = _mm512_permutex2var_epi8(low[0], bytes, low[1]);
  const Ints a = _mm512_unpacklo_epi8(lower, upper), b = _mm512_unpackhi_epi8(lower, upper);
  v[0] = _mm512_castsi512_ps(_mm512_slli_epi32(a, 16));
  v[1] = _mm512_castsi512_ps(_mm512_and_si512(a, odd));
  v[2] = _mm512_castsi512_ps(_mm512_slli_epi32(b, 16));
  v[3] = _mm512_castsi512_ps(_mm512_and_si512(b, odd));
}
// sums[r] += sum over k of (w[r][k] x the scale of its block) x[k], for whole blocks of `block` columns, a multiple of
// 64; returns how many columns that is. scales(b, out) gives those of block b, false: not by this way.
template <int R, typename Scales>
WESTLAKE_VBMI_FUNCTION inline int64_t multiply_e4m3_tables(const std::byte* w, int64_t w_stride, int64_t block,
                                                           const Scales& scales, const float* x, int64_t n,
                                                           Floats* sums) {
  const Ints high[2] = {_mm512_load_si512(kE4m3.high), _mm512_load_si512(kE4m3.high + 64)};
  const Ints low[2] = {_mm512_load_si512(kE4m3.low), _mm512_load_si512(kE4m3.low + 64)};
  const Ints order = _mm512_load_si512(kE4m3.order);
  Floats sum[R];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) sum[r] = sums[r];
  int64_t begin = 0;
  float factor[R];
  for (; begin + block <= n && scales(begin / block, factor); begin += block) {
    Floats scale[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) scale[r] = _mm512_set1_ps(factor[r]);
    for (int64_t k = begin; k < begin + block; k += 64) {
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        Floats weights[4];
        _mm_prefetch(reinterpret_cast<const char*>(w + (R + r) * w_stride + k), _MM_HINT_T0);
        look_up_e4m3(w + r * w_stride + k, high, low, order, weights);
#pragma GCC unroll 4
        for (int v = 0; v < 4; ++v)
          sum[r] = _mm512_fmadd_ps(_mm512_mul_ps(weights[v], scale[r]), _mm512_loadu_ps(x + k + 16 * v), sum[r]);
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) sums[r] = sum[r];
  return begin;
}
