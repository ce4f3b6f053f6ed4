// Included last, inside a level's namespace: the level's functions as one table. Constant, so that nothing compiled for
// the level runs before the machine was asked. Without the products in bfloat16, which few levels have.
constexpr KernelTable table_named(std::string_view name) {
  return {
      .name = name,
      .gemm_f32 = gemm_f32,
      .gemm_q8 = gemm_q8,
      .gemm_bf16 = nullptr,
      .gemm_nn_f32 = gemm_nn_f32,
      .dequantise = dequantise,
      .quantise_q8 = quantise_q8,
      .round_bf16 = nullptr,
      .rms_norm = rms_norm,
      .silu_mul = silu_mul,
      .axpy = axpy,
      .dot = dot,
      .softmax = softmax,
      .rope_interleaved = rope_interleaved,
      .rope_halves = rope_halves,
      .hadamard = hadamard,
      .attend = attend,
      .attend_q8 = attend_q8,
      .attend_q8_merge = attend_q8_merge,
      .pack_q8 = pack_q8,
      .expand_q8 = expand_q8,
      .quantise_row = quantise_row,
  };
}
