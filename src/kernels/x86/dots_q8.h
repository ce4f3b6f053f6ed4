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
  const int64_t whole = n / 32 * 32;
  uint32_t bits = 0;  // of the largest magnitude; NaN last
  for (int64_t i = 0; i < whole; i += 32) {
    const uint32_t b = largest_magnitude_bits(load_block(x + i));
    bits = b > bits ? b : bits;
  }
  for (int64_t i = whole; i < n; ++i) {
    uint32_t b;
    std::memcpy(&b, x + i, 4);
    b &= 0x7fffffff;
    bits = b > bits ? b : bits;
  }
  float largest_value;
  std::memcpy(&largest_value, &bits, 4);
  if (bits >= 0x7f800000 || largest_value < 0x1p-100f) {
    std::memset(qs, 0, static_cast<size_t>(n));
    return bits >= 0x7f800000 ? __builtin_nanf("") : 0.0f;
  }
  const float inverse = 127.0f / largest_value;
  int16_t sums[2];
  for (int64_t i = 0; i < whole; i += 32) store_rounded(load_block(x + i), inverse, qs + i, sums);
  for (int64_t i = whole; i < n; ++i) qs[i] = static_cast<int8_t>(__builtin_nearbyintf(x[i] * inverse));
  return largest_value / 127.0f;
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

// What the sums of n keys over K bytes begin with.
inline void key_offsets(const int8_t* keys, int64_t stride, int64_t n, int64_t K, int32_t* out) {
  if constexpr (kWideOffset == 0) {
    std::memset(out, 0, static_cast<size_t>(n) * sizeof *out);
  } else {
    const Ints ones = set_i(0x01010101);
    for (int64_t i = 0; i < n; ++i) {
      Ints total = zero_i();
      for (int64_t k = 0; k < K; k += 4 * kLanes) total = dot4_vectors(total, ones, load_i(keys + i * stride + k));
      out[i] = -kWideOffset * sum(total);
    }
  }
}

// A tile: NQ registers of packed rows, `groups` bytes apart, and kTileSums / NQ keys. One register alone is given two
// chains a key instead of more keys, whose addresses would not fit the registers.
constexpr int kTileSums = kLanes == 16 ? 16 : 8;
template <int NQ>
constexpr int kTileKeys = NQ == 1 ? 8 : kTileSums / NQ;

template <int NQ>
KERNEL_INLINE void dot_tile(const std::byte* packed, int64_t groups, int64_t K, const int8_t* keys, int64_t stride,
                            const int32_t* offsets, Ints (&sums)[NQ * kTileKeys<NQ>]) {
  constexpr int kKeys = kTileKeys<NQ>, kChains = kTileSums / (NQ * kKeys);
  Ints all[kChains][NQ * kKeys];
#pragma GCC unroll 16
  for (int i = 0; i < NQ * kKeys; ++i) {
    all[0][i] = set_i(offsets[i / NQ]);
    if constexpr (kChains == 2) all[1][i] = zero_i();
  }
  const int8_t* row[kKeys];
#pragma GCC unroll 16
  for (int r = 0; r < kKeys; ++r) row[r] = keys + r * stride;
  for (int64_t k = 0; k < K; k += 4 * kChains) {
#pragma GCC unroll 2
    for (int c = 0; c < kChains; ++c) {
      Ints q[NQ];
#pragma GCC unroll 4
      for (int i = 0; i < NQ; ++i) q[i] = load_i(packed + i * groups + (k + 4 * c) * kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < kKeys; ++r) {
        if constexpr (NQ == 1) {
          all[c][r] = dot4_four(all[c][r], q[0], row[r] + k + 4 * c);
        } else {
          const Ints key = broadcast_4(row[r] + k + 4 * c);
#pragma GCC unroll 4
          for (int i = 0; i < NQ; ++i) all[c][r * NQ + i] = dot4_both(all[c][r * NQ + i], q[i], key);
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < NQ * kKeys; ++i) sums[i] = kChains == 2 ? add_i(all[0][i], all[kChains - 1][i]) : all[0][i];
}
