// Activations in the order in which the tiles of int8 products read them. Included inside the level's namespace and
// target region; includes nothing itself.
//
//   chunk 0: tile 0: block 0, block 1 ..   tile 1: block 0, ..   ..   chunk 1: ..        a tile: NT tokens
//   a block of a tile:  [NT][32] qs,  [NT] d,  [kHalves][NT] what its sums give
//
// One stream that is read from its begin to its end for each pair of row groups: the rows themselves lie a power of two
// apart, so that the pieces of 48 of them fight for a few sets of the cache. A tile that lacks tokens repeats the last.
// The sums of qs over each part that has a scale of its own: for formats with a minimum d times the sum, for those with
// an offset -kOffset times the sum.

constexpr int kTileTokens = kLanes == 16 ? 6 : 4;  // of a register tile

// Tokens of the tile that begins at `left` tokens before the end: whole ones, then one that fits. Three or five take a
// wider tile with an idle place: two short tiles, each waiting for its own results, take longer.
KERNEL_INLINE int64_t tile_width(int64_t left) {
  if (left >= kTileTokens) return kTileTokens;
  return left == 5 ? 6 : left == 3 ? 4 : left;
}

// Tokens with the idle places.
KERNEL_INLINE int64_t places_of(int64_t tokens) {
  const int64_t whole = tokens / kTileTokens * kTileTokens;
  return tokens == whole ? tokens : whole + tile_width(tokens - whole);
}

// Of one token and block.
template <typename Format>
constexpr int64_t kPackedBytes = 32 + 4 + 4 * Format::kHalves;

// A block of NT packed tokens.
template <typename Format, int NT>
struct PackedBlock {
  const std::byte* p;
  KERNEL_INLINE const int8_t* qs(int t) const { return reinterpret_cast<const int8_t*>(p + 32 * t); }
  KERNEL_INLINE Floats scale(int t) const { return as_floats(broadcast_4(p + 32 * NT + 4 * t)); }
  // What the dots of part h start at, and what its minimum is multiplied with.
  KERNEL_INLINE Ints minus_offset(int t, int h) const { return broadcast_4(p + (36 + 4 * h) * NT + 4 * t); }
  KERNEL_INLINE Floats scaled_ones(int t, int h) const { return as_floats(minus_offset(t, h)); }
};

// The 16-bit pair (a, b) that picks the sum of qs over part h out of the sums of its two halves.
template <typename Format>
constexpr unsigned pick_part(int h) {
  return Format::kHalves == 1 ? 0x00010001 : h == 0 ? 0x00000001 : 0x00010000;
}

// Of the two sums of a block as it lies: what PackedBlock has ready.
template <typename Format>
KERNEL_INLINE Ints loose_minus_offset(const int16_t* sums, int h) {
  constexpr unsigned kMinusOffset = static_cast<unsigned>(-Format::kOffset & 0xffff);  // of a 16-bit number
  return dot_pair(set_i(static_cast<int>(pick_part<Format>(h) * kMinusOffset)), sums);
}
template <typename Format>
KERNEL_INLINE Floats loose_scaled_ones(const int16_t* sums, int h, Floats scale) {
  return mul(to_float(dot_pair(set_i(static_cast<int>(pick_part<Format>(h))), sums)), scale);
}

// One or two tokens as they lie: for so few, packing costs more than it saves.
template <typename Format, int NT>
struct LooseTokens {
  const int8_t* rows[NT];
  const float* d[NT];
  const int16_t* sums[NT];
  LooseTokens(const Q8Rows& x, int64_t t0) {
    for (int t = 0; t < NT; ++t) rows[t] = x.qs_row(t0 + t), d[t] = x.d_row(t0 + t), sums[t] = x.sums_row(t0 + t);
  }
  struct Block {
    const LooseTokens& x;
    int64_t b;
    KERNEL_INLINE const int8_t* qs(int t) const { return x.rows[t] + 32 * b; }
    KERNEL_INLINE Floats scale(int t) const { return set(x.d[t][b]); }
    KERNEL_INLINE Ints minus_offset(int t, int h) const { return loose_minus_offset<Format>(x.sums[t] + 2 * b, h); }
    KERNEL_INLINE Floats scaled_ones(int t, int h) const {
      return loose_scaled_ones<Format>(x.sums[t] + 2 * b, h, scale(t));
    }
  };
  KERNEL_INLINE Block block(int64_t b) const { return {*this, b}; }
};

// The rests from one pair on, a block each, one behind the other. Pointers of their own (LooseTokens) took GCC a third
// of a product to compute.
template <typename Format>
struct RestBlocks {
  const int8_t* first;
  const float* d;
  const int16_t* sums;
  RestBlocks(const Q8Rows& x, int64_t pair) : first(x.qs + 32 * pair), d(x.d + pair), sums(x.sums + 2 * pair) {}
  KERNEL_INLINE const int8_t* qs(int t) const { return first + 32 * t; }
  KERNEL_INLINE Floats scale(int t) const { return set(d[t]); }
  KERNEL_INLINE Ints minus_offset(int t, int h) const { return loose_minus_offset<Format>(sums + 2 * t, h); }
  KERNEL_INLINE Floats scaled_ones(int t, int h) const { return loose_scaled_ones<Format>(sums + 2 * t, h, scale(t)); }
};

// Tokens [t0, t0 + tokens), in chunks of `chunk` blocks; width_of(left) is how wide the tile is that begins at `left`
// tokens before the end. out: kPackedBytes * (K / 32) bytes a token, idle ones too.
template <typename Format, typename Width>
inline void pack_tokens(const Q8Rows& x, int64_t t0, int64_t tokens, int64_t chunk, const Width& width_of,
                        std::byte* out) {
  const int64_t blocks = x.cols / 32;
  for (int64_t b0 = 0; b0 < blocks; b0 += chunk) {
    const int64_t n = blocks - b0 < chunk ? blocks - b0 : chunk;
    for (int64_t t = 0; t < tokens;) {
      const int64_t width = width_of(tokens - t), record = width * kPackedBytes<Format>;
      for (int64_t i = 0; i < width; ++i) {
        const int64_t row = t0 + (t + i < tokens ? t + i : tokens - 1);
        const int8_t* qs = x.qs_row(row) + 32 * b0;
        const float* d = x.d_row(row) + b0;
        const int16_t* sums = x.sums_row(row) + 2 * b0;
        std::byte* to = out;
        for (int64_t b = 0; b < n; ++b, to += record) {
          std::memcpy(to + 32 * i, qs + 32 * b, 32);
          std::memcpy(to + 32 * width + 4 * i, d + b, 4);
          for (int h = 0; h < Format::kHalves; ++h) {
            const int32_t sum = Format::kHalves == 1 ? sums[2 * b] + sums[2 * b + 1] : sums[2 * b + h];
            const int32_t offset = -Format::kOffset * sum;
            const float scaled = static_cast<float>(sum) * d[b];
            std::memcpy(to + (36 + 4 * h) * width + 4 * i, Format::kMin ? static_cast<const void*>(&scaled) : &offset,
                        4);
          }
        }
      }
      out += n * record;
      t += width;
    }
  }
}
