// The vocabulary of a 256-bit level: eight lanes of 32 bits, the same words as vec512.h. Included inside the level's
// namespace and target region; includes nothing itself.

constexpr int kLanes = 8;
using Floats = __m256;
using Ints = __m256i;

// -------------------------------------------------------------------------------------------------------------- floats

KERNEL_INLINE Floats zero() {
  return _mm256_setzero_ps();
}
KERNEL_INLINE Floats set(float x) {
  return _mm256_set1_ps(x);
}
KERNEL_INLINE Floats load(const float* p) {
  return _mm256_loadu_ps(p);
}
KERNEL_INLINE void store(float* p, Floats v) {
  _mm256_storeu_ps(p, v);
}
KERNEL_INLINE __m256i first(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0));
}
// The first n lanes, 0 <= n < kLanes; the others are zero, or left alone in memory.
KERNEL_INLINE Floats load_part(const float* p, int64_t n) {
  return _mm256_maskload_ps(p, first(n));
}
KERNEL_INLINE void store_part(float* p, Floats v, int64_t n) {
  _mm256_maskstore_ps(p, first(n), v);
}
KERNEL_INLINE Floats add(Floats a, Floats b) {
  return _mm256_add_ps(a, b);
}
KERNEL_INLINE Floats sub(Floats a, Floats b) {
  return _mm256_sub_ps(a, b);
}
KERNEL_INLINE Floats mul(Floats a, Floats b) {
  return _mm256_mul_ps(a, b);
}
KERNEL_INLINE Floats div(Floats a, Floats b) {
  return _mm256_div_ps(a, b);
}
KERNEL_INLINE Floats fma(Floats a, Floats b, Floats c) {
  return _mm256_fmadd_ps(a, b, c);
}
// A NaN in b is kept.
KERNEL_INLINE Floats max(Floats a, Floats b) {
  return _mm256_max_ps(a, b);
}
KERNEL_INLINE Floats min(Floats a, Floats b) {
  return _mm256_min_ps(a, b);
}
KERNEL_INLINE Floats round_even(Floats a) {
  return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
// a * 2^n, n integral in [-252, 254]: in two steps, because 2^n alone may leave the range of float32.
KERNEL_INLINE Floats power_of_two(__m256i n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}
KERNEL_INLINE Floats scale_by_power(Floats a, Floats n) {
  const __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
  return mul(mul(a, power_of_two(half)), power_of_two(_mm256_sub_epi32(whole, half)));
}
// a < b ? yes : no, lane by lane; no where one is NaN
KERNEL_INLINE Floats where_less(Floats a, Floats b, Floats yes, Floats no) {
  return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}

KERNEL_INLINE float sum(Floats v) {
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_shuffle_ps(q, q, 1)));
}
KERNEL_INLINE float largest(Floats v) {
  __m128 q = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  q = _mm_max_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_max_ss(q, _mm_shuffle_ps(q, q, 1)));
}

// Lane i and lane i ^ kDistance change places.
template <int kDistance>
KERNEL_INLINE Floats swap_lanes(Floats v) {
  if constexpr (kDistance == 1) return _mm256_permute_ps(v, 0xb1);
  if constexpr (kDistance == 2) return _mm256_permute_ps(v, 0x4e);
  return _mm256_permute2f128_ps(v, v, 1);
}

// Eight numbers of a file to float32.
KERNEL_INLINE Floats load_bf16(const void* p) {
  const __m128i bits = _mm_loadu_si128(static_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
KERNEL_INLINE Floats load_f16(const void* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
// e4m3 / 256: its bits moved to the places of f16, whose exponent is biased by 8 more. 0x7f is NaN. A byte b becomes
// b << 7, and its sign, now in bit 14, moves on by being added to itself.
KERNEL_INLINE Floats load_e4m3(const void* p) {
  const __m128i bytes = _mm_cvtepu8_epi16(_mm_loadl_epi64(static_cast<const __m128i*>(p)));
  const __m128i nan = _mm_cmpeq_epi16(_mm_or_si128(bytes, _mm_set1_epi16(0x80)), _mm_set1_epi16(0xff));
  const __m128i moved = _mm_slli_epi16(bytes, 7);
  const __m128i half = _mm_add_epi16(moved, _mm_and_si128(moved, _mm_set1_epi16(0x4000)));
  return _mm256_cvtph_ps(_mm_or_si128(half, _mm_and_si128(nan, _mm_set1_epi16(0x7fff))));
}
constexpr int kE4m3Vectors = 1;
KERNEL_INLINE void load_e4m3_vectors(const void* p, Floats (&v)[kE4m3Vectors]) {
  v[0] = load_e4m3(p);
}
constexpr bool kE4m3Tables = false;  // no shuffle of 128 entries
KERNEL_INLINE Floats load_u8(const void* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p))));
}
KERNEL_INLINE Floats load_i8(const void* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p))));
}

// ------------------------------------------------------------------------------------------------------------ integers

KERNEL_INLINE Ints zero_i() {
  return _mm256_setzero_si256();
}
KERNEL_INLINE Ints load_i(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
KERNEL_INLINE Ints set_i(int32_t x) {
  return _mm256_set1_epi32(x);
}
KERNEL_INLINE Ints bitand_i(Ints a, Ints b) {
  return _mm256_and_si256(a, b);
}
KERNEL_INLINE Ints bitor_i(Ints a, Ints b) {
  return _mm256_or_si256(a, b);
}
KERNEL_INLINE Ints bitxor_i(Ints a, Ints b) {
  return _mm256_xor_si256(a, b);
}
KERNEL_INLINE void store_i(void* p, Ints v) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), v);
}
KERNEL_INLINE Ints sub_i(Ints a, Ints b) {
  return _mm256_sub_epi32(a, b);
}
KERNEL_INLINE int32_t sum(Ints a) {
  __m128i q = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  q = _mm_add_epi32(q, _mm_shuffle_epi32(q, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(q, _mm_shuffle_epi32(q, 0xb1)));
}
KERNEL_INLINE Ints add_i(Ints a, Ints b) {
  return _mm256_add_epi32(a, b);
}
KERNEL_INLINE Ints shift_left(Ints a, int n) {
  return _mm256_slli_epi32(a, n);
}
KERNEL_INLINE Ints shift_right(Ints a, int n) {
  return _mm256_srli_epi32(a, n);
}
// The same bits.
KERNEL_INLINE Floats as_floats(Ints a) {
  return _mm256_castsi256_ps(a);
}
KERNEL_INLINE Floats to_float(Ints a) {
  return _mm256_cvtepi32_ps(a);
}
// To the nearest, ties to even.
KERNEL_INLINE Ints rounded(Floats a) {
  return _mm256_cvtps_epi32(a);
}
// Each byte becomes table[byte]. Requires: bytes < 16.
KERNEL_INLINE Ints lookup(const int8_t* table, Ints bytes) {
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table))),
                             bytes);
}
// The low sixteen bits of each lane, as half precision. Requires: the high bits are zero.
KERNEL_INLINE Floats half_to_float(Ints a) {
  return _mm256_cvtph_ps(_mm_packus_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1)));
}
// Bits [4j, 4j + 4) of each lane become bit 0 of its four bytes. The product puts a copy of the four bits at bit 0, 7,
// 14 and 21, so that bit i of them lands on bit 8i.
KERNEL_INLINE Ints spread_bits(Ints a, int j) {
  const Ints bits = _mm256_and_si256(shift_right(a, 4 * j), _mm256_set1_epi32(15));
  return _mm256_and_si256(_mm256_mullo_epi32(bits, _mm256_set1_epi32(0x00204081)), _mm256_set1_epi32(0x01010101));
}

// ---------------------------------------------------------------------------------------------------------------- rows

// A 4 x 4 transposition of 32-bit elements in each 128 bits: v[i] element j <-> v[j] element i.
KERNEL_INLINE void transpose(Ints (&v)[4]) {
  const Ints a = _mm256_unpacklo_epi32(v[0], v[1]), b = _mm256_unpackhi_epi32(v[0], v[1]);
  const Ints c = _mm256_unpacklo_epi32(v[2], v[3]), d = _mm256_unpackhi_epi32(v[2], v[3]);
  v[0] = _mm256_unpacklo_epi64(a, c);
  v[1] = _mm256_unpackhi_epi64(a, c);
  v[2] = _mm256_unpacklo_epi64(b, d);
  v[3] = _mm256_unpackhi_epi64(b, d);
}

// Sixteen bytes of each row: v[j] lane r = bytes [4j, 4j + 4) of row r.
KERNEL_INLINE void load_rows(const std::byte* p, int64_t stride, Ints (&v)[4]) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const std::byte* q = p + i * stride;
    v[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(load_16_bytes(q)), load_16_bytes(q + 4 * stride), 1);
  }
  transpose(v);
}

// One half-precision number of each row.
KERNEL_INLINE Floats load_rows_half(const std::byte* p, int64_t stride) {
  return _mm256_cvtph_ps(_mm_set_epi64x(four_u16(p + 4 * stride, stride), four_u16(p, stride)));
}
// Four bytes of each row.
KERNEL_INLINE Ints load_rows_u32(const std::byte* p, int64_t stride) {
  return _mm256_set_epi64x(two_u32(p + 6 * stride, stride), two_u32(p + 4 * stride, stride),
                           two_u32(p + 2 * stride, stride), two_u32(p, stride));
}

// ---------------------------------------------------------------------------------------------------------- int8 dots

KERNEL_INLINE Ints broadcast_4(const void* p) {
  int32_t x;
  std::memcpy(&x, p, 4);
  return _mm256_set1_epi32(x);
}
// a * pair[0] + b * pair[1] for the 16-bit halves (a, b) of each lane of `weights`.
KERNEL_INLINE Ints dot_pair(Ints weights, const int16_t* pair) {
  return _mm256_madd_epi16(broadcast_4(pair), weights);
}

constexpr bool kWideUnsigned = false;
// Rows p, p + stride .. of 32 bytes: four bytes a lane, one of each row. Register j, piece L of four lanes: bytes 16 L
// + 4 j .. of the rows.
KERNEL_INLINE void interleave_four(const int8_t* p, int64_t stride, int8_t* out) {
  const Ints a = load_i(p), b = load_i(p + stride), c = load_i(p + 2 * stride), d = load_i(p + 3 * stride);
  const Ints ab0 = _mm256_unpacklo_epi8(a, b), ab1 = _mm256_unpackhi_epi8(a, b);
  const Ints cd0 = _mm256_unpacklo_epi8(c, d), cd1 = _mm256_unpackhi_epi8(c, d);
  store_i(out, _mm256_unpacklo_epi16(ab0, cd0));
  store_i(out + 32, _mm256_unpackhi_epi16(ab0, cd0));
  store_i(out + 64, _mm256_unpacklo_epi16(ab1, cd1));
  store_i(out + 96, _mm256_unpackhi_epi16(ab1, cd1));
}
// The bits of |x|: as integers they are in the order of the magnitudes, infinities and NaN last.
KERNEL_INLINE Ints magnitude_bits(Floats x) {
  return _mm256_and_si256(_mm256_castps_si256(x), set_i(0x7fffffff));
}
KERNEL_INLINE Ints max_i(Ints a, Ints b) {
  return _mm256_max_epi32(a, b);
}
KERNEL_INLINE int32_t largest(Ints a) {
  __m128i q = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  q = _mm_max_epi32(q, _mm_shuffle_epi32(q, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(q, _mm_shuffle_epi32(q, 0xb1)));
}
// The lowest byte of every lane.
KERNEL_INLINE void store_bytes(Ints a, void* p) {
  const Ints lowest = _mm256_shuffle_epi8(a, _mm256_set1_epi64x(0x0c080400));
  const int32_t x[2] = {_mm256_extract_epi32(lowest, 0), _mm256_extract_epi32(lowest, 4)};
  std::memcpy(p, x, 8);
}
// Sixteen bytes, for every four lanes the same.
KERNEL_INLINE Ints broadcast_16(const void* p) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
KERNEL_INLINE Floats broadcast_16(const float* p) {
  return _mm256_broadcast_ps(reinterpret_cast<const __m128*>(p));
}
// Lane 4 r + c of the result: the sum of lanes [4 r, 4 r + 4) of v[c].
KERNEL_INLINE Ints sum_fours(Ints a, Ints b, Ints c, Ints d) {
  return _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
}
// p[r] in lanes [4 r, 4 r + 4), and back from the first of them.
KERNEL_INLINE Floats load_fours(const float* p) {
  return _mm256_set_m128(_mm_set1_ps(p[1]), _mm_set1_ps(p[0]));
}
KERNEL_INLINE void store_fours(float* p, Floats v) {
  p[0] = _mm256_cvtss_f32(v);
  p[1] = _mm_cvtss_f32(_mm256_extractf128_ps(v, 1));
}
// Of each four lanes (a, b, c, d): (b, a, d, c), and (c, d, a, b).
KERNEL_INLINE Floats swap_ones(Floats v) {
  return _mm256_permute_ps(v, 0xb1);
}
KERNEL_INLINE Floats swap_twos(Floats v) {
  return _mm256_permute_ps(v, 0x4e);
}
// sums += the four products of bytes in each lane: u 0..127, s signed.
KERNEL_INLINE Ints dot4_vectors(Ints sums, Ints u, Ints s) {
  return _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_maddubs_epi16(u, s), _mm256_set1_epi16(1)));
}
// Both signed: |a| * (sign(a) b). dot4_four: the same four bytes of b for all lanes.
KERNEL_INLINE Ints dot4_both(Ints sums, Ints a, Ints b) {
  return dot4_vectors(sums, _mm256_abs_epi8(a), _mm256_sign_epi8(b, a));
}
KERNEL_INLINE Ints dot4_four(Ints sums, Ints a, const int8_t* b) {
  return dot4_both(sums, a, broadcast_4(b));
}
// sums += the four products of bytes in each lane. Requires: weights in 0..128, so that the 16-bit sums of two hold.
KERNEL_INLINE Ints dot4(Ints sums, Ints weights, const int8_t* x) {
  const Ints pairs = _mm256_maddubs_epi16(weights, broadcast_4(x));
  return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
// The same for weights in -128..127: |w| * (sign(w) x).
KERNEL_INLINE Ints dot4_signed(Ints sums, Ints weights, const int8_t* x) {
  const Ints pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(broadcast_4(x), weights));
  return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

// --------------------------------------------------------------------------------------------------- to int8 and back

// A block of 32 floats.
struct Block32 {
  Floats v[4];
};
KERNEL_INLINE Block32 load_block(const float* p) {
  return {{load(p), load(p + 8), load(p + 16), load(p + 24)}};
}
// The largest of the bits of |x|, as unsigned integers: infinities and NaN come last.
KERNEL_INLINE uint32_t largest_magnitude_bits(const Block32& x) {
  const Ints mask = set_i(0x7fffffff);
  Ints top = zero_i();
  for (int i = 0; i < 4; ++i) top = _mm256_max_epu32(top, _mm256_and_si256(_mm256_castps_si256(x.v[i]), mask));
  __m128i q = _mm_max_epu32(_mm256_castsi256_si128(top), _mm256_extracti128_si256(top, 1));
  q = _mm_max_epu32(q, _mm_shuffle_epi32(q, 0x4e));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_max_epu32(q, _mm_shuffle_epi32(q, 0xb1))));
}
// qs = round(x * inverse), ties to even, and the sums of its two halves.
KERNEL_INLINE void store_rounded(const Block32& x, float inverse, int8_t* qs, int16_t* sums) {
  for (int half = 0; half < 2; ++half) {
    const Ints a = _mm256_cvtps_epi32(mul(x.v[2 * half], set(inverse)));
    const Ints b = _mm256_cvtps_epi32(mul(x.v[2 * half + 1], set(inverse)));
    const __m128i low = _mm_packs_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    const __m128i high = _mm_packs_epi32(_mm256_castsi256_si128(b), _mm256_extracti128_si256(b, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(qs + 16 * half), _mm_packs_epi16(low, high));
    __m128i total = _mm_madd_epi16(_mm_add_epi16(low, high), _mm_set1_epi16(1));
    total = _mm_add_epi32(total, _mm_shuffle_epi32(total, 0x4e));
    sums[half] = static_cast<int16_t>(_mm_cvtsi128_si32(_mm_add_epi32(total, _mm_shuffle_epi32(total, 0xb1))));
  }
}

constexpr int kBlocksAtOnce = 0;
KERNEL_INLINE bool quantise_blocks(const float*, int8_t*, float*, int16_t*, uint32_t, uint32_t) {
  return false;
}  // never asked for

// ---------------------------------------------------------------------------------------------------------------- rope

// x = (a0 b0 a1 b1 ...), cos and sin of the four pairs: (a cos - b sin, a sin + b cos).
KERNEL_INLINE Floats rotate_pairs(Floats x, const float* cos, const float* sin) {
  const Ints twice = _mm256_set_epi32(3, 3, 2, 2, 1, 1, 0, 0);
  const Floats c = _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_loadu_ps(cos)), twice);
  const Floats s = _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_loadu_ps(sin)), twice);
  return _mm256_fmaddsub_ps(x, c, mul(_mm256_permute_ps(x, 0xb1), s));
}
