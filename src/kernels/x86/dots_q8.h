// Dots of many rows of int8 with many others: the products of attention and of MLA's expanded keys. Included inside the
// level's namespace and target region, after formats.h; includes nothing itself.
//
// Idea: one side is packed, kLanes rows side by side, four bytes of each in a register; of the other side four bytes
// are given to all lanes. A sum is then a lane of its own: nothing has to be added across lanes, and the other side is
// read where it lies.
//
//   packed: [rows / kLanes][K / 4][kLanes][4 bytes]           sums[key][row] = sum_k packed[row][k] key[k]
//
// With VNNI one side of a dot is unsigned: the packed one carries 128 more in every byte (wide), which adds 128 times
// the sum of the key's bytes; sums begin there (key_offsets). Sums are exact, so the tile does not matter.

// As ref.
inline float quantise_row(const float* x, int64_t n, int8_t* qs) {
  constexpr int32_t kInfinity = 0x7f800000, kSmallest = 0x0d800000;  // the bits of infinity and of 2^-100
  const int64_t whole = n / (2 * kLanes) * (2 * kLanes);
  Ints tops[2] = {zero_i(), zero_i()};
  for (int64_t i = 0; i < whole; i += 2 * kLanes) {
    tops[0] = max_i(tops[0], magnitude_bits(load(x + i)));
    tops[1] = max_i(tops[1], magnitude_bits(load(x + i + kLanes)));
  }
  int32_t bits = largest(max_i(tops[0], tops[1]));
  for (int64_t i = whole; i < n; ++i) {
    const int32_t b = __builtin_bit_cast(int32_t, x[i]) & 0x7fffffff;
    bits = b > bits ? b : bits;
  }
  if (bits >= kInfinity || bits < kSmallest) {
    std::memset(qs, 0, static_cast<size_t>(n));
    return bits >= kInfinity ? __builtin_nanf("") : 0.0f;
  }
  const float top = __builtin_bit_cast(float, bits), inverse = 127.0f / top;
  for (int64_t i = 0; i < whole; i += kLanes) store_bytes(rounded(mul(load(x + i), set(inverse))), qs + i);
  for (int64_t i = whole; i < n; ++i) qs[i] = static_cast<int8_t>(__builtin_nearbyintf(x[i] * inverse));
  return top / 127.0f;
}

// Rows [0, kLanes) of K bytes, K a multiple of 16, side by side.
inline void pack_lanes(const int8_t* rows, int64_t K, std::byte* out) {
  for (int64_t k = 0; k < K; k += 16) {
    Ints v[4];
    load_rows(reinterpret_cast<const std::byte*>(rows) + k, K, v);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) store_i(out + (k + 4 * j) * kLanes, wide(v[j]));
  }
}

// What the sums of kKvBlock keys over K bytes begin with.
inline void key_offsets([[maybe_unused]] const int8_t* keys, [[maybe_unused]] int64_t stride,
                        [[maybe_unused]] int64_t K, int32_t* out) {
#if WESTLAKE_VNNI
  const Ints ones = set_i(0x01010101);
  for (int64_t i = 0; i < kKvBlock; i += 16) {
    Ints sums[16];  // in the order that sum_sixteen turns back
#pragma GCC unroll 16
    for (Ints& each : sums) each = zero_i();
    for (int64_t k = 0; k < K; k += 4 * kLanes) {
#pragma GCC unroll 16
      for (int j = 0; j < 16; ++j)
        sums[j] = dot4_vectors(sums[j], ones, load_i(keys + (i + 4 * (j % 4) + j / 4) * stride + k));
    }
    store_i(out + i, sub_i(zero_i(), shift_left(sum_sixteen(sums), 7)));
  }
  static_assert(kWideOffset == 1 << 7);
#else
  static_assert(kWideOffset == 0);
  std::memset(out, 0, kKvBlock * sizeof *out);
#endif
}

// A tile: NQ registers of packed rows, `groups` bytes apart, and kTileSums / NQ keys.
constexpr int kTileSums = kLanes == 16 ? 16 : 8;
template <int NQ>
constexpr int kTileKeys = kTileSums / NQ;

template <int NQ>
KERNEL_INLINE void dot_tile(const std::byte* packed, int64_t groups, int64_t K, const int8_t* keys, int64_t stride,
                            const int32_t* offsets, Ints (&sums)[kTileSums]) {
  constexpr int kKeys = kTileKeys<NQ>;
#pragma GCC unroll 16
  for (int i = 0; i < kTileSums; ++i) sums[i] = set_i(offsets[i / NQ]);
  for (int64_t k = 0; k < K; k += 4) {
    Ints q[NQ];
#pragma GCC unroll 4
    for (int i = 0; i < NQ; ++i) q[i] = load_i(packed + i * groups + k * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kKeys; ++r) {
      const Ints key = broadcast_4(keys + r * stride + k);
#pragma GCC unroll 4
      for (int i = 0; i < NQ; ++i) sums[r * NQ + i] = dot4_both(sums[r * NQ + i], q[i], key);
    }
  }
}

// For few rows the lanes are filled with four dims of kFewRows of them:
//   packed: [rows / kFewRows][K / 16][kFewRows][16 bytes]      lane 4 r + c: bytes [4 c, 4 c + 4) of sixteen of row r
// A key is given sixteen bytes at a time, a quarter of the loads; in the end four lanes are added, so that lane 4 r + c
// of sum j, i is key 4 j + c with row r of register i.
constexpr int kFewRows = kLanes / 4;

inline void pack_few(const int8_t* rows, int64_t K, std::byte* out) {
  for (int64_t k = 0; k < K; k += 16) {
    alignas(64) int8_t line[4 * kLanes];
    for (int r = 0; r < kFewRows; ++r) std::memcpy(line + 16 * r, rows + r * K + k, 16);
    store_i(out + k * kFewRows, wide(load_i(line)));
  }
}

// ahead: keys that come next, at the same stride: asked for while these are multiplied, a line a step.
template <int NQ>
KERNEL_INLINE void dot_tile_few(const std::byte* packed, int64_t groups, int64_t K, const int8_t* keys, int64_t stride,
                                const int8_t* ahead, const int32_t* offsets, Ints (&sums)[kTileSums / 4]) {
  constexpr int kKeys = kTileKeys<NQ>;
  Ints all[kTileSums];  // [kKeys][NQ]
#pragma GCC unroll 16
  for (int i = 0; i < kTileSums; ++i) all[i] = zero_i();
  for (int64_t line = 0; line < K; line += 64) {
#pragma GCC unroll 4
    for (int part = 0; part < 4; ++part) {
      const int64_t k = line + 16 * part;
      Ints q[NQ];
#pragma GCC unroll 4
      for (int i = 0; i < NQ; ++i) q[i] = load_i(packed + i * groups + k * kFewRows);
#pragma GCC unroll 16
      for (int r = 0; r < kKeys; ++r) {
        if (r % 4 == part) prefetch(reinterpret_cast<const std::byte*>(ahead + r * stride + line));
        const Ints key = broadcast_16(keys + r * stride + k);
#pragma GCC unroll 4
        for (int i = 0; i < NQ; ++i) all[r * NQ + i] = dot4_both(all[r * NQ + i], q[i], key);
      }
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < kKeys / 4; ++j) {
    const Ints offset = broadcast_16(static_cast<const void*>(offsets + 4 * j));
#pragma GCC unroll 4
    for (int i = 0; i < NQ; ++i) {
      const Ints* v = all + 4 * j * NQ + i;
      sums[j * NQ + i] = add_i(offset, sum_fours(v[0], v[NQ], v[2 * NQ], v[3 * NQ]));
    }
  }
}
