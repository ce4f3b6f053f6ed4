// gemm_q8 with matrix tiles (tiles.h), for sixteen tokens or more. Included inside the level's namespace
// and target region, behind gemm_q8.h, whose equation, order and chunks are the same; includes nothing itself.
//
// One block of 32 of sixteen rows x sixteen tokens is one dot of tiles: A = the int8 of the tokens, packed; B =
// the unpacked tile of formats.h, which is already the shape that a dot of four wants, its offset taken off; C = the
// sums, int32 and exact. C goes to the L1 cache, and vectors scale it:
//
//   sum[t] = fma(scale x d[t], C[t], sum[t])     a register a token, a lane a row
//
// so that the bits are those of the level's gemm_q8 for few tokens: a prompt gives the same text whatever its chunks.
// Count of such a block, in cycles of one core (two vector ports, two loads, sixteen rows a dot): dot 16; vectors 24 (a
// conversion, a product, a multiply-add a token; 32 with a minimum); loads 28 (16 lines of A, 8 of B, 16 of C, 16 d);
// stores 16. Dots of four alone take 88 (96). The dot has half of K's 64 bytes to work on, because every 32 have their
// own scale; that does not matter, vectors and loads are the limit.
//
// Four C are under way: those of the next four blocks are multiplied while these are scaled.

constexpr int kGroupTokens = 16;
constexpr int kUnderWay = 4;  // C in tiles 0 to 3; A in 4 and 5, B in 6 and 7, in turn
constexpr int64_t kGroupSums = kGroupTokens * kLanes;

// Tile shapes for a format: a scale for each 32 of K, or for each 16.
template <typename Format>
inline void configure_q8_tiles() {
  constexpr int kBytes = 32 / Format::kHalves;
  constexpr TileShape kC = {kGroupTokens, 64}, kA = {kGroupTokens, kBytes}, kB = {kBytes / 4, 64};
  tiles_configure({kC, kC, kC, kC, kA, kA, kB, kB});
}

// Block b of sixteen packed tokens.
template <typename Format>
KERNEL_INLINE PackedBlock<Format, kGroupTokens> group_block(const std::byte* x, int b) {
  return {x + b * kGroupTokens * kPackedBytes<Format>};
}

// C := tokens x part `step` of the chunk, in tile kC. A part is a block or half of one.
template <typename Format, int kC>
KERNEL_INLINE void begin_part(const Tile* blocks, const std::byte* x, int step) {
  constexpr int kA = 4 + kC % 2, kB = 6 + kC % 2, kSteps = 8 / Format::kHalves;
  const int b = step / Format::kHalves, h = step % Format::kHalves;
  tile_zero<kC>();
  tile_load<kA>(group_block<Format>(x, b).qs(0) + 4 * kSteps * h, 32);
  tile_load<kB>(blocks[b].q + kSteps * h, 64);
  dot_i8<kC, kA, kB>();
}

template <typename Format>
KERNEL_INLINE void begin_parts(const Tile* blocks, const std::byte* x, int step, int steps) {
  if (step + 0 < steps) begin_part<Format, 0>(blocks, x, step + 0);
  if (step + 1 < steps) begin_part<Format, 1>(blocks, x, step + 1);
  if (step + 2 < steps) begin_part<Format, 2>(blocks, x, step + 2);
  if (step + 3 < steps) begin_part<Format, 3>(blocks, x, step + 3);
}

// sum[t] += the part's C of token t x its scales.
template <typename Format>
KERNEL_INLINE void scale_part(const Tile* blocks, const std::byte* x, int step, const int32_t* dots,
                              Floats (&sum)[kGroupTokens]) {
  const int b = step / Format::kHalves, h = step % Format::kHalves;
  const PackedBlock<Format, kGroupTokens> tokens = group_block<Format>(x, b);
#pragma GCC unroll 16
  for (int t = 0; t < kGroupTokens; ++t) {
    sum[t] = fma(mul(blocks[b].scale[h], tokens.scale(t)), to_float(load_i(dots + t * kLanes)), sum[t]);
    if constexpr (Format::kMin) sum[t] = fma(blocks[b].min[h], tokens.scaled_ones(t, h), sum[t]);
  }
}

// sums[t][lane] += the chunk's n blocks x sixteen tokens.
template <typename Format>
inline void dot_token_group(const Tile* blocks, int n, const std::byte* x, float* sums) {
  alignas(64) int32_t dots[kUnderWay][kGroupSums];
  Floats sum[kGroupTokens];
#pragma GCC unroll 16
  for (int t = 0; t < kGroupTokens; ++t) sum[t] = load(sums + t * kLanes);
  const int steps = n * Format::kHalves;
  begin_parts<Format>(blocks, x, 0, steps);
  for (int step = 0; step < steps; step += kUnderWay) {
    tile_store<0>(dots[0], 64);
    tile_store<1>(dots[1], 64);
    tile_store<2>(dots[2], 64);
    tile_store<3>(dots[3], 64);
    begin_parts<Format>(blocks, x, step + kUnderWay, steps);
    const int end = steps - step < kUnderWay ? steps - step : kUnderWay;
    for (int i = 0; i < end; ++i) scale_part<Format>(blocks, x, step + i, dots[i], sum);
  }
#pragma GCC unroll 16
  for (int t = 0; t < kGroupTokens; ++t) store(sums + t * kLanes, sum[t]);
}

// sums[t][lane] = sixteen rows x the packed tokens.
template <typename Format, typename Group>
inline void dot_token_groups(const Group& group, int64_t blocks, const std::byte* x, int64_t tokens, float* sums,
                             const Rests& rests) {
  const int64_t groups = (tokens + kGroupTokens - 1) / kGroupTokens, even = chunk_blocks<Format>(blocks);
  constexpr int64_t kBlockBytes = kGroupTokens * kPackedBytes<Format>;
  alignas(64) TileChunk<1> chunk;
  Tile* const tiles = chunk.tiles[0];
  for (int64_t i = 0; i < groups * kGroupSums; i += kLanes) store(sums + i, zero());
  for (int64_t b0 = 0; b0 < blocks; b0 += even) {
    const int n = static_cast<int>(blocks - b0 < even ? blocks - b0 : even);
    for (int b = 0; b < n; b += Format::kBlocks)
      Format::unpack(group.template unit<true>((b0 + b) / Format::kBlocks), tiles + b);
    if (rests.x != nullptr) dot_rests_of_chunk<Format, 1>(chunk, n, b0, tokens, rests);
    for (int b = 0; b < n && Format::kOffset != 0; ++b) {
      for (Ints& q : tiles[b].q) q = _mm512_sub_epi8(q, _mm512_set1_epi8(static_cast<char>(Format::kOffset)));
    }
    for (int64_t g = 0; g < groups; ++g)
      dot_token_group<Format>(tiles, n, x + (b0 * groups + g * n) * kBlockBytes, sums + g * kGroupSums);
  }
}

template <typename Format>
inline void gemm_q8_tiles_of(const Mat& w, RowRange rows, const Q8Rows& x, int64_t T, float* y, int64_t ldy,
                             float* scratch) {
  static_assert(kMaxTokens % kGroupTokens == 0 && kRestTokens % kGroupTokens == 0);
  alignas(64) float sums[kMaxTokens * kLanes], rest_sums[kMaxTokens * kLanes] = {};
  const int64_t blocks = x.cols / 32, tile_tokens = tokens_of_tile(x.cols, x.rest ? kRestTokens : kGroupTokens);
  // In the scratch, as in gemm_q8: packed activations, then rows that are copied.
  auto* packed = reinterpret_cast<std::byte*>(scratch);
  std::byte* copy = packed + kMaxTokens * blocks * kPackedBytes<Format>;
  const auto width = [](int64_t) { return int64_t{kGroupTokens}; };

  configure_q8_tiles<Format>();
  for (int64_t t0 = 0; t0 < T; t0 += tile_tokens) {
    const int64_t tokens = T - t0 < tile_tokens ? T - t0 : tile_tokens;
    const Rests rests = {x.rest, blocks, t0, rest_sums};
    pack_tokens<Format>(x, t0, tokens, chunk_blocks<Format>(blocks), width, packed);
    for (int64_t r = rows.begin; r < rows.end; r += kLanes) {
      int64_t count = kLanes;
      if (w.layout == MatLayout::kPanels) {
        dot_token_groups<Format>(PanelGroup<Format>(w, r), blocks, packed, tokens, sums, rests);
      } else {
        const RowGroup group = row_group(w, r, rows.end, copy);
        count = group.count;
        dot_token_groups<Format>(StridedGroup<Format>{group, r + 2 * kLanes <= rows.end}, blocks, packed, tokens, sums,
                                 rests);
      }
      for (int64_t t = 0; t < tokens; ++t)
        store_part_or_all(y + (t0 + t) * ldy + r, with_rest<1>(load(sums + t * kLanes), rests, t, 0), count);
    }
  }
  tiles_release();
}

inline void gemm_q8_tiles(const Mat& w, RowRange rows, const Q8Rows& x, int64_t T, float* y, int64_t ldy,
                          float* scratch) {
  if (T < kGroupTokens) return kAvx512VnniKernels.gemm_q8(w, rows, x, T, y, ldy, scratch);
  with_format(w.dtype, [&](auto format) { gemm_q8_tiles_of<decltype(format)>(w, rows, x, T, y, ldy, scratch); });
}
