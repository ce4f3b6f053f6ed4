// Blocks of quantised weights to tiles: kLanes rows side by side, one row a lane. Included inside the level's namespace
// and target region; includes nothing itself.
//
// A tile is one block of 32 weights of kLanes rows:
//
//             lane 0 (row 0)   lane 1 (row 1)   ...
//   q[0]      w0 w1 w2 w3      w0 w1 w2 w3            four bytes a lane: the shape that an int8 dot of four wants
//   q[1]      w4 w5 w6 w7      ...
//   ...
//   q[7]      w28 .. w31
//   scale[h], min[h]           float32, h = which half of the block, for formats with a scale for each 16
//
// weight = scale * (q - kOffset) + min. Rows side by side need no horizontal sum, so the sum over blocks of each row is
// a plain chain, the same in every level and in ref. Rows as in a file come in windows of 16 bytes a row that are
// transposed in registers (load_rows): per 32 weights of sixteen 4-bit rows 16 loads, 8 shuffles, 12 bit operations. In
// panels (tensor/panels.h) they lie transposed already: 4 loads, 12 bit operations.
//
// A format names: kBytes of a unit, kBlocks of 32 in a unit, kHalves, kMin, kOffset, kSigned (q holds signed bytes:
// levels whose dot4 does not take weights up to 255), and unpack(): the unit of kLanes rows to kBlocks tiles.

struct Tile {
  Ints q[8];
  Floats scale[2];
  Floats min[2];
};

KERNEL_INLINE Ints low_nibbles(Ints v) {
  return bitand_i(v, set_i(0x0f0f0f0f));
}
KERNEL_INLINE Ints high_nibbles(Ints v) {
  return bitand_i(shift_right(v, 4), set_i(0x0f0f0f0f));
}
// Bits [n, n + 2) of each byte.
KERNEL_INLINE Ints two_bits(Ints v, int n) {
  return bitand_i(shift_right(v, n), set_i(0x03030303));
}
// Bit n of each byte.
KERNEL_INLINE Ints one_bit(Ints v, int n) {
  return bitand_i(shift_right(v, n), set_i(0x01010101));
}
// Byte n of each lane, unsigned and signed.
KERNEL_INLINE Ints byte_of(Ints v, int n) {
  return bitand_i(shift_right(v, 8 * n), set_i(0xff));
}
KERNEL_INLINE Floats signed_byte_of(Ints v, int n) {
  return sub(to_float(byte_of(bitxor_i(v, set_i(static_cast<int32_t>(0x80808080))), n)), set(128.0f));
}

// 0..255 where dot4 takes that, else the signed bytes themselves.
KERNEL_INLINE Ints wide(Ints signed_bytes) {
  return kWideUnsigned ? bitxor_i(signed_bytes, set_i(static_cast<int32_t>(0x80808080))) : signed_bytes;
}
constexpr int kWideOffset = kWideUnsigned ? 128 : 0;

// ------------------------------------------------------------------------------------------------- where the rows are
//
// A unit of kLanes rows, by the offset in the unit of one row: load16 sixteen bytes (v[j]: bytes [4j, 4j + 4)), word
// four, half the lone scale.

// Rows as in a file, `stride` bytes apart: gathered and transposed.
struct StridedRows {
  const std::byte* p;
  int64_t stride;
  KERNEL_INLINE void load16(int64_t at, Ints (&v)[4]) const { load_rows(p + at, stride, v); }
  KERNEL_INLINE Ints word(int64_t at) const { return load_rows_u32(p + at, stride); }
  KERNEL_INLINE Floats half(int64_t at) const { return load_rows_half(p + at, stride); }
};

// How far ahead of a line of a panel its successor is asked for. Each line asks for one as it is read: a unit's lines
// asked for together fill the queue of misses (a quarter slower), and left to the hardware's prefetcher alone the units
// of superblocks, which are worked on for long, come at a third of the speed. docs/log.md has the figures.
constexpr int64_t kAhead = 8192;

// A unit of a panel (tensor/panels.h), or eight lanes of it: the scales, then lines of 64 bytes. kStream: asks for the
// lines kAhead of those it reads.
template <DType kDType, bool kStream>
struct PanelUnit {
  static constexpr int kHead = panel_half_at(kDType) == 0 ? 2 : 0;  // words begin behind a scale at the begin
  const std::byte* lines;
  const std::byte* halves;
  KERNEL_INLINE void load16(int64_t at, Ints (&v)[4]) const {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) v[j] = word(at + 4 * j);
  }
  KERNEL_INLINE Ints word(int64_t at) const {
    const std::byte* line = lines + (at - kHead) * kPanelRows;
    if constexpr (kStream) prefetch(line + kAhead);
    return load_i(line);
  }
  KERNEL_INLINE Floats half(int64_t) const {
    return load_f16(halves);
  }
};

// Unit `u` of the kLanes rows from r on of a matrix in panels.
template <typename Format>
struct PanelGroup {
  static constexpr int64_t kUnit = kPanelRows * Format::kBytes;
  static constexpr int64_t kHalves = Format::kBytes % 4 != 0 ? 2 * kPanelRows : 0;
  const std::byte* panel;
  int64_t row;  // of the panel, where the lanes begin
  PanelGroup(const Mat& w, int64_t r) : panel(w.row(r / kPanelRows * kPanelRows)), row(r % kPanelRows) {}
  template <bool kStream>
  KERNEL_INLINE PanelUnit<Format::kDType, kStream> unit(int64_t u) const {
    const std::byte* p = panel + u * kUnit;
    return {p + kHalves + 4 * row, p + 2 * row};
  }
  // Where unit u begins: to ask for it.
  const std::byte* address(int64_t u) const { return panel + u * kUnit; }
};

// ------------------------------------------------------------------------------------------------------- blocks of 32

// 16 bytes of each row from `at` on: elements 0..15 in the low, 16..31 in the high nibbles.
template <typename Rows>
KERNEL_INLINE void unpack_nibbles(const Rows& rows, int64_t at, Ints (&q)[8]) {
  Ints v[4];
  rows.load16(at, v);
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    q[j] = low_nibbles(v[j]);
    q[j + 4] = high_nibbles(v[j]);
  }
}

struct Q4_0 {
  static constexpr DType kDType = DType::kQ4_0;
  static constexpr int kBytes = sizeof(BlockQ4_0), kBlocks = 1, kHalves = 1, kOffset = 8;
  static constexpr bool kMin = false, kSigned = false;
  template <typename Rows>
  KERNEL_INLINE static void unpack(const Rows& rows, Tile* tile) {
    unpack_nibbles(rows, offsetof(BlockQ4_0, qs), tile->q);
    tile->scale[0] = rows.half(0);
  }
};

// d and m, neighbours in the file.
template <typename Rows>
KERNEL_INLINE void unpack_scale_and_min(const Rows& rows, Tile* tile) {
  const Ints both = rows.word(0);
  tile->scale[0] = half_to_float(bitand_i(both, set_i(0xffff)));
  tile->min[0] = half_to_float(shift_right(both, 16));
}

struct Q4_1 {
  static constexpr DType kDType = DType::kQ4_1;
  static constexpr int kBytes = sizeof(BlockQ4_1), kBlocks = 1, kHalves = 1, kOffset = 0;
  static constexpr bool kMin = true, kSigned = false;
  template <typename Rows>
  KERNEL_INLINE static void unpack(const Rows& rows, Tile* tile) {
    unpack_nibbles(rows, offsetof(BlockQ4_1, qs), tile->q);
    unpack_scale_and_min(rows, tile);
  }
};

// The fifth bits: bit i of the word belongs to element i.
template <typename Rows>
KERNEL_INLINE void add_fifth_bits(const Rows& rows, int64_t at, Ints (&q)[8]) {
  const Ints bits = rows.word(at);
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) q[j] = bitor_i(q[j], shift_left(spread_bits(bits, j), 4));
}

struct Q5_0 {
  static constexpr DType kDType = DType::kQ5_0;
  static constexpr int kBytes = sizeof(BlockQ5_0), kBlocks = 1, kHalves = 1, kOffset = 16;
  static constexpr bool kMin = false, kSigned = false;
  template <typename Rows>
  KERNEL_INLINE static void unpack(const Rows& rows, Tile* tile) {
    unpack_nibbles(rows, offsetof(BlockQ5_0, qs), tile->q);
    add_fifth_bits(rows, offsetof(BlockQ5_0, qh), tile->q);
    tile->scale[0] = rows.half(0);
  }
};

struct Q5_1 {
  static constexpr DType kDType = DType::kQ5_1;
  static constexpr int kBytes = sizeof(BlockQ5_1), kBlocks = 1, kHalves = 1, kOffset = 0;
  static constexpr bool kMin = true, kSigned = false;
  template <typename Rows>
  KERNEL_INLINE static void unpack(const Rows& rows, Tile* tile) {
    unpack_nibbles(rows, offsetof(BlockQ5_1, qs), tile->q);
    add_fifth_bits(rows, offsetof(BlockQ5_1, qh), tile->q);
    unpack_scale_and_min(rows, tile);
  }
};

struct Q8_0 {
  static constexpr DType kDType = DType::kQ8_0;
  static constexpr int kBytes = sizeof(BlockQ8_0), kBlocks = 1, kHalves = 1, kOffset = kWideOffset;
  static constexpr bool kMin = false, kSigned = !kWideUnsigned;
  template <typename Rows>
  KERNEL_INLINE static void unpack(const Rows& rows, Tile* tile) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      Ints v[4];
      rows.load16(offsetof(BlockQ8_0, qs) + 16 * half, v);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) tile->q[4 * half + j] = wide(v[j]);
    }
    tile->scale[0] = rows.half(0);
  }
};

// kIQ4Values as wide() would make them.
alignas(16) constexpr auto kIQ4Table = [] {
  std::array<int8_t, 16> table{};
  for (int i = 0; i < 16; ++i) table[i] = static_cast<int8_t>(kIQ4Values[i] ^ (kWideUnsigned ? -128 : 0));
  return table;
}();

template <typename Rows>
KERNEL_INLINE void unpack_iq4(const Rows& rows, int64_t at, Ints (&q)[8]) {
  unpack_nibbles(rows, at, q);
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) q[j] = lookup(kIQ4Table.data(), q[j]);
}

struct IQ4_NL {
  static constexpr DType kDType = DType::kIQ4_NL;
  static constexpr int kBytes = sizeof(BlockIQ4_NL), kBlocks = 1, kHalves = 1, kOffset = kWideOffset;
  static constexpr bool kMin = false, kSigned = !kWideUnsigned;
  template <typename Rows>
  KERNEL_INLINE static void unpack(const Rows& rows, Tile* tile) {
    unpack_iq4(rows, offsetof(BlockIQ4_NL, qs), tile->q);
    tile->scale[0] = rows.half(0);
  }
};

// ------------------------------------------------------------------------------------------------- superblocks of 256

// 32 bytes of each row: v[j] = bytes [4j, 4j + 4).
template <typename Rows>
KERNEL_INLINE void load_rows_32(const Rows& rows, int64_t at, Ints (&v)[8]) {
  Ints a[4], b[4];
  rows.load16(at, a);
  rows.load16(at + 16, b);
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) v[j] = a[j], v[j + 4] = b[j];
}

// Q4_K and Q5_K begin with the same 16 bytes: d, dmin, and eight 6-bit scales and minima. As bytes of a lane:
//   packed[1] = 6 bits of scale 0..3, and the top two bits of scale 4..7    packed[3] = low four bits of scale 4..7,
//   packed[2] = 6 bits of min 0..3, and the top two bits of min 4..7                    and low four bits of min 4..7
template <typename Rows>
KERNEL_INLINE void unpack_k_scales(const Rows& rows, Tile* tiles) {
  Ints packed[4];
  rows.load16(0, packed);
  const Floats d = half_to_float(bitand_i(packed[0], set_i(0xffff)));
  const Floats dmin = sub(zero(), half_to_float(shift_right(packed[0], 16)));
  const Ints six = set_i(0x3f3f3f3f), top = set_i(0x30303030);
  const Ints scales[2] = {bitand_i(packed[1], six),
                          bitor_i(low_nibbles(packed[3]), bitand_i(shift_right(packed[1], 2), top))};
  const Ints mins[2] = {bitand_i(packed[2], six),
                        bitor_i(high_nibbles(packed[3]), bitand_i(shift_right(packed[2], 2), top))};
#pragma GCC unroll 8
  for (int b = 0; b < 8; ++b) {
    tiles[b].scale[0] = mul(d, to_float(byte_of(scales[b / 4], b % 4)));
    tiles[b].min[0] = mul(dmin, to_float(byte_of(mins[b / 4], b % 4)));
  }
}

struct Q4_K {
  static constexpr DType kDType = DType::kQ4_K;
  static constexpr int kBytes = sizeof(BlockQ4_K), kBlocks = 8, kHalves = 1, kOffset = 0;
  static constexpr bool kMin = true, kSigned = false;
  template <typename Rows>
  KERNEL_INLINE static void unpack(const Rows& rows, Tile* tiles) {
    unpack_k_scales(rows, tiles);
    for (int pair = 0; pair < 4; ++pair) {
      Ints v[8];
      load_rows_32(rows, offsetof(BlockQ4_K, qs) + 32 * pair, v);
#pragma GCC unroll 8
      for (int j = 0; j < 8; ++j) {
        tiles[2 * pair].q[j] = low_nibbles(v[j]);
        tiles[2 * pair + 1].q[j] = high_nibbles(v[j]);
      }
    }
  }
};

struct Q5_K {
  static constexpr DType kDType = DType::kQ5_K;
  static constexpr int kBytes = sizeof(BlockQ5_K), kBlocks = 8, kHalves = 1, kOffset = 0;
  static constexpr bool kMin = true, kSigned = false;
  template <typename Rows>
  KERNEL_INLINE static void unpack(const Rows& rows, Tile* tiles) {
    unpack_k_scales(rows, tiles);
    Ints high[8];
    load_rows_32(rows, offsetof(BlockQ5_K, qh), high);
    for (int pair = 0; pair < 4; ++pair) {
      Ints v[8];
      load_rows_32(rows, offsetof(BlockQ5_K, qs) + 32 * pair, v);
#pragma GCC unroll 8
      for (int j = 0; j < 8; ++j) {
        tiles[2 * pair].q[j] = bitor_i(low_nibbles(v[j]), shift_left(one_bit(high[j], 2 * pair), 4));
        tiles[2 * pair + 1].q[j] = bitor_i(high_nibbles(v[j]), shift_left(one_bit(high[j], 2 * pair + 1), 4));
      }
    }
  }
};

struct Q6_K {
  static constexpr DType kDType = DType::kQ6_K;
  static constexpr int kBytes = sizeof(BlockQ6_K), kBlocks = 8, kHalves = 2, kOffset = 32;
  static constexpr bool kMin = false, kSigned = false;
  template <typename Rows>
  KERNEL_INLINE static void unpack(const Rows& rows, Tile* tiles) {
    Ints scales[4];
    rows.load16(offsetof(BlockQ6_K, scales), scales);
    const Floats d = rows.half(offsetof(BlockQ6_K, d));
#pragma GCC unroll 16
    for (int s = 0; s < 16; ++s) tiles[s / 2].scale[s % 2] = mul(d, signed_byte_of(scales[s / 4], s % 4));
    // Elements l, l + 32, l + 64, l + 96 of half a superblock: nibbles of ql[l], ql[l + 32], and four times two bits.
    for (int quarter = 0; quarter < 4; ++quarter) {
      const int half = quarter / 2, j0 = 4 * (quarter % 2);  // sixteen l at a time
      Tile* out = tiles + 4 * half;
      Ints a[4], b[4], high[4];
      rows.load16(64 * half + 4 * j0, a);
      rows.load16(64 * half + 4 * j0 + 32, b);
      rows.load16(offsetof(BlockQ6_K, qh) + 32 * half + 4 * j0, high);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        out[0].q[j0 + j] = bitor_i(low_nibbles(a[j]), shift_left(two_bits(high[j], 0), 4));
        out[1].q[j0 + j] = bitor_i(low_nibbles(b[j]), shift_left(two_bits(high[j], 2), 4));
        out[2].q[j0 + j] = bitor_i(high_nibbles(a[j]), shift_left(two_bits(high[j], 4), 4));
        out[3].q[j0 + j] = bitor_i(high_nibbles(b[j]), shift_left(two_bits(high[j], 6), 4));
      }
    }
  }
};

struct Q2_K {
  static constexpr DType kDType = DType::kQ2_K;
  static constexpr int kBytes = sizeof(BlockQ2_K), kBlocks = 8, kHalves = 2, kOffset = 0;
  static constexpr bool kMin = true, kSigned = false;
  template <typename Rows>
  KERNEL_INLINE static void unpack(const Rows& rows, Tile* tiles) {
    Ints packed[4];  // a byte each 16 elements: scale in the low nibble, minimum in the high
    rows.load16(offsetof(BlockQ2_K, scales), packed);
    const Ints both = rows.word(offsetof(BlockQ2_K, d));
    const Floats d = half_to_float(bitand_i(both, set_i(0xffff)));
    const Floats dmin = sub(zero(), half_to_float(shift_right(both, 16)));
#pragma GCC unroll 16
    for (int s = 0; s < 16; ++s) {
      tiles[s / 2].scale[s % 2] = mul(d, to_float(byte_of(low_nibbles(packed[s / 4]), s % 4)));
      tiles[s / 2].min[s % 2] = mul(dmin, to_float(byte_of(high_nibbles(packed[s / 4]), s % 4)));
    }
    for (int half = 0; half < 2; ++half) {
      Ints v[8];
      load_rows_32(rows, offsetof(BlockQ2_K, qs) + 32 * half, v);
#pragma GCC unroll 4
      for (int b = 0; b < 4; ++b) {
#pragma GCC unroll 8
        for (int j = 0; j < 8; ++j) tiles[4 * half + b].q[j] = two_bits(v[j], 2 * b);
      }
    }
  }
};

struct Q3_K {
  static constexpr DType kDType = DType::kQ3_K;
  static constexpr int kBytes = sizeof(BlockQ3_K), kBlocks = 8, kHalves = 2, kOffset = 4;
  static constexpr bool kMin = false, kSigned = false;
  template <typename Rows>
  KERNEL_INLINE static void unpack(const Rows& rows, Tile* tiles) {
    // Sixteen 6-bit scales in 12 bytes: low four bits of 0..7 and 8..15 in the nibbles of words 0 and 1, the top two
    // bits of 4i .. 4i + 3 in bits 2i and 2i + 1 of word 2.
    const Ints low[2] = {rows.word(offsetof(BlockQ3_K, scales)), rows.word(offsetof(BlockQ3_K, scales) + 4)};
    const Ints top = rows.word(offsetof(BlockQ3_K, scales) + 8);
    const Floats d = rows.half(offsetof(BlockQ3_K, d));
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const Ints nibbles = i < 2 ? low_nibbles(low[i % 2]) : high_nibbles(low[i % 2]);
      const Ints scales = bitor_i(nibbles, shift_left(two_bits(top, 2 * i), 4));
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        tiles[2 * i + j / 2].scale[j % 2] = mul(d, sub(to_float(byte_of(scales, j)), set(32.0f)));
      }
    }
    Ints high[8];
    load_rows_32(rows, offsetof(BlockQ3_K, hmask), high);
    for (int half = 0; half < 2; ++half) {
      Ints v[8];
      load_rows_32(rows, offsetof(BlockQ3_K, qs) + 32 * half, v);
#pragma GCC unroll 4
      for (int b = 0; b < 4; ++b) {
#pragma GCC unroll 8
        for (int j = 0; j < 8; ++j) {
          const Ints third = shift_left(one_bit(high[j], 4 * half + b), 2);
          tiles[4 * half + b].q[j] = bitor_i(two_bits(v[j], 2 * b), third);
        }
      }
    }
  }
};

struct IQ4_XS {
  static constexpr DType kDType = DType::kIQ4_XS;
  static constexpr int kBytes = sizeof(BlockIQ4_XS), kBlocks = 8, kHalves = 1, kOffset = kWideOffset;
  static constexpr bool kMin = false, kSigned = !kWideUnsigned;
  template <typename Rows>
  KERNEL_INLINE static void unpack(const Rows& rows, Tile* tiles) {
    const Ints head = rows.word(0);  // d, then the top two bits of the scales
    const Ints low = rows.word(offsetof(BlockIQ4_XS, scales_l));
    const Floats d = half_to_float(bitand_i(head, set_i(0xffff)));
    for (int b = 0; b < 8; ++b) {
      const Ints scale = bitor_i(bitand_i(shift_right(low, 4 * b), set_i(15)),
                                 shift_left(bitand_i(shift_right(head, 16 + 2 * b), set_i(3)), 4));
      tiles[b].scale[0] = mul(d, sub(to_float(scale), set(32.0f)));
      unpack_iq4(rows, offsetof(BlockIQ4_XS, qs) + 16 * b, tiles[b].q);
    }
  }
};

// Calls f(Format{}) for the format of that name. Requires: is_quantised(dtype).
template <typename F>
inline void with_format(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kQ4_0:
      return f(Q4_0{});
    case DType::kQ4_1:
      return f(Q4_1{});
    case DType::kQ5_0:
      return f(Q5_0{});
    case DType::kQ5_1:
      return f(Q5_1{});
    case DType::kQ8_0:
      return f(Q8_0{});
    case DType::kQ2_K:
      return f(Q2_K{});
    case DType::kQ3_K:
      return f(Q3_K{});
    case DType::kQ4_K:
      return f(Q4_K{});
    case DType::kQ5_K:
      return f(Q5_K{});
    case DType::kQ6_K:
      return f(Q6_K{});
    case DType::kIQ4_NL:
      return f(IQ4_NL{});
    case DType::kIQ4_XS:
      return f(IQ4_XS{});
    default:
      CHECK(false, "{} is no format of blocks", dtype_name(dtype));
  }
}
