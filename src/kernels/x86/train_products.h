// Training's products: packing of operands and tiles of C. Included inside the level's namespace and target region,
// after operands512.h or operands256.h; includes nothing itself.
//
//   C [M, N] (+)= A [M, K] B [K, N]
//
// Operands are made of words of 32 bits: one float32, or two bfloat16 of neighbouring k. A: rows of words. B: panels of
// 32 columns, word after word, [words][32]. A tile of C is up to kRows rows x 2 registers of columns: a word of each
// row is broadcast and meets two registers of the panel, so 2 kRows + 2 .. 2 kRows + 6 registers are in use, and the
// chains are more than latency x throughput of the units need (4 x 2 .. 6 x 2).
//
//              panel: word w of 32 columns, 128 bytes
//                    [ 16 lanes ][ 16 lanes ]
//   row 0  [w] ->     sum 0,0     sum 0,1          A in pieces of kBlockWords words: 2 KB a row, and 64 KB of a panel,
//   row 1  [w] ->     sum 1,0     sum 1,1          which all tiles below each other reuse from the L2 cache
//    ..
//
// Bytes: a task of 128 rows x 128 columns x K reads 2 x 128 K numbers from L3 or memory for 2 x 128 x 128 K FLOPs and
// writes C once a piece of K; the arithmetic units are the limit.
// Order: an entry of C is one chain over ascending k, from C itself when it is added to, or from zero. The pieces of K
// go through C and change no bit.
//
// Lost: the rows of A in whole cache lines at a power of two of bytes fall into few sets of L1 (fourteen rows of 8 KB
// into one of 12 ways): a row takes an odd number of lines instead (left_row_bytes).

constexpr int64_t kBlockWords = 512;
constexpr int64_t kPanelBytes = 4 * kPanelN;  // of one word of all columns of a panel

// -----------------------------------------------------------------------------------------------------------
// arithmetic

// Words that are float32.
struct FullUnit {
  static constexpr Precision kPrecision = Precision::kFull;
  static constexpr int kRows = kLanes == 16 ? 14 : 6;
  Floats right[2];
  KERNEL_INLINE explicit FullUnit(const std::byte* b) {
    right[0] = load(reinterpret_cast<const float*>(b));
    right[1] = load(reinterpret_cast<const float*>(b) + kLanes);
  }
  KERNEL_INLINE void step(const std::byte* a, Floats& sum0, Floats& sum1) const {
    const Floats left = as_floats(broadcast_4(a));
    sum0 = fma(left, right[0], sum0);
    sum1 = fma(left, right[1], sum1);
  }
};

#if WESTLAKE_BF16
// Words that are pairs of bfloat16, with an instruction for them.
struct Bf16Unit {
  static constexpr Precision kPrecision = Precision::kBf16;
  static constexpr int kRows = 14;
  Ints right[2];
  KERNEL_INLINE explicit Bf16Unit(const std::byte* b) {
    right[0] = load_i(b);
    right[1] = load_i(b + 4 * kLanes);
  }
  KERNEL_INLINE void step(const std::byte* a, Floats& sum0, Floats& sum1) const {
    const Ints left = broadcast_4(a);
    sum0 = dot_bf16(sum0, left, right[0]);
    sum1 = dot_bf16(sum1, left, right[1]);
  }
};
#else
// The same without: both numbers are widened to float32 in registers. Twice the multiply-adds, and exact products.
struct Bf16Unit {
  static constexpr Precision kPrecision = Precision::kBf16;
  static constexpr int kRows = kLanes == 16 ? 12 : 4;
  Floats low[2], high[2];
  KERNEL_INLINE static Floats widen_low(Ints pair) { return as_floats(shift_left(pair, 16)); }
  KERNEL_INLINE static Floats widen_high(Ints pair) {
    return as_floats(bitand_i(pair, set_i(static_cast<int32_t>(0xffff0000))));
  }
  KERNEL_INLINE explicit Bf16Unit(const std::byte* b) {
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const Ints pairs = load_i(b + 4 * kLanes * i);
      low[i] = widen_low(pairs);
      high[i] = widen_high(pairs);
    }
  }
  KERNEL_INLINE void step(const std::byte* a, Floats& sum0, Floats& sum1) const {
    const Ints pair = broadcast_4(a);
    const Floats first_k = widen_low(pair), second_k = widen_high(pair);
    sum0 = fma(second_k, high[0], fma(first_k, low[0], sum0));
    sum1 = fma(second_k, high[1], fma(first_k, low[1], sum1));
  }
};
#endif

// -----------------------------------------------------------------------------------------------------------------
// tiles

constexpr int64_t kTileColumns = 2 * kLanes;

// A piece of a product: `words` words of rows at `a`, `a_row` bytes apart, with columns of one panel at `b`.
struct Tile {
  const std::byte* a;
  int64_t a_row;
  int64_t rows;
  const std::byte* b;
  int64_t words;  // Requires: a multiple of four
  float* c;
  int64_t ldc;
  int64_t columns;  // of C, 1 .. kTileColumns
  bool add;
  const float* next = nullptr;  // C of the tile that comes next, which is asked for meanwhile; null: it is in the cache
};

template <typename Unit, int R>
inline void tile(const Tile& t) {
  Floats sum[R][2];
#pragma GCC unroll 14
  for (int r = 0; r < R; ++r) sum[r][0] = sum[r][1] = zero();
  if (t.next != nullptr) {
    for (int r = 0; r < R; ++r) {
      prefetch_to_write(t.next + r * t.ldc);
      prefetch_to_write(t.next + r * t.ldc + kLanes);
    }
  }
  const bool whole = t.columns == kTileColumns;
  if (t.add) {
#pragma GCC unroll 14
    for (int r = 0; r < R; ++r) {
      const float* c = t.c + r * t.ldc;
      sum[r][0] = whole ? load(c) : load_some(c, t.columns);
      sum[r][1] = whole ? load(c + kLanes) : load_some(c + kLanes, t.columns - kLanes);
    }
  }
  // A base for every three rows: base, base + stride and base + 2 stride are addresses that an instruction can form.
  constexpr int kBases = (R + 2) / 3;
  const std::byte* base[kBases];
#pragma GCC unroll 5
  for (int i = 0; i < kBases; ++i) base[i] = t.a + 3 * i * t.a_row;
  const std::byte* b = t.b;
  const int64_t stride = t.a_row;
  for (int64_t w = t.words; w > 0; w -= 4) {
#pragma GCC unroll 4
    for (int u = 0; u < 4; ++u) {
      const Unit unit(b + u * kPanelBytes);
#pragma GCC unroll 14
      for (int r = 0; r < R; ++r) unit.step(base[r / 3] + r % 3 * stride + 4 * u, sum[r][0], sum[r][1]);
    }
    b += 4 * kPanelBytes;
#pragma GCC unroll 5
    for (int i = 0; i < kBases; ++i) {
      base[i] += 16;
      __asm__("" : "+r"(base[i]));  // or GCC makes a pointer of every row
    }
  }
#pragma GCC unroll 14
  for (int r = 0; r < R; ++r) {
    float* c = t.c + r * t.ldc;
    if (whole) {
      store(c, sum[r][0]);
      store(c + kLanes, sum[r][1]);
    } else {
      store_some(c, sum[r][0], t.columns);
      store_some(c + kLanes, sum[r][1], t.columns - kLanes);
    }
  }
}

template <typename Unit>
inline void tile_of_rows(const Tile& t) {
  static_assert(Unit::kRows <= 14);
  switch (t.rows) {
#define WESTLAKE_TILE(R)                                     \
  case R:                                                    \
    if constexpr (R <= Unit::kRows) return tile<Unit, R>(t); \
    break;
    WESTLAKE_TILE(1)
    WESTLAKE_TILE(2)
    WESTLAKE_TILE(3)
    WESTLAKE_TILE(4)
    WESTLAKE_TILE(5)
    WESTLAKE_TILE(6)
    WESTLAKE_TILE(7)
    WESTLAKE_TILE(8)
    WESTLAKE_TILE(9)
    WESTLAKE_TILE(10)
    WESTLAKE_TILE(11)
    WESTLAKE_TILE(12)
    WESTLAKE_TILE(13)
    WESTLAKE_TILE(14)
#undef WESTLAKE_TILE
  }
}

// m rows of A with n columns in panels `panel_bytes` apart. Requires: words is a multiple of four.
struct Block {
  const std::byte* a;
  int64_t a_row;
  int64_t m;
  const std::byte* b;
  int64_t panel_bytes;
  int64_t n;
  int64_t words;
  float* c;
  int64_t ldc;
  bool add;
  bool c_far = false;  // C is not in the first caches
};

// The rows in as few tiles as can be, and those as equal as can be: a tile of twelve rows keeps the units as busy as
// one of fourteen, a tile of two does not.
template <typename Unit>
inline void multiply_block(const Block& p) {
  const int64_t tiles = (p.m + Unit::kRows - 1) / Unit::kRows;
  for (int64_t w = 0; w < p.words; w += kBlockWords) {
    const int64_t words = p.words - w < kBlockWords ? p.words - w : kBlockWords;
    for (int64_t column = 0; column < p.n; column += kTileColumns) {
      const std::byte* b = p.b + column / kPanelN * p.panel_bytes + column % kPanelN * 4 + w * kPanelBytes;
      const int64_t columns = p.n - column < kTileColumns ? p.n - column : kTileColumns;
      for (int64_t i = 0; i < tiles; ++i) {
        const int64_t row = i * p.m / tiles, end = (i + 1) * p.m / tiles;
        const float* next = nullptr;
        if (p.c_far && i + 1 < tiles) next = p.c + end * p.ldc + column;
        if (p.c_far && i + 1 == tiles && column + kTileColumns < p.n) next = p.c + column + kTileColumns;
        tile_of_rows<Unit>({.a = p.a + row * p.a_row + 4 * w,
                            .a_row = p.a_row,
                            .rows = end - row,
                            .b = b,
                            .words = words,
                            .c = p.c + row * p.ldc + column,
                            .ldc = p.ldc,
                            .columns = columns,
                            .add = p.add || w > 0,
                            .next = next});
      }
    }
  }
}
