// y[t, n] = sum_k x[t, k] W[n, k] for quantised W and int8 x. Included inside the level's namespace and target region;
// includes nothing itself.
//
//   y[t, n] = sum_blocks (scale d) (sum_k q qs)  +  (min d) (sum_k qs)          q in W, qs and d in x
//
// Shapes: W [N, K] in blocks along K, x [T, K] int8 with a scale a block of 32, y [T, N] float32.
// Bytes: the weights once a token tile (T = 1: this is all, and the memory is the limit). Operations: 2 T N K in int8.
//
//            K ->  kChunkBlocks blocks of 32
//   rows   +--------+--------+-----     kLanes rows x one chunk are unpacked to tiles in the L1 cache (formats.h) and
//   kLanes |  tiles |        |          multiplied with every token of the tile, kTileTokens at a time; the sums of
//          +--------+--------+          (row, token) wait in `sums`, one register a token, until the last chunk.
//
// Each (row, token) has one chain of fused multiply-adds in ascending order of blocks, whatever T, the row range and
// the level: the same bits as ref.

constexpr int kChunkBlocks = 16;  // 12 KB of tiles at 16 lanes: half of the smallest L1 that has AVX-512
constexpr int kTileTokens = kLanes == 16 ? 8 : 4;  // two accumulators a token, and 32 or 16 registers
constexpr int64_t kMaxTokens = 128;                // of a token tile: unpacking is then 1/20 of the work
constexpr int64_t kTileBytes = 384 << 10;          // int8 activations of a token tile: they stay in the L2 cache

// Tokens [t, t + NT) of x from block b on: what a tile is multiplied with.
struct Activations {
  const int8_t* qs;
  const float* d;
  const int16_t* sums;
  int64_t cols;
  Activations(const Q8Rows& x, int64_t t, int64_t b)
      : qs(x.qs_row(t) + 32 * b), d(x.d_row(t) + b), sums(x.sums_row(t) + 2 * b), cols(x.cols) {}
};

// sum[t] += tile x block b of token t.
template <typename Format, int NT>
KERNEL_INLINE void dot_tile(const Tile& tile, const Activations& x, int64_t b, Floats (&sum)[NT]) {
  constexpr int kSteps = 8 / Format::kHalves;  // dot4 steps that share a scale
#pragma GCC unroll 2
  for (int h = 0; h < Format::kHalves; ++h) {
    // The 16-bit pair (a, b) that picks the sum of qs over this part out of the sums of its two halves.
    constexpr int kBoth = 0x00010001, kFirst = 0x00000001, kSecond = 0x00010000;
    const int part = Format::kHalves == 1 ? kBoth : h == 0 ? kFirst : kSecond;
    const int minus_offset = -Format::kOffset & 0xffff;  // as one of the two 16-bit numbers
    Ints dots[NT];
#pragma GCC unroll 8
    for (int t = 0; t < NT; ++t) {
      dots[t] = zero_i();
      if constexpr (Format::kOffset != 0) {
        const int weights = static_cast<int>(static_cast<unsigned>(part) * static_cast<unsigned>(minus_offset));
        dots[t] = dot_pair(set_i(weights), x.sums + t * (x.cols / 16) + 2 * b);
      }
    }
#pragma GCC unroll 8
    for (int j = h * kSteps; j < (h + 1) * kSteps; ++j) {
#pragma GCC unroll 8
      for (int t = 0; t < NT; ++t) {
        const int8_t* values = x.qs + t * x.cols + 32 * b + 4 * j;
        dots[t] = Format::kSigned ? dot4_signed(dots[t], tile.q[j], values) : dot4(dots[t], tile.q[j], values);
      }
    }
#pragma GCC unroll 8
    for (int t = 0; t < NT; ++t) {
      const Floats scale = set(x.d[t * (x.cols / 32) + b]);
      sum[t] = fma(mul(tile.scale[h], scale), to_float(dots[t]), sum[t]);
      if constexpr (Format::kMin) {
        const Ints ones = dot_pair(set_i(part), x.sums + t * (x.cols / 16) + 2 * b);
        sum[t] = fma(mul(tile.min[h], scale), to_float(ones), sum[t]);
      }
    }
  }
}

// sums[t] += tiles x tokens [t0, t0 + NT), blocks [b0, b0 + n).
template <typename Format, int NT>
inline void dot_tiles(const Tile* tiles, int n, const Q8Rows& x, int64_t t0, int64_t b0, float* sums) {
  const Activations values(x, t0, b0);
  Floats sum[NT];
#pragma GCC unroll 8
  for (int t = 0; t < NT; ++t) sum[t] = load(sums + t * kLanes);
  for (int b = 0; b < n; ++b) dot_tile<Format, NT>(tiles[b], values, b, sum);
#pragma GCC unroll 8
  for (int t = 0; t < NT; ++t) store(sums + t * kLanes, sum[t]);
}

template <typename Format>
inline void dot_all_tokens(const Tile* tiles, int n, const Q8Rows& x, int64_t t0, int64_t tokens, int64_t b0,
                           float* sums) {
  int64_t t = 0;
  for (; t + kTileTokens <= tokens; t += kTileTokens)
    dot_tiles<Format, kTileTokens>(tiles, n, x, t0 + t, b0, sums + t * kLanes);
  if constexpr (kTileTokens > 4) {
    for (; t + 4 <= tokens; t += 4) dot_tiles<Format, 4>(tiles, n, x, t0 + t, b0, sums + t * kLanes);
  }
  for (; t + 2 <= tokens; t += 2) dot_tiles<Format, 2>(tiles, n, x, t0 + t, b0, sums + t * kLanes);
  for (; t < tokens; ++t) dot_tiles<Format, 1>(tiles, n, x, t0 + t, b0, sums + t * kLanes);
}

// kLanes rows of W: where they are, and how far apart.
struct RowGroup {
  const std::byte* data;
  int64_t stride;
  int64_t count;  // of rows that exist
};

// Rows [r, r + kLanes) of W. The last group of a range may be short: it is copied, its last row repeated, so that the
// bodies always have kLanes rows to read. `copy` takes kLanes rows.
inline RowGroup row_group(const Mat& w, int64_t r, int64_t end, std::byte* copy) {
  if (end - r >= kLanes) return {w.row(r), w.row_bytes, kLanes};
  const int64_t bytes = dtype_bytes(w.dtype, w.cols);
  for (int64_t i = 0; i < kLanes; ++i)
    std::memcpy(copy + i * bytes, w.row(r + i < end ? r + i : end - 1), static_cast<size_t>(bytes));
  return {copy, bytes, end - r};
}

// The rows of the next group, asked for while this one is worked on: the kLanes streams of a group are too many and too
// short for the hardware's own prefetcher. A unit asks for as many bytes as it takes, spread evenly: asked for a chunk
// at a time, the requests fill the queue of misses and everything else waits behind them (half the speed).
inline void prefetch_next(const RowGroup& group, int64_t offset, int64_t bytes) {
  const std::byte* next = group.data + kLanes * group.stride + kLanes * offset;
  for (int64_t i = 0; i < kLanes * bytes; i += 64) prefetch(next + i);
}

// Units of the rows of a file: unit(u), with the next group asked for as this one is read.
template <typename Format>
struct StridedGroup {
  RowGroup rows;
  bool has_next;
  KERNEL_INLINE StridedRows unit(int64_t u) const {
    if (has_next) prefetch_next(rows, u * Format::kBytes, Format::kBytes);
    return {rows.data + u * Format::kBytes, rows.stride};
  }
};

// One or two tokens: a unit is unpacked and multiplied at once, nothing waits in memory.
template <typename Format, int NT, typename Group>
inline void dot_group_few(const Group& group, int64_t units, const Q8Rows& x, int64_t t0, float* sums) {
  const Activations values(x, t0, 0);
  Floats sum[NT];
  for (Floats& each : sum) each = zero();
  for (int64_t u = 0; u < units; ++u) {
    Tile tiles[Format::kBlocks];
    Format::unpack(group.unit(u), tiles);
    for (int b = 0; b < Format::kBlocks; ++b) dot_tile<Format, NT>(tiles[b], values, u * Format::kBlocks + b, sum);
  }
  for (int t = 0; t < NT; ++t) store(sums + t * kLanes, sum[t]);
}

// sums[tokens][kLanes] = the rows of the group x tokens [t0, t0 + tokens).
template <typename Format, typename Group>
inline void dot_group(const Group& group, const Q8Rows& x, int64_t t0, int64_t tokens, float* sums) {
  const int64_t blocks = x.cols / 32;
  if (tokens == 1) return dot_group_few<Format, 1>(group, blocks / Format::kBlocks, x, t0, sums);
  if (tokens == 2) return dot_group_few<Format, 2>(group, blocks / Format::kBlocks, x, t0, sums);
  alignas(64) Tile tiles[kChunkBlocks];
  for (int64_t i = 0; i < tokens * kLanes; i += kLanes) store(sums + i, zero());
  for (int64_t b0 = 0; b0 < blocks; b0 += kChunkBlocks) {
    const int n = static_cast<int>(blocks - b0 < kChunkBlocks ? blocks - b0 : kChunkBlocks);
    for (int b = 0; b < n; b += Format::kBlocks) Format::unpack(group.unit((b0 + b) / Format::kBlocks), tiles + b);
    dot_all_tokens<Format>(tiles, n, x, t0, tokens, b0, sums);
  }
}

template <typename Format>
inline void gemm_q8_of(const Mat& w, RowRange rows, const Q8Rows& x, int64_t T, float* y, int64_t ldy, float* panel) {
  alignas(64) float sums[kMaxTokens * kLanes];
  const int64_t fit = kTileBytes / x.cols / kTileTokens * kTileTokens;
  const int64_t tile_tokens = fit < kTileTokens ? kTileTokens : fit > kMaxTokens ? kMaxTokens : fit;

  for (int64_t t0 = 0; t0 < T; t0 += tile_tokens) {
    const int64_t tokens = T - t0 < tile_tokens ? T - t0 : tile_tokens;
    for (int64_t r = rows.begin; r < rows.end; r += kLanes) {
      int64_t count = kLanes;
      if (w.layout == MatLayout::kPanels) {
        dot_group<Format>(PanelGroup<Format>(w, r), x, t0, tokens, sums);
      } else {
        const RowGroup group = row_group(w, r, rows.end, reinterpret_cast<std::byte*>(panel));
        count = group.count;
        dot_group<Format>(StridedGroup<Format>{group, r + 2 * kLanes <= rows.end}, x, t0, tokens, sums);
      }
      for (int64_t t = 0; t < tokens; ++t) {
        float* out = y + (t0 + t) * ldy + r;
        if (count == kLanes) {
          store(out, load(sums + t * kLanes));
        } else {
          store_part(out, load(sums + t * kLanes), count);
        }
      }
    }
  }
}

inline void gemm_q8(const Mat& w, RowRange rows, const Q8Rows& x, int64_t T, float* y, int64_t ldy, float* panel) {
  if (T > 0) with_format(w.dtype, [&](auto format) { gemm_q8_of<decltype(format)>(w, rows, x, T, y, ldy, panel); });
}
