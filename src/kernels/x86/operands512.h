// More words of a 512-bit level, for training's operands. Included after vec512.h; includes nothing itself.
// operands256.h has the same for eight lanes. WESTLAKE_BF16: the level has vdpbf16ps and vcvtne2ps2bf16.

KERNEL_INLINE Floats sqrt(Floats a) {
  return _mm512_sqrt_ps(a);
}

// Lanes [begin, end) of v, the others of `other`; the range may reach beyond the lanes at both ends.
KERNEL_INLINE __mmask16 lanes_below(int64_t n) {
  return n <= 0 ? __mmask16{0} : n >= 16 ? static_cast<__mmask16>(0xffff) : first(n);
}
KERNEL_INLINE Floats keep_range(Floats v, Floats other, int64_t begin, int64_t end) {
  return _mm512_mask_mov_ps(other, static_cast<__mmask16>(lanes_below(end) & ~lanes_below(begin)), v);
}

#if WESTLAKE_BF16
// Two registers of floats as bfloat16, to nearest even: a in the lower half. Numbers below 2^-126 become zero.
KERNEL_INLINE Ints to_bf16(Floats a, Floats b) {
  return (Ints)_mm512_cvtne2ps_pbh(b, a);
}
// Lane i: bfloat16 of a[i] below that of b[i].
KERNEL_INLINE Ints pair_bf16(Floats a, Floats b) {
  const Ints order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5,
                                      20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, to_bf16(a, b));
}
// In assembly, because GCC 12 copies the sums around the intrinsic. sums += both products of bfloat16 in each lane.
KERNEL_INLINE Floats dot_bf16(Floats sums, Ints a, Ints b) {
  __asm__("vdpbf16ps %2, %1, %0" : "+v"(sums) : "v"(a), "v"(b));
  return sums;
}
#else
// The upper halves are bfloat16 of a, to nearest even; the lower halves are zero. A NaN stays one.
KERNEL_INLINE Ints round_bf16(Floats a) {
  const Ints bits = _mm512_castps_si512(a);
  const Ints odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), set_i(1));
  const Ints rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, set_i(0x7fff)));
  const Ints quiet = _mm512_or_si512(bits, set_i(0x400000));
  return _mm512_and_si512(_mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), quiet),
                          set_i(static_cast<int32_t>(0xffff0000)));
}
KERNEL_INLINE Ints to_bf16(Floats a, Floats b) {
  const __m256i low = _mm512_cvtepi32_epi16(_mm512_srli_epi32(round_bf16(a), 16));
  return _mm512_inserti64x4(_mm512_castsi256_si512(low), _mm512_cvtepi32_epi16(_mm512_srli_epi32(round_bf16(b), 16)),
                            1);
}
KERNEL_INLINE Ints pair_bf16(Floats a, Floats b) {
  return _mm512_or_si512(_mm512_srli_epi32(round_bf16(a), 16), round_bf16(b));
}
#endif

// Lane j of v[i] <-> lane i of v[j].
KERNEL_INLINE void transpose_all(Ints (&v)[16]) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    Ints four[4] = {v[4 * i], v[4 * i + 1], v[4 * i + 2], v[4 * i + 3]};
    transpose(four);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) v[4 * i + j] = four[j];
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {  // pieces of four lanes, as a 4 x 4 matrix of pieces
    const Ints a = pieces<0x44>(v[i], v[4 + i]), b = pieces<0xee>(v[i], v[4 + i]);
    const Ints c = pieces<0x44>(v[8 + i], v[12 + i]), d = pieces<0xee>(v[8 + i], v[12 + i]);
    v[i] = pieces<0x88>(a, c);
    v[4 + i] = pieces<0xdd>(a, c);
    v[8 + i] = pieces<0x88>(b, d);
    v[12 + i] = pieces<0xdd>(b, d);
  }
}
