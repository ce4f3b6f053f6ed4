// Rows of an int8 cache times a weight, back to int8. Included inside the level's namespace and target region, after
// dots_q8.h; includes nothing itself.
//
// Shapes: x [T, K], w [N, K] packed in lanes, y [T, N]. A register of lanes is that many outputs of a row; the packed
// rows of a tile, 64 K bytes, stay in the L1 cache for all keys of the block. Bytes: (T + N) K once; operations 2 T N
// K: the dot units are the limit.

inline void pack_q8(const float* w, int64_t ldw, int64_t K, std::byte* out, float* scale, int8_t* scratch) {
  for (int64_t n = 0; n < 16; ++n) scale[n] = quantise_row(w + n * ldw, K, scratch + n * K);
  for (int64_t n = 0; n < 16; n += kLanes) pack_lanes(scratch + n * K, K, out + n * K);
}

inline void expand_q8(const ExpandQ8Args& a) {
  constexpr int kRegisters = kLanes == 16 ? 4 : 2;  // of outputs in a tile
  constexpr int kKeys = kTileKeys<kRegisters>;
  auto* offsets = reinterpret_cast<int32_t*>(a.scratch);
  float* y = a.scratch + kKvBlock;  // [T, N] of a part
  key_offsets(a.x, a.x_stride, a.K, offsets);
  int64_t first = 0;
  for (const ExpandQ8Args::Part& part : a.parts) {
    for (int64_t n = 0; n < part.N; n += kRegisters * kLanes) {
      for (int64_t i = 0; i < a.T; i += kKeys) {
        Ints dots[kTileSums];
        dot_tile<kRegisters>(a.w + (first + n) * a.K, kLanes * a.K, a.K, a.x + i * a.x_stride, a.x_stride, offsets + i,
                             dots);
#pragma GCC unroll 4
        for (int j = 0; j < kRegisters; ++j) {
          const Floats scale = load(a.w_scale + first + n + j * kLanes);
#pragma GCC unroll 4
          for (int r = 0; r < kKeys; ++r)
            store(y + (i + r) * part.N + n + j * kLanes, mul(scale, to_float(dots[r * kRegisters + j])));
        }
      }
    }
    for (int64_t i = 0; i < a.T; ++i)
      part.y_scale[i] = a.x_scale[i] * quantise_row(y + i * part.N, part.N, part.y + i * a.y_stride);
    first += part.N;
  }
}
