// float32 to bfloat16, and nothing else that needs a unit for it: for levels with products in bfloat16. Included inside
// the level's namespace and target region, behind vec512.h; includes nothing itself.

// To nearest even, the bits of float_to_bf16() (tensor/scalar.h): denormals are kept, which vcvtne2ps2bf16 does not do.
KERNEL_INLINE __m256i to_bf16(Floats v) {
  const Ints bits = _mm512_castps_si512(v);
  const Ints even = bitand_i(shift_right(bits, 16), set_i(1));
  const Ints rounded = shift_right(add_i(add_i(bits, set_i(0x7fff)), even), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  const Ints quiet = bitor_i(shift_right(bits, 16), set_i(0x40));
  return _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, nan, quiet));
}

// 32 numbers.
KERNEL_INLINE void store_bf16(const float* x, uint16_t* out) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), to_bf16(load(x)));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + kLanes), to_bf16(load(x + kLanes)));
}
