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
// a < b ? yes : no, lane by lane; no where one is NaN
KERNEL_INLINE Floats where_less(Floats a, Floats b, Floats yes, Floats no) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
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

// Lane i and lane i ^ kDistance change places.
template <int kDistance>
KERNEL_INLINE Floats swap_lanes(Floats v) {
  if constexpr (kDistance == 1) return _mm512_permute_ps(v, 0xb1);
  if constexpr (kDistance == 2) return _mm512_permute_ps(v, 0x4e);
  return _mm512_shuffle_f32x4(v, v, kDistance == 4 ? 0xb1 : 0x4e);
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
// To the nearest, ties to even.
KERNEL_INLINE Ints rounded(Floats a) {
  return _mm512_cvtps_epi32(a);
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
// The bits of |x|: as integers they are in the order of the magnitudes, infinities and NaN last.
KERNEL_INLINE Ints magnitude_bits(Floats x) {
  return _mm512_and_si512(_mm512_castps_si512(x), set_i(0x7fffffff));
}
KERNEL_INLINE Ints max_i(Ints a, Ints b) {
  return _mm512_max_epi32(a, b);
}
KERNEL_INLINE int32_t largest(Ints a) {
  return _mm512_reduce_max_epi32(a);
}
// The lowest byte of every lane.
KERNEL_INLINE void store_bytes(Ints a, void* p) {
  _mm_storeu_si128(static_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a));
}
// Sixteen bytes, for every four lanes the same.
KERNEL_INLINE Ints broadcast_16(const void* p) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
KERNEL_INLINE Floats broadcast_16(const float* p) {
  return _mm512_broadcast_f32x4(_mm_loadu_ps(p));
}
// Lane 4 r + c of the result: the sum of lanes [4 r, 4 r + 4) of v[c].
KERNEL_INLINE Ints sum_fours(Ints a, Ints b, Ints c, Ints d) {
  const Ints x = add_i(lanes<0x88>(a, b), lanes<0xdd>(a, b)), y = add_i(lanes<0x88>(c, d), lanes<0xdd>(c, d));
  return add_i(lanes<0x88>(x, y), lanes<0xdd>(x, y));
}
// p[r] in lanes [4 r, 4 r + 4), and back from the first of them.
KERNEL_INLINE Floats load_fours(const float* p) {
  const Ints each = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
  return _mm512_permutexvar_ps(each, _mm512_castps128_ps512(_mm_loadu_ps(p)));
}
KERNEL_INLINE void store_fours(float* p, Floats v) {
  const Ints firsts = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 8, 4, 0);
  _mm_storeu_ps(p, _mm512_castps512_ps128(_mm512_permutexvar_ps(firsts, v)));
}
// Of each four lanes (a, b, c, d): (b, a, d, c), and (c, d, a, b).
KERNEL_INLINE Floats swap_ones(Floats v) {
  return _mm512_permute_ps(v, 0xb1);
}
KERNEL_INLINE Floats swap_twos(Floats v) {
  return _mm512_permute_ps(v, 0x4e);
}
#if WESTLAKE_VNNI
// In assembly, because GCC 12 copies the sums to another register and back around the intrinsic, in kernels with many
// of them every time (a third slower).
KERNEL_INLINE Ints dpbusd(Ints sums, Ints u, Ints s) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(u), "v"(s));
  return sums;
}
// sums += the four products of bytes in each lane: u 0..127, s signed. dot4_both: u as wide() made it, which adds 128
// times the sum of the four of s. dot4_four: the same four bytes of s for all lanes, from memory.
KERNEL_INLINE Ints dot4_vectors(Ints sums, Ints u, Ints s) {
  return dpbusd(sums, u, s);
}
KERNEL_INLINE Ints dot4_both(Ints sums, Ints u, Ints s) {
  return dpbusd(sums, u, s);
}
KERNEL_INLINE Ints dot4_four(Ints sums, Ints u, const int8_t* s) {
  __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sums) : "v"(u), "m"(*reinterpret_cast<const int8_t(*)[4]>(s)));
  return sums;
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
// Both signed: |a| * (sign(a) b). dot4_four: the same four bytes of b for all lanes.
KERNEL_INLINE Ints dot4_both(Ints sums, Ints a, Ints b) {
  return dot4_vectors(sums, _mm512_abs_epi8(a),
                      _mm512_mask_sub_epi8(b, _mm512_movepi8_mask(a), _mm512_setzero_si512(), b));
}
KERNEL_INLINE Ints dot4_four(Ints sums, Ints a, const int8_t* b) {
  return dot4_both(sums, a, broadcast_4(b));
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

// Four blocks at once, what quantise_q8 does with each; nothing and false where one of them is none of the likely ones.
constexpr int kBlocksAtOnce = 4;
KERNEL_INLINE bool quantise_blocks(const float* x, int8_t* qs, float* d, int16_t* sums, uint32_t smallest,
                                   uint32_t infinity) {
  const Ints mask = set_i(0x7fffffff);
  const Ints firsts = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);  // of each piece
  Ints top[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    top[i] =
        _mm512_max_epu32(_mm512_and_si512(load_i(x + 32 * i), mask), _mm512_and_si512(load_i(x + 32 * i + 16), mask));
  }
  // Piece i of four lanes: the largest of block i.
  const Ints ab = _mm512_max_epu32(pieces<0x44>(top[0], top[1]), pieces<0xee>(top[0], top[1]));
  const Ints cd = _mm512_max_epu32(pieces<0x44>(top[2], top[3]), pieces<0xee>(top[2], top[3]));
  Ints all = _mm512_max_epu32(pieces<0x88>(ab, cd), pieces<0xdd>(ab, cd));
  all = _mm512_max_epu32(all, lanes<0x4e>(all, all));
  all = _mm512_max_epu32(all, lanes<0xb1>(all, all));
  const Ints least = set_i(static_cast<int32_t>(smallest));
  if (_mm512_cmplt_epu32_mask(sub_i(all, least), set_i(static_cast<int32_t>(infinity - smallest))) != 0xffff)
    return false;
  const Floats scale = div(as_floats(all), set(127.0f)), inverse = div(set(127.0f), as_floats(all));
  _mm_storeu_ps(d, _mm512_castps512_ps128(_mm512_permutexvar_ps(firsts, scale)));
  const Floats factors[4] = {pieces<0x00>(inverse, inverse), pieces<0x55>(inverse, inverse),
                             pieces<0xaa>(inverse, inverse), pieces<0xff>(inverse, inverse)};
  Ints sixteens[2];  // each piece: the sum of sixteen numbers in all of its lanes
#pragma GCC unroll 2
  for (int pair = 0; pair < 2; ++pair) {
    Ints n[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) n[i] = _mm512_cvtps_epi32(mul(load(x + 64 * pair + 16 * i), factors[2 * pair + i / 2]));
    const Ints packed = _mm512_packs_epi16(_mm512_packs_epi32(n[0], n[1]), _mm512_packs_epi32(n[2], n[3]));
    const Ints q = _mm512_permutexvar_epi32(firsts, packed);
    store_i(qs + 64 * pair, q);
    Ints four = _mm512_madd_epi16(_mm512_maddubs_epi16(_mm512_set1_epi8(1), q), _mm512_set1_epi16(1));
    four = add_i(four, lanes<0x4e>(four, four));
    sixteens[pair] = add_i(four, lanes<0xb1>(four, four));
  }
  const Ints both = _mm512_mask_mov_epi32(sixteens[0], 0x2222, sixteens[1]);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(sums),
                   _mm256_cvtepi32_epi16(_mm512_castsi512_si256(_mm512_permutexvar_epi32(firsts, both))));
  return true;
}

// ---------------------------------------------------------------------------------------------------------------- rope

// x = (a0 b0 a1 b1 ...), cos and sin of the eight pairs: (a cos - b sin, a sin + b cos).
KERNEL_INLINE Floats rotate_pairs(Floats x, const float* cos, const float* sin) {
  const Ints twice = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
  const Floats c = _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(_mm256_loadu_ps(cos)));
  const Floats s = _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(_mm256_loadu_ps(sin)));
  return _mm512_fmaddsub_ps(x, c, mul(_mm512_permute_ps(x, 0xb1), s));
}
