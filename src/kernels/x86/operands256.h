// More words of a 256-bit level, for training's operands: the same as operands512.h. Included after vec256.h; includes
// nothing itself.

KERNEL_INLINE Floats sqrt(Floats a) {
  return _mm256_sqrt_ps(a);
}

// Lanes [begin, end) of v, the others of `other`; the range may reach beyond the lanes at both ends.
KERNEL_INLINE Floats keep_range(Floats v, Floats other, int64_t begin, int64_t end) {
  const Ints mask = _mm256_andnot_si256(first(begin), first(end));
  return _mm256_blendv_ps(other, v, as_floats(mask));
}

// The upper halves are bfloat16 of a, to nearest even; the lower halves are zero. A NaN stays one.
KERNEL_INLINE Ints round_bf16(Floats a) {
  const Ints bits = _mm256_castps_si256(a);
  const Ints odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), set_i(1));
  const Ints rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, set_i(0x7fff)));
  const Ints quiet = _mm256_or_si256(bits, set_i(0x400000));
  const Floats kept = _mm256_blendv_ps(as_floats(rounded), as_floats(quiet), _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  return _mm256_and_si256(_mm256_castps_si256(kept), set_i(static_cast<int32_t>(0xffff0000)));
}
// Two registers of floats as bfloat16: a in the lower half.
KERNEL_INLINE Ints to_bf16(Floats a, Floats b) {
  const Ints packed = _mm256_packus_epi32(_mm256_srli_epi32(round_bf16(a), 16), _mm256_srli_epi32(round_bf16(b), 16));
  return _mm256_permute4x64_epi64(packed, 0xd8);
}
// Lane i: bfloat16 of a[i] below that of b[i].
KERNEL_INLINE Ints pair_bf16(Floats a, Floats b) {
  return _mm256_or_si256(_mm256_srli_epi32(round_bf16(a), 16), round_bf16(b));
}

// Lane j of v[i] <-> lane i of v[j].
KERNEL_INLINE void transpose_all(Ints (&v)[8]) {
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    Ints four[4] = {v[4 * i], v[4 * i + 1], v[4 * i + 2], v[4 * i + 3]};
    transpose(four);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) v[4 * i + j] = four[j];
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const Ints a = v[i], b = v[4 + i];
    v[i] = _mm256_permute2x128_si256(a, b, 0x20);
    v[4 + i] = _mm256_permute2x128_si256(a, b, 0x31);
  }
}
