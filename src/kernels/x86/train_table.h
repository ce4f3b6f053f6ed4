// Included last, inside a level's namespace: the level's functions of training as one table. Constant, so that nothing
// compiled for the level runs before the machine was asked.
constexpr TrainKernels<float> train_table(std::string_view name) {
  return {
      .name = name,
      .pack_left = pack_left,
      .pack_right = pack_right,
      .pack_both = pack_both,
      .multiply = multiply,
      .attend = training::attend,
      .attend_backward = training::attend_backward,
      .attend_scratch_bytes = training::attend_scratch_bytes,
      .rms_norm = training::rms_norm,
      .rms_norm_backward = training::rms_norm_backward,
      .silu_mul = silu_mul,
      .silu_mul_backward = training::silu_mul_backward,
      .rope = training::rope,
      .cross_entropy = training::cross_entropy,
      .axpy = axpy,
      .dot = dot,
      .sum_squares = training::sum_squares,
      .adamw = training::adamw,
  };
}
