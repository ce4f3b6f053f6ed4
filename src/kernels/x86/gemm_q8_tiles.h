// gemm_q8 with matrix tiles (tiles.h), for sixteen tokens or more without rests. Included inside the level's namespace
// and target region, behind gemm_q8.h, whose equation, order and chunks are the same; includes nothing itself.
//
// One block of 32 of sixteen rows x sixteen tokens is one dot of tiles: A = the int8 of the tokens, where they lie; B =
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

// C := tokens x part `step` of the chunk, in tile kC. A part is a block or half of one.
template <typename Format, int kC>
KERNEL_INLINE void begin_part(const Tile* blocks, const Activations& x, int step) {
  constexpr int kA = 4 + kC % 2, kB = 6 + kC % 2, kSteps = 8 / Format::kHalves;
  const int b = step / Format::kHalves, h = step % Format::kHalves;
  tile_zero<kC>();
  tile_load<kA>(x.qs + 32 * b + 4 * kSteps * h, x.cols);
  tile_load<kB>(blocks[b].q + kSteps * h, 64);
  dot_i8<kC, kA, kB>();
}

template <typename Format>
KERNEL_INLINE void begin_parts(const Tile* blocks, const Activations& x, int step, int steps) {
  if (step + 0 < steps) begin_part<Format, 0>(blocks, x, step + 0);
  if (step + 1 < steps) begin_part<Format, 1>(blocks, x, step + 1);
  if (step + 2 < steps) begin_part<Format, 2>(blocks, x, step + 2);
  if (step + 3 < steps) begin_part<Format, 3>(blocks, x, step + 3);
}

// sum[t] += the part's C of token t x its scales.
template <typename Format>
KERNEL_INLINE void scale_part(const Tile* blocks, const Activations& x, int step, const int32_t* dots,
                              Floats (&sum)[kGroupTokens]) {
  const int b = step / Format::kHalves, h = step % Format::kHalves;
  const int64_t scales = x.cols / 32;
#pragma GCC unroll 16
  for (int t = 0; t < kGroupTokens; ++t) {
    const Floats d = set(x.d[t * scales + b]);
    sum[t] = fma(mul(blocks[b].scale[h], d), to_float(load_i(dots + t * kLanes)), sum[t]);
    if constexpr (Format::kMin) {
      const Floats ones = as_floats(broadcast_4(x.prepared + 4 * ((t * scales + b) * Format::kHalves + h)));
      sum[t] = fma(blocks[b].min[h], ones, sum[t]);
    }
  }
}

// sums[t][lane] += the chunk's n blocks x sixteen tokens.
template <typename Format>
inline void dot_token_group(const Tile* blocks, int n, const Activations& x, float* sums) {
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

// Where group g of `tokens` begins: the last one is the end of the tokens, and repeats some of the one before.
KERNEL_INLINE int64_t group_begin(int64_t g, int64_t tokens) {
  return (g + 1) * kGroupTokens <= tokens ? g * kGroupTokens : tokens - kGroupTokens;
}

// sums[group][t][lane] = sixteen rows x tokens [t0, t0 + tokens).
template <typename Format, typename Group>
inline void dot_token_groups(const Group& group, const Q8Rows& x, const std::byte* prepared, int64_t t0, int64_t tokens,
                             float* sums) {
  const int64_t blocks = x.cols / 32, groups = (tokens + kGroupTokens - 1) / kGroupTokens;
  alignas(64) Tile tiles[kChunkBlocks];
  for (int64_t i = 0; i < groups * kGroupSums; i += kLanes) store(sums + i, zero());
  for (int64_t b0 = 0; b0 < blocks; b0 += kChunkBlocks) {
    const int n = static_cast<int>(blocks - b0 < kChunkBlocks ? blocks - b0 : kChunkBlocks);
    for (int b = 0; b < n; b += Format::kBlocks)
      Format::unpack(group.template unit<true>((b0 + b) / Format::kBlocks), tiles + b);
    for (int b = 0; b < n && Format::kOffset != 0; ++b) {
      for (Ints& q : tiles[b].q) q = _mm512_sub_epi8(q, _mm512_set1_epi8(static_cast<char>(Format::kOffset)));
    }
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t t = group_begin(g, tokens);
      const Activations values(x, t0 + t, b0, prepared + 4 * Format::kHalves * (t * blocks + b0));
      dot_token_group<Format>(tiles, n, values, sums + g * kGroupSums);
    }
  }
}

template <typename Format>
inline void gemm_q8_tiles_of(const Mat& w, RowRange rows, const Q8Rows& x, int64_t T, float* y, int64_t ldy,
                             float* panel) {
  static_assert(kMaxTokens % kGroupTokens == 0);
  alignas(64) float sums[kMaxTokens * kLanes];
  const int64_t fit = kTileBytes / x.cols / kGroupTokens * kGroupTokens;
  const int64_t tile_tokens = fit < kGroupTokens ? kGroupTokens : fit > kMaxTokens ? kMaxTokens : fit;
  // In the scratch, as in gemm_q8: prepared sums, then rows that are copied.
  auto* prepared = reinterpret_cast<std::byte*>(panel);
  auto* copy = prepared + kMaxTokens * (x.cols / 32) * Format::kHalves * 4;

  configure_q8_tiles<Format>();
  for (int64_t begin = 0; begin < T; begin += tile_tokens) {
    const int64_t t0 = T - begin < kGroupTokens ? T - kGroupTokens : begin;
    const int64_t tokens = T - t0 < tile_tokens ? T - t0 : tile_tokens;
    if (Format::kMin) prepare_sums<Format>(x, t0, tokens, prepared);
    for (int64_t r = rows.begin; r < rows.end; r += kLanes) {
      int64_t count = kLanes;
      if (w.layout == MatLayout::kPanels) {
        dot_token_groups<Format>(PanelGroup<Format>(w, r), x, prepared, t0, tokens, sums);
      } else {
        const RowGroup group = row_group(w, r, rows.end, copy);
        count = group.count;
        dot_token_groups<Format>(StridedGroup<Format>{group, r + 2 * kLanes <= rows.end}, x, prepared, t0, tokens,
                                 sums);
      }
      for (int64_t t = 0; t < tokens; ++t) {
        const int64_t g = t / kGroupTokens;
        const float* sum = sums + g * kGroupSums + (t - group_begin(g, tokens)) * kLanes;
        store_part(y + (t0 + t) * ldy + r, load(sum), count);
      }
    }
  }
  tiles_release();
}

inline void gemm_q8_tiles(const Mat& w, RowRange rows, const Q8Rows& x, int64_t T, float* y, int64_t ldy,
                          float* panel) {
  if (T < kGroupTokens || x.rest != nullptr) return kAvx512VnniKernels.gemm_q8(w, rows, x, T, y, ldy, panel);
  with_format(w.dtype, [&](auto format) { gemm_q8_tiles_of<decltype(format)>(w, rows, x, T, y, ldy, panel); });
}
