// The vocabulary of a 512-bit level: sixteen lanes of 32 bits. Included inside the level's namespace and target region;
// includes nothing itself. vec256.h has the same words for eight lanes, and the bodies are written in these words only.
//
// Words: Floats and Ints are one register. `rows` operations read the same place of kLanes consecutive rows of a
// weight, `stride` bytes apart, one row a lane.

constexpr int kLanes = 16;
using Floats = __m512;
using Ints = __m512i;

// -------------------------------------------------------------------------------------------------------------- floats

KERNEL_INLINE Floats zero() {
  return _mm512_setzero_ps();
}
KERNEL_INLINE Floats set(float x) {
  return _mm512_set1_ps(x);
}
KERNEL_INLINE Floats load(const float* p) {
  return _mm512_loadu_ps(p);
}
KERNEL_INLINE void store(float* p, Floats v) {
  _mm512_storeu_ps(p, v);
}
KERNEL_INLINE __mmask16 first(int64_t n) {
  return static_cast<__mmask16>((1u << n) - 1);
}
// The first n lanes, 0 <= n < kLanes; the others are zero, or left alone in memory.
KERNEL_INLINE Floats load_part(const float* p, int64_t n) {
  return _mm512_maskz_loadu_ps(first(n), p);
}
KERNEL_INLINE void store_part(float* p, Floats v, int64_t n) {
  _mm512_mask_storeu_ps(p, first(n), v);
}
KERNEL_INLINE Floats add(Floats a, Floats b) {
  return _mm512_add_ps(a, b);
}
KERNEL_INLINE Floats sub(Floats a, Floats b) {
  return _mm512_sub_ps(a, b);
}
KERNEL_INLINE Floats mul(Floats a, Floats b) {
  return _mm512_mul_ps(a, b);
}
KERNEL_INLINE Floats div(Floats a, Floats b) {
  return _mm512_div_ps(a, b);
}
KERNEL_INLINE Floats fma(Floats a, Floats b, Floats c) {
  return _mm512_fmadd_ps(a, b, c);
}
// A NaN in b is kept.
KERNEL_INLINE Floats max(Floats a, Floats b) {
  return _mm512_max_ps(a, b);
}
KERNEL_INLINE Floats min(Floats a, Floats b) {
  return _mm512_min_ps(a, b);
}
KERNEL_INLINE Floats round_even(Floats a) {
  return _mm512_roundscale_ps(a, 0);
}
// a * 2^n, n integral
KERNEL_INLINE Floats scale_by_power(Floats a, Floats n) {
  return _mm512_scalef_ps(a, n);
}

KERNEL_INLINE __m256 low(Floats v) {
  return _mm512_castps512_ps256(v);
}
KERNEL_INLINE __m256 high(Floats v) {
  return _mm512_extractf32x8_ps(v, 1);
}
KERNEL_INLINE float sum8(__m256 v) {
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_shuffle_ps(q, q, 1)));
}
KERNEL_INLINE float sum(Floats v) {
  return sum8(_mm256_add_ps(low(v), high(v)));
}
KERNEL_INLINE float largest(Floats v) {
  return _mm512_reduce_max_ps(v);
}

// Sixteen numbers of a file to float32.
KERNEL_INLINE Floats load_bf16(const void* p) {
  const __m256i bits = _mm256_loadu_si256(static_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
KERNEL_INLINE Floats load_f16(const void* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
}
// e4m3 / 256: its bits moved to the places of f16, whose exponent is biased by 8 more. 0x7f is NaN. A byte b becomes
// b << 7, and its sign, now in bit 14, moves on by being added to itself.
KERNEL_INLINE Floats load_e4m3(const void* p) {
  const __m128i bytes = _mm_loadu_si128(static_cast<const __m128i*>(p));
  const __mmask16 nan = _mm_cmpeq_epi8_mask(_mm_or_si128(bytes, _mm_set1_epi8(-128)), _mm_set1_epi8(-1));
  const __m256i moved = _mm256_slli_epi16(_mm256_cvtepu8_epi16(bytes), 7);
  const __m256i half = _mm256_add_epi16(moved, _mm256_and_si256(moved, _mm256_set1_epi16(0x4000)));
  return _mm512_cvtph_ps(_mm256_mask_mov_epi16(half, nan, _mm256_set1_epi16(0x7fff)));
}
// The same for 64 numbers at a time: half the instructions.
constexpr int kE4m3Vectors = 4;
KERNEL_INLINE void load_e4m3_vectors(const void* p, Floats (&v)[kE4m3Vectors]) {
  const Ints bytes = _mm512_loadu_si512(p);
  const __mmask64 nan = _mm512_cmpeq_epi8_mask(_mm512_or_si512(bytes, _mm512_set1_epi8(-128)), _mm512_set1_epi8(-1));
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const __m256i part = _mm256_loadu_si256(static_cast<const __m256i*>(p) + i);
    const Ints moved = _mm512_slli_epi16(_mm512_cvtepu8_epi16(part), 7);
    Ints half = _mm512_add_epi16(moved, _mm512_and_si512(moved, _mm512_set1_epi16(0x4000)));
    half = _mm512_mask_mov_epi16(half, static_cast<__mmask32>(nan >> (32 * i)), _mm512_set1_epi16(0x7fff));
    v[2 * i] = _mm512_cvtph_ps(_mm512_castsi512_si256(half));
    v[2 * i + 1] = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(half, 1));
  }
}
// e4m3, all 128 magnitudes in a table of bf16, which holds each of them exactly, NaN too: with VBMI 64 bytes are looked
// up at once in two tables of bytes, high and low. Ten operations for 64 numbers instead of the thirty of load_e4m3().
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
KERNEL_INLINE Floats load_u8(const void* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))));
}
KERNEL_INLINE Floats load_i8(const void* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))));
}

// ------------------------------------------------------------------------------------------------------------ integers

KERNEL_INLINE Ints zero_i() {
  return _mm512_setzero_si512();
}
KERNEL_INLINE Ints load_i(const void* p) {
  return _mm512_loadu_si512(p);
}
KERNEL_INLINE Ints set_i(int32_t x) {
  return _mm512_set1_epi32(x);
}
KERNEL_INLINE Ints bitand_i(Ints a, Ints b) {
  return _mm512_and_si512(a, b);
}
KERNEL_INLINE Ints bitor_i(Ints a, Ints b) {
  return _mm512_or_si512(a, b);
}
KERNEL_INLINE Ints bitxor_i(Ints a, Ints b) {
  return _mm512_xor_si512(a, b);
}
KERNEL_INLINE void store_i(void* p, Ints v) {
  _mm512_storeu_si512(p, v);
}
KERNEL_INLINE Ints sub_i(Ints a, Ints b) {
  return _mm512_sub_epi32(a, b);
}
KERNEL_INLINE int32_t sum(Ints a) {
  return _mm512_reduce_add_epi32(a);
}
KERNEL_INLINE Ints add_i(Ints a, Ints b) {
  return _mm512_add_epi32(a, b);
}

// Both kinds of number, for what only moves and adds them.
KERNEL_INLINE Floats plus(Floats a, Floats b) {
  return add(a, b);
}
KERNEL_INLINE Ints plus(Ints a, Ints b) {
  return add_i(a, b);
}
// Pieces of four lanes: two of a, then two of b.
template <int kWhich>
KERNEL_INLINE Floats pieces(Floats a, Floats b) {
  return _mm512_shuffle_f32x4(a, b, kWhich);
}
template <int kWhich>
KERNEL_INLINE Ints pieces(Ints a, Ints b) {
  return _mm512_shuffle_i32x4(a, b, kWhich);
}
// Of each piece: two lanes of a, then two of b.
template <int kWhich>
KERNEL_INLINE Floats lanes(Floats a, Floats b) {
  return _mm512_shuffle_ps(a, b, kWhich);
}
template <int kWhich>
KERNEL_INLINE Ints lanes(Ints a, Ints b) {
  return _mm512_castps_si512(_mm512_shuffle_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), kWhich));
}
#define WESTLAKE_SUM_SIXTEEN 1
// Lane 4 t + r of the result is sum(v[4 r + t]), to the bit: the same tree, a level for all at once.
template <typename V>
KERNEL_INLINE V sum_sixteen(const V (&v)[16]) {
  V quarter[4];  // of each: four lanes of four sums
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const V* a = v + 4 * i;
    const V ab = plus(pieces<0x44>(a[0], a[1]), pieces<0xee>(a[0], a[1]));
    const V cd = plus(pieces<0x44>(a[2], a[3]), pieces<0xee>(a[2], a[3]));
    quarter[i] = plus(pieces<0x88>(ab, cd), pieces<0xdd>(ab, cd));
  }
  const V x = plus(lanes<0x44>(quarter[0], quarter[1]), lanes<0xee>(quarter[0], quarter[1]));
  const V y = plus(lanes<0x44>(quarter[2], quarter[3]), lanes<0xee>(quarter[2], quarter[3]));
  return plus(lanes<0x88>(x, y), lanes<0xdd>(x, y));
}
KERNEL_INLINE Ints shift_left(Ints a, int n) {
  return _mm512_slli_epi32(a, static_cast<unsigned>(n));
}
KERNEL_INLINE Ints shift_right(Ints a, int n) {
  return _mm512_srli_epi32(a, static_cast<unsigned>(n));
}
// The same bits.
KERNEL_INLINE Floats as_floats(Ints a) {
  return _mm512_castsi512_ps(a);
}
KERNEL_INLINE Floats to_float(Ints a) {
  return _mm512_cvtepi32_ps(a);
}
// Each byte becomes table[byte]. Requires: bytes < 16.
KERNEL_INLINE Ints lookup(const int8_t* table, Ints bytes) {
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table))), bytes);
}
// The low sixteen bits of each lane, as half precision.
KERNEL_INLINE Floats half_to_float(Ints a) {
  return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(a));
}
// Bits [4j, 4j + 4) of each lane become bit 0 of its four bytes.
KERNEL_INLINE Ints spread_bits(Ints a, int j) {
  const Ints table =
      _mm512_set_epi32(0x01010101, 0x01010100, 0x01010001, 0x01010000, 0x01000101, 0x01000100, 0x01000001, 0x01000000,
                       0x00010101, 0x00010100, 0x00010001, 0x00010000, 0x00000101, 0x00000100, 0x00000001, 0x00000000);
  return _mm512_permutexvar_epi32(shift_right(a, 4 * j), table);
}

// ---------------------------------------------------------------------------------------------------------------- rows

// A 4 x 4 transposition of 32-bit elements in each 128 bits: v[i] element j <-> v[j] element i.
KERNEL_INLINE void transpose(Ints (&v)[4]) {
  const Ints a = _mm512_unpacklo_epi32(v[0], v[1]), b = _mm512_unpackhi_epi32(v[0], v[1]);
  const Ints c = _mm512_unpacklo_epi32(v[2], v[3]), d = _mm512_unpackhi_epi32(v[2], v[3]);
  v[0] = _mm512_unpacklo_epi64(a, c);
  v[1] = _mm512_unpackhi_epi64(a, c);
  v[2] = _mm512_unpacklo_epi64(b, d);
  v[3] = _mm512_unpackhi_epi64(b, d);
}

// Sixteen bytes of each row: v[j] lane r = bytes [4j, 4j + 4) of row r.
KERNEL_INLINE void load_rows(const std::byte* p, int64_t stride, Ints (&v)[4]) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const std::byte* q = p + i * stride;
    __m512i rows = _mm512_castsi128_si512(load_16_bytes(q));
    rows = _mm512_mask_broadcast_i32x4(rows, 0x00f0, load_16_bytes(q + 4 * stride));
    rows = _mm512_mask_broadcast_i32x4(rows, 0x0f00, load_16_bytes(q + 8 * stride));
    v[i] = _mm512_mask_broadcast_i32x4(rows, 0xf000, load_16_bytes(q + 12 * stride));
  }
  transpose(v);
}

// One half-precision number of each row.
KERNEL_INLINE Floats load_rows_half(const std::byte* p, int64_t stride) {
  return _mm512_cvtph_ps(_mm256_set_epi64x(four_u16(p + 12 * stride, stride), four_u16(p + 8 * stride, stride),
                                           four_u16(p + 4 * stride, stride), four_u16(p, stride)));
}
// Four bytes of each row.
KERNEL_INLINE Ints load_rows_u32(const std::byte* p, int64_t stride) {
  return _mm512_set_epi64(two_u32(p + 14 * stride, stride), two_u32(p + 12 * stride, stride),
                          two_u32(p + 10 * stride, stride), two_u32(p + 8 * stride, stride),
                          two_u32(p + 6 * stride, stride), two_u32(p + 4 * stride, stride),
                          two_u32(p + 2 * stride, stride), two_u32(p, stride));
}

// ---------------------------------------------------------------------------------------------------------- int8 dots

KERNEL_INLINE Ints broadcast_4(const void* p) {
  int32_t x;
  std::memcpy(&x, p, 4);
  return _mm512_set1_epi32(x);
}
// a * pair[0] + b * pair[1] for the 16-bit halves (a, b) of each lane of `weights`.
KERNEL_INLINE Ints dot_pair(Ints weights, const int16_t* pair) {
  return _mm512_madd_epi16(broadcast_4(pair), weights);
}

// Rows p, p + stride .. of 64 bytes: four bytes a lane, one of each row. Register j, piece L of four lanes: bytes 16 L
// + 4 j .. of the rows.
KERNEL_INLINE void interleave_four(const int8_t* p, int64_t stride, int8_t* out) {
  const Ints a = load_i(p), b = load_i(p + stride), c = load_i(p + 2 * stride), d = load_i(p + 3 * stride);
  const Ints ab0 = _mm512_unpacklo_epi8(a, b), ab1 = _mm512_unpackhi_epi8(a, b);
  const Ints cd0 = _mm512_unpacklo_epi8(c, d), cd1 = _mm512_unpackhi_epi8(c, d);
  store_i(out, _mm512_unpacklo_epi16(ab0, cd0));
  store_i(out + 64, _mm512_unpackhi_epi16(ab0, cd0));
  store_i(out + 128, _mm512_unpacklo_epi16(ab1, cd1));
  store_i(out + 192, _mm512_unpackhi_epi16(ab1, cd1));
}
// round(w), 0 <= w < 2^14: its upper and its lower seven bits, a byte each.
KERNEL_INLINE void store_weights(Floats w, uint8_t* high, uint8_t* low) {
  const Ints n = _mm512_cvtps_epi32(w);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(high), _mm512_cvtepi32_epi8(_mm512_srli_epi32(n, 7)));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(low), _mm512_cvtepi32_epi8(_mm512_and_si512(n, set_i(127))));
}

#if WESTLAKE_VNNI
// In assembly, because GCC 12 copies the sums to another register and back around the intrinsic, in kernels with many
// of them every time (a third slower).
KERNEL_INLINE Ints dpbusd(Ints sums, Ints u, Ints s) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(u), "v"(s));
  return sums;
}
// sums += the four products of bytes in each lane: u 0..127, s signed. dot4_both: a as wide() made it, which adds 128
// times the sum of b.
KERNEL_INLINE Ints dot4_vectors(Ints sums, Ints u, Ints s) {
  return dpbusd(sums, u, s);
}
KERNEL_INLINE Ints dot4_both(Ints sums, Ints a, Ints b) {
  return dpbusd(sums, a, b);
}
constexpr bool kWideUnsigned = true;  // dot4 takes weights up to 255
KERNEL_INLINE Ints dot4(Ints sums, Ints weights, const int8_t* x) {
  return dpbusd(sums, weights, broadcast_4(x));
}
KERNEL_INLINE Ints dot4_signed(Ints sums, Ints, const int8_t*) {
  return sums;
}  // never asked for
#else
constexpr bool kWideUnsigned = false;
KERNEL_INLINE Ints dot4_vectors(Ints sums, Ints u, Ints s) {
  return _mm512_add_epi32(sums, _mm512_madd_epi16(_mm512_maddubs_epi16(u, s), _mm512_set1_epi16(1)));
}
// Both signed: |a| * (sign(a) b).
KERNEL_INLINE Ints dot4_both(Ints sums, Ints a, Ints b) {
  return dot4_vectors(sums, _mm512_abs_epi8(a),
                      _mm512_mask_sub_epi8(b, _mm512_movepi8_mask(a), _mm512_setzero_si512(), b));
}
// sums += the four products of bytes in each lane. Requires: weights in 0..128, so that the 16-bit sums of two hold.
KERNEL_INLINE Ints dot4(Ints sums, Ints weights, const int8_t* x) {
  const Ints pairs = _mm512_maddubs_epi16(weights, broadcast_4(x));
  return _mm512_add_epi32(sums, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}
// The same for weights in -128..127: |w| * (sign(w) x).
KERNEL_INLINE Ints dot4_signed(Ints sums, Ints weights, const int8_t* x) {
  const Ints values = broadcast_4(x);
  const Ints turned = _mm512_mask_sub_epi8(values, _mm512_movepi8_mask(weights), _mm512_setzero_si512(), values);
  const Ints pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(weights), turned);
  return _mm512_add_epi32(sums, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}
#endif

// --------------------------------------------------------------------------------------------------- to int8 and back

// A block of 32 floats.
struct Block32 {
  Floats v[2];
};
KERNEL_INLINE Block32 load_block(const float* p) {
  return {{load(p), load(p + 16)}};
}
// The largest of the bits of |x|, as unsigned integers: infinities and NaN come last.
KERNEL_INLINE uint32_t largest_magnitude_bits(const Block32& x) {
  const Ints mask = set_i(0x7fffffff);
  return _mm512_reduce_max_epu32(_mm512_max_epu32(_mm512_and_si512(_mm512_castps_si512(x.v[0]), mask),
                                                  _mm512_and_si512(_mm512_castps_si512(x.v[1]), mask)));
}
// qs = round(x * inverse), ties to even, and the sums of its two halves.
KERNEL_INLINE void store_rounded(const Block32& x, float inverse, int8_t* qs, int16_t* sums) {
  const Floats factor = set(inverse);
  const __m128i a = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(mul(x.v[0], factor)));
  const __m128i b = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(mul(x.v[1], factor)));
  const __m256i q = _mm256_inserti128_si256(_mm256_castsi128_si256(a), b, 1);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(qs), q);
  __m256i total = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), q), _mm256_set1_epi16(1));
  total = _mm256_add_epi32(total, _mm256_shuffle_epi32(total, 0x4e));
  total = _mm256_add_epi32(total, _mm256_shuffle_epi32(total, 0xb1));
  sums[0] = static_cast<int16_t>(_mm256_cvtsi256_si32(total));
  sums[1] = static_cast<int16_t>(_mm_cvtsi128_si32(_mm256_extracti128_si256(total, 1)));
}

// ---------------------------------------------------------------------------------------------------------------- rope

// x = (a0 b0 a1 b1 ...), cos and sin of the eight pairs: (a cos - b sin, a sin + b cos).
KERNEL_INLINE Floats rotate_pairs(Floats x, const float* cos, const float* sin) {
  const Ints twice = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
  const Floats c = _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(_mm256_loadu_ps(cos)));
  const Floats s = _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(_mm256_loadu_ps(sin)));
  return _mm512_fmaddsub_ps(x, c, mul(_mm512_permute_ps(x, 0xb1), s));
}
