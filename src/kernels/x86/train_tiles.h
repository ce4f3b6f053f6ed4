// Training's products of bfloat16 with matrix tiles. Included inside the level's namespace and target region, after
// tiles.h (or tiles_emulated.h) and train_products.h; includes nothing itself.
//
// The operands are those of train_products.h: sixteen rows of A, 64 bytes each, are a tile as they lie, and so are
// sixteen words of sixteen columns of a panel. C is made in blocks of 32 x 32:
//
//            B: 6      7           a step of 32 k: four tiles are read for four products. From L1 that is half of the
//     A: 4   C: 0      1           units' time, from L2 more than all of it, so K comes in pieces of which a panel's
//        5      2      3           piece (24 KB) stays in L1 while the rows of the task pass by.
//
// Order: an entry of C is the sum over steps of 32 k, ascending, of what dot_bf16 makes of a step.

constexpr int64_t kStepWords = 16;
constexpr int64_t kTilePiece = 192;  // words

// One block of C: rows (1 .. 32) are those the tiles are configured for.
template <bool kTwo>
inline void tile_block(const Tile& t) {
  alignas(64) float part[32 * kPanelN];
  const bool whole = t.columns == kPanelN;
  float* c = whole ? t.c : part;
  const int64_t ldc = whole ? t.ldc : kPanelN, stride = ldc * 4;
  const int64_t rows = t.rows;
  if (t.add) {
    if (!whole) {
      for (int64_t r = 0; r < rows; ++r)
        std::memcpy(part + r * kPanelN, t.c + r * t.ldc, static_cast<size_t>(t.columns) * 4);
    }
    tile_load<0>(c, stride);
    tile_load<1>(c + 16, stride);
    if constexpr (kTwo) {
      tile_load<2>(c + 16 * ldc, stride);
      tile_load<3>(c + 16 * ldc + 16, stride);
    }
  } else {
    tile_zero<0>();
    tile_zero<1>();
    if constexpr (kTwo) {
      tile_zero<2>();
      tile_zero<3>();
    }
  }
  for (int64_t w = 0; w < t.words; w += kStepWords) {
    const std::byte *a = t.a + 4 * w, *b = t.b + w * kPanelBytes;
    tile_load<6>(b, kPanelBytes);
    tile_load<7>(b + 64, kPanelBytes);
    tile_load<4>(a, t.a_row);
    dot_bf16<0, 4, 6>();
    dot_bf16<1, 4, 7>();
    if constexpr (kTwo) {
      tile_load<5>(a + 16 * t.a_row, t.a_row);
      dot_bf16<2, 5, 6>();
      dot_bf16<3, 5, 7>();
    }
  }
  tile_store<0>(c, stride);
  tile_store<1>(c + 16, stride);
  if constexpr (kTwo) {
    tile_store<2>(c + 16 * ldc, stride);
    tile_store<3>(c + 16 * ldc + 16, stride);
  }
  if (!whole) {
    for (int64_t r = 0; r < rows; ++r)
      std::memcpy(t.c + r * t.ldc, part + r * kPanelN, static_cast<size_t>(t.columns) * 4);
  }
}

inline void configure_rows(int64_t rows) {
  const int first = static_cast<int>(rows < 16 ? rows : 16), second = rows > 16 ? static_cast<int>(rows - 16) : 1;
  tiles_configure(
      {{first, 64}, {first, 64}, {second, 64}, {second, 64}, {first, 64}, {second, 64}, {16, 64}, {16, 64}});
}

inline void multiply_tiles(const Block& p) {
  const int64_t words = (p.words + kStepWords - 1) / kStepWords * kStepWords;  // operands are padded so far
  for (int64_t row = 0; row < p.m;) {
    // All rows that fill blocks, then what is left.
    const int64_t rows = p.m - row < 32 ? p.m - row : 32, end = p.m - row < 32 ? p.m : row + (p.m - row) / 32 * 32;
    configure_rows(rows);
    for (int64_t w = 0; w < words; w += kTilePiece) {
      const int64_t piece = words - w < kTilePiece ? words - w : kTilePiece;
      for (int64_t column = 0; column < p.n; column += kPanelN) {
        const std::byte* b = p.b + column / kPanelN * p.panel_bytes + w * kPanelBytes;
        const int64_t columns = p.n - column < kPanelN ? p.n - column : kPanelN;
        for (int64_t r = row; r < end; r += rows) {
          const Tile tile = {.a = p.a + r * p.a_row + 4 * w,
                             .a_row = p.a_row,
                             .rows = rows,
                             .b = b,
                             .words = piece,
                             .c = p.c + r * p.ldc + column,
                             .ldc = p.ldc,
                             .columns = columns,
                             .add = p.add || w > 0};
          rows > 16 ? tile_block<true>(tile) : tile_block<false>(tile);
        }
      }
    }
    row = end;
  }
  tiles_release();
}
