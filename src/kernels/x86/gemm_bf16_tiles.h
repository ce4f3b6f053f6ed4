// gemm_bf16 with matrix tiles (tiles.h). Included inside the level's namespace and target region; includes nothing
// itself.
//
//   C [16 rows, 16 tokens] += A [16 rows, 32 of K] B [32 of K, 16 tokens]
//
// A is the weight where it lies, sixteen rows `row_bytes` apart, or a copy without gaps when many tokens read it. B are
// the activations, which round_bf16 lays in tiles: Bf16Rows holds for each group of sixteen tokens, for each 32 of K,
// sixteen lines of a pair of K for each token (the missing tokens of the last group are zeros).
// Two A x two B are four C under way: 64 cycles of dots for 32 of loads. One token costs what sixteen do, so that T = 1
// is bound by the units at 64 bytes of weights a cycle, far above the memory. Everything stays in C over all of K.
// Order: that of the unit (tiles.h), ascending k, whatever T and the ranges.

constexpr int kTileSide = 16;                         // rows and tokens
constexpr int64_t kTileK = 32;                        // of bfloat16 in a row of a tile
constexpr int64_t kTileNumbers = kTileSide * kTileK;  // 1 KB
constexpr int64_t kBlockRows = 2 * kTileSide;         // two A
constexpr int64_t kPairTokens = 2 * kTileSide;        // two B
constexpr int64_t kBf16TileBytes = 1 << 20;           // activations of a token tile: half of the L2 cache
static_assert(kBf16Group == kTileSide && kLanes == kTileSide);
static_assert(kBlockRows * 2 == kPanelRows * 4, "a copied block takes the whole scratch");

// v[i] lane j <-> v[j] lane i.
KERNEL_INLINE void transpose_sixteen(Ints (&v)[16]) {
#pragma GCC unroll 4
  for (int g = 0; g < 4; ++g) {
    Ints four[4] = {v[4 * g], v[4 * g + 1], v[4 * g + 2], v[4 * g + 3]};
    transpose(four);  // piece p of four[i]: lanes 4 p + i of the four rows
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) v[4 * g + i] = four[i];
  }
  Ints out[16];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const Ints ab_low = pieces<0x44>(v[i], v[4 + i]), ab_high = pieces<0xee>(v[i], v[4 + i]);
    const Ints cd_low = pieces<0x44>(v[8 + i], v[12 + i]), cd_high = pieces<0xee>(v[8 + i], v[12 + i]);
    out[i] = pieces<0x88>(ab_low, cd_low);
    out[4 + i] = pieces<0xdd>(ab_low, cd_low);
    out[8 + i] = pieces<0x88>(ab_high, cd_high);
    out[12 + i] = pieces<0xdd>(ab_high, cd_high);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) v[i] = out[i];
}

inline void round_bf16(const float* x, int64_t ldx, int64_t T, const Bf16Rows& out) {
  for (int64_t t0 = 0; t0 < T; t0 += kTileSide) {
    const int64_t tokens = T - t0 < kTileSide ? T - t0 : kTileSide;
    uint16_t* to = out.group(t0);
    for (int64_t k = 0; k < out.cols; k += kTileK, to += kTileNumbers) {
      alignas(64) uint16_t rows[kTileSide][kTileK] = {};
      for (int64_t t = 0; t < tokens; ++t) store_bf16(x + (t0 + t) * ldx + k, rows[t]);
      Ints pairs[kTileSide];
      for (int t = 0; t < kTileSide; ++t) pairs[t] = load_i(rows[t]);
      transpose_sixteen(pairs);
      for (int i = 0; i < kTileSide; ++i) store_i(to + 2 * kTileSide * i, pairs[i]);
    }
  }
}

// Where the two A of a step of K are: `rows` bytes between rows, `step` between steps, `next` from the first to the
// second.
struct BlockOfRows {
  const std::byte* data;
  int64_t rows, step, next;
};

// Rows [r, r + count) of W, copied tile after tile; the last row is repeated.
inline BlockOfRows copy_block(const Mat& w, int64_t r, int64_t count, std::byte* copy) {
  constexpr int64_t kLine = 2 * kTileK;
  for (int64_t i = 0; i < kBlockRows; ++i) {
    const std::byte* row = w.row(r + (i < count ? i : count - 1));
    std::byte* out = copy + (i / kTileSide) * kTileSide * kLine + i % kTileSide * kLine;
    for (int64_t k = 0; k < w.cols; k += kTileK, out += kBlockRows * kLine) store_i(out, load_i(row + 2 * k));
  }
  return {copy, kLine, kBlockRows * kLine, kTileSide * kLine};
}

// dots[i][j] = A i x B j, over all of K, [row][token]. NB: of the two B, how many there are.
template <int NB>
inline void dot_block(const BlockOfRows& w, const uint16_t* x, int64_t cols, float (*dots)[2][kTileSide * kTileSide]) {
  const uint16_t* second = x + kTileSide * cols;
  tile_zero<0>();
  tile_zero<2>();
  if (NB > 1) tile_zero<1>();
  if (NB > 1) tile_zero<3>();
  const std::byte* a = w.data;
  for (int64_t k = 0; k < cols; k += kTileK, a += w.step) {
    tile_load<4>(a, w.rows);
    tile_load<6>(x + k * kTileSide, 64);
    dot_bf16<0, 4, 6>();
    tile_load<5>(a + w.next, w.rows);
    dot_bf16<2, 5, 6>();
    if (NB > 1) {
      tile_load<7>(second + k * kTileSide, 64);
      dot_bf16<1, 4, 7>();
      dot_bf16<3, 5, 7>();
    }
  }
  tile_store<0>(dots[0][0], 64);
  tile_store<2>(dots[1][0], 64);
  if (NB > 1) tile_store<1>(dots[0][1], 64);
  if (NB > 1) tile_store<3>(dots[1][1], 64);
}

// y[t][row ..] = dots[row][t] for `tokens` tokens, `count` rows.
inline void store_dots(const float* dots, int64_t tokens, int64_t count, float* y, int64_t ldy) {
  Ints v[kTileSide];
  for (int i = 0; i < kTileSide; ++i) v[i] = load_i(dots + kTileSide * i);
  transpose_sixteen(v);
  for (int64_t t = 0; t < tokens; ++t) store_part(y + t * ldy, as_floats(v[t]), count);
}

inline void gemm_bf16(const Mat& w, RowRange rows, const Bf16Rows& x, int64_t T, float* y, int64_t ldy, float* panel) {
  const int64_t fit = kBf16TileBytes / (2 * w.cols) / kPairTokens * kPairTokens;
  const int64_t tile = fit < kPairTokens ? kPairTokens : fit;
  constexpr TileShape kFull = {kTileSide, 64};
  tiles_configure({kFull, kFull, kFull, kFull, kFull, kFull, kFull, kFull});
  for (int64_t begin = 0; begin < T; begin += tile) {
    const int64_t end = T - begin < tile ? T : begin + tile;
    for (int64_t r = rows.begin; r < rows.end; r += kBlockRows) {
      const int64_t count = rows.end - r < kBlockRows ? rows.end - r : kBlockRows;
      const bool copied = end - begin > kPairTokens || count < kBlockRows;
      const BlockOfRows block = copied ? copy_block(w, r, count, reinterpret_cast<std::byte*>(panel))
                                       : BlockOfRows{w.row(r), w.row_bytes, 2 * kTileK, kTileSide * w.row_bytes};
      for (int64_t t0 = begin; t0 < end; t0 += kPairTokens) {
        alignas(64) float dots[2][2][kTileSide * kTileSide];
        const int64_t tokens = end - t0 < kPairTokens ? end - t0 : kPairTokens;
        if (tokens > kTileSide) {
          dot_block<2>(block, x.group(t0), w.cols, dots);
        } else {
          dot_block<1>(block, x.group(t0), w.cols, dots);
        }
        for (int64_t i = 0; i < count; i += kTileSide) {
          for (int64_t j = 0; j < tokens; j += kTileSide)
            store_dots(dots[i / kTileSide][j / kTileSide], tokens - j < kTileSide ? tokens - j : kTileSide,
                       count - i < kTileSide ? count - i : kTileSide, y + (t0 + j) * ldy + r + i, ldy);
        }
      }
    }
  }
  tiles_release();
}
