// y[t, n] = sum_k x[t, k] W[n, k] for quantised W and int8 x. Included inside the level's namespace and target region;
// includes nothing itself.
//
//   y[t, n] = sum_blocks (scale d) (sum_k q qs)  +  (min d) (sum_k qs)          q in W, qs and d in x
//
// Shapes: W [N, K] in blocks along K, x [T, K] int8 with a scale a block of 32, y [T, N] float32.
// Bytes: the weights once a token tile (T = 1: this is all, and the memory is the limit). Operations: 2 T N K in int8.
//
//            K ->  kChunkBlocks blocks of 32
//   rows   +--------+--------+-----     One or two groups of kLanes rows x one chunk are unpacked to tiles in the L1
//   kLanes |  tiles |        |          cache (formats.h) and multiplied with every token of the tile, kTileTokens at a
//          +--------+--------+          time; the sums of (row, token) wait in `sums` until the last chunk. One or two
//                                       tokens alone: a unit is unpacked to registers and used at once.
//
// Each (row, token) has one chain of fused multiply-adds in ascending order of blocks, whatever T, the row range and
// the level: the same bits as ref.

constexpr int kChunkBlocks = 16;                   // 12 KB of tiles a row group at 16 lanes
constexpr int kTileTokens = kLanes == 16 ? 6 : 4;  // of a register tile
constexpr int kRowGroups =
    kLanes == 16 ? 2 : 1;  // of kLanes rows: two accumulators a (group, token), 32 or 16 registers
constexpr int64_t kMaxTokens = kLanes == 16 ? 192 : 128;  // of a token tile: unpacking is then 1/20 of the work
constexpr int64_t kTileBytes = 512 << 10;                 // int8 activations of a token tile: they stay in the L2 cache

// Tokens from t on of x, from block b on: what a tile is multiplied with.
struct Activations {
  const int8_t* qs;
  const float* d;
  const int16_t* sums;
  int64_t cols;
  const std::byte* prepared;  // of the same tokens and blocks (prepare_sums), when there are many rows to use them
  Activations(const Q8Rows& x, int64_t t, int64_t b, const std::byte* prepared_sums = nullptr)
      : qs(x.qs_row(t) + 32 * b),
        d(x.d_row(t) + b),
        sums(x.sums_row(t) + 2 * b),
        cols(x.cols),
        prepared(prepared_sums) {}
};

// Sums of qs over each part that has a scale of its own, [T, K/32, kHalves], as the products want them: for formats
// with a minimum the sum in float32, for those with an offset -kOffset times the sum.
template <typename Format>
inline void prepare_sums(const Q8Rows& x, int64_t t0, int64_t tokens, std::byte* out) {
  const int16_t* sums = x.sums_row(t0);
  constexpr int kParts = 2 / Format::kHalves;  // sums of sixteen in a part
  for (int64_t i = 0; i < tokens * (x.cols / 32) * Format::kHalves; ++i) {
    const int32_t sum = kParts == 2 ? sums[2 * i] + sums[2 * i + 1] : sums[i];
    const int32_t offset = -Format::kOffset * sum;
    const float as_float = static_cast<float>(sum);
    std::memcpy(out + 4 * i, Format::kMin ? static_cast<const void*>(&as_float) : &offset, 4);
  }
}

// sum[g][t] += tile g x block b of token t. Every activation that is loaded serves G groups of rows, every weight NT
// tokens. kPrepared: x.prepared is there.
template <typename Format, int G, int NT, bool kPrepared>
KERNEL_INLINE void dot_tile(const Tile* const (&tiles)[G], const Activations& x, int64_t b, Floats (&sum)[G][NT]) {
  constexpr int kSteps = 8 / Format::kHalves;  // dot4 steps that share a scale
#pragma GCC unroll 2
  for (int h = 0; h < Format::kHalves; ++h) {
    // The 16-bit pair (a, b) that picks the sum of qs over this part out of the sums of its two halves.
    constexpr int kBoth = 0x00010001, kFirst = 0x00000001, kSecond = 0x00010000;
    const int part = Format::kHalves == 1 ? kBoth : h == 0 ? kFirst : kSecond;
    const int minus_offset = -Format::kOffset & 0xffff;  // as one of the two 16-bit numbers
    const auto prepared = [&](int t) {
      return broadcast_4(x.prepared + 4 * ((t * (x.cols / 32) + b) * Format::kHalves + h));
    };
    Ints dots[G][NT];
#pragma GCC unroll 8
    for (int t = 0; t < NT; ++t) {
      Ints start = zero_i();
      if constexpr (Format::kOffset != 0 && kPrepared) {
        start = prepared(t);
      } else if constexpr (Format::kOffset != 0) {
        const int weights = static_cast<int>(static_cast<unsigned>(part) * static_cast<unsigned>(minus_offset));
        start = dot_pair(set_i(weights), x.sums + t * (x.cols / 16) + 2 * b);
      }
#pragma GCC unroll 2
      for (int g = 0; g < G; ++g) dots[g][t] = start;
    }
#pragma GCC unroll 8
    for (int j = h * kSteps; j < (h + 1) * kSteps; ++j) {
#pragma GCC unroll 8
      for (int t = 0; t < NT; ++t) {
        const int8_t* values = x.qs + t * x.cols + 32 * b + 4 * j;
#pragma GCC unroll 2
        for (int g = 0; g < G; ++g) {
          const Ints weights = tiles[g]->q[j];
          dots[g][t] = Format::kSigned ? dot4_signed(dots[g][t], weights, values) : dot4(dots[g][t], weights, values);
        }
      }
    }
#pragma GCC unroll 8
    for (int t = 0; t < NT; ++t) {
      const Floats scale = set(x.d[t * (x.cols / 32) + b]);
#pragma GCC unroll 2
      for (int g = 0; g < G; ++g) sum[g][t] = fma(mul(tiles[g]->scale[h], scale), to_float(dots[g][t]), sum[g][t]);
      if constexpr (Format::kMin) {
        Floats ones;
        if constexpr (kPrepared) {
          ones = as_floats(prepared(t));
        } else {
          ones = to_float(dot_pair(set_i(part), x.sums + t * (x.cols / 16) + 2 * b));
        }
#pragma GCC unroll 2
        for (int g = 0; g < G; ++g) sum[g][t] = fma(mul(tiles[g]->min[h], scale), ones, sum[g][t]);
      }
    }
  }
}

// Memory that will be read soon, the same piece of G groups, asked for a few lines at a time while there is arithmetic
// to do: asked for at once, the lines fill the queue of misses.
template <int G>
struct Ahead {
  const std::byte* groups[G] = {};
  int64_t next = 0, bytes = 0;  // of each
  int64_t lines = 0;            // a step
  KERNEL_INLINE void step() {
    for (int64_t i = 0; i < lines && next < bytes; ++i, next += 64) {
#pragma GCC unroll 2
      for (int g = 0; g < G; ++g) prefetch(groups[g] + next);
    }
  }
};

// Tiles of G row groups, kChunkBlocks each, in the L1 cache.
template <int G>
struct TileChunk {
  Tile tiles[G][kChunkBlocks];
};

// sums[t][g] += tiles x tokens [t0, t0 + NT), blocks [b0, b0 + n). sums: [tokens, G, kLanes].
template <typename Format, int G, int NT>
inline void dot_tiles(const TileChunk<G>& chunk, int n, const Activations& x, float* sums, Ahead<G>& ahead) {
  Floats sum[G][NT];
#pragma GCC unroll 8
  for (int t = 0; t < NT; ++t) {
#pragma GCC unroll 2
    for (int g = 0; g < G; ++g) sum[g][t] = load(sums + (t * G + g) * kLanes);
  }
  for (int b = 0; b < n; ++b) {
    ahead.step();
    const Tile* tiles[G];
#pragma GCC unroll 2
    for (int g = 0; g < G; ++g) tiles[g] = &chunk.tiles[g][b];
    dot_tile<Format, G, NT, true>(tiles, x, b, sum);
  }
#pragma GCC unroll 8
  for (int t = 0; t < NT; ++t) {
#pragma GCC unroll 2
    for (int g = 0; g < G; ++g) store(sums + (t * G + g) * kLanes, sum[g][t]);
  }
}

// Tokens [t, tokens) that are left by the whole tiles: how many tokens the tile has that they are the end of; 0: none.
KERNEL_INLINE int64_t overlap(int64_t t, int64_t tokens) {
  const int64_t left = tokens - t, wide = left == 3 ? 4 : left == 5 ? 6 : 0;
  return t > 0 && wide <= kTileTokens ? wide : 0;
}

template <typename Format, int G>
inline void dot_all_tokens(const TileChunk<G>& chunk, int n, const Q8Rows& x, const std::byte* prepared, int64_t t0,
                           int64_t tokens, int64_t b0, float* sums, Ahead<G> ahead) {
  const auto from = [&](int64_t t) {
    return Activations(x, t0 + t, b0, prepared + 4 * Format::kHalves * (t * (x.cols / 32) + b0));
  };
  int64_t t = 0;
  for (; t + kTileTokens <= tokens; t += kTileTokens)
    dot_tiles<Format, G, kTileTokens>(chunk, n, from(t), sums + t * G * kLanes, ahead);
  // Three or five are the end of a tile of four or six, whose sums stand apart: two short tiles, each waiting for its
  // own results, take longer.
  if (const int64_t wide = overlap(t, tokens); wide == kTileTokens) {
    dot_tiles<Format, G, kTileTokens>(chunk, n, from(tokens - wide), sums + tokens * G * kLanes, ahead);
    return;
  } else if (wide == 4) {
    dot_tiles<Format, G, 4>(chunk, n, from(tokens - wide), sums + tokens * G * kLanes, ahead);
    return;
  }
  if constexpr (kTileTokens > 4) {
    for (; t + 4 <= tokens; t += 4) dot_tiles<Format, G, 4>(chunk, n, from(t), sums + t * G * kLanes, ahead);
  }
  for (; t + 2 <= tokens; t += 2) dot_tiles<Format, G, 2>(chunk, n, from(t), sums + t * G * kLanes, ahead);
  for (; t < tokens; ++t) dot_tiles<Format, G, 1>(chunk, n, from(t), sums + t * G * kLanes, ahead);
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

// Units of the rows of a file, with the next group asked for as this one is read.
template <typename Format>
struct StridedGroup {
  RowGroup rows;
  bool has_next;
  template <bool kStream>
  KERNEL_INLINE StridedRows unit(int64_t u) const {
    if (has_next) prefetch_next(rows, u * Format::kBytes, Format::kBytes);
    return {rows.data + u * Format::kBytes, rows.stride};
  }
  const std::byte* address(int64_t) const { return nullptr; }
};

// One or two tokens: a unit is unpacked and multiplied at once, nothing waits in memory. sums: [NT][G][kLanes].
template <typename Format, int G, int NT, typename Group>
inline void dot_groups_few(const Group (&groups)[G], int64_t units, const Q8Rows& x, int64_t t0, float* sums) {
  const Activations values(x, t0, 0);
  Floats sum[G][NT];
  for (Floats(&of_group)[NT] : sum) {
    for (Floats& each : of_group) each = zero();
  }
  constexpr int64_t kAheadUnits = kAhead / G / (kPanelRows * Format::kBytes) + 1;
  for (int64_t u = 0; u < units; ++u) {
    Tile tiles[G][Format::kBlocks];
    // A superblock is worked on for long: its successor's lines are asked for evenly while its blocks are multiplied.
    constexpr bool kEvenly = Format::kBlocks > 1;
    constexpr int64_t kBytes = kPanelRows * Format::kBytes / Format::kBlocks;  // a block
    const std::byte* next[G];
#pragma GCC unroll 2
    for (int g = 0; g < G; ++g) {
      Format::unpack(groups[g].template unit<!kEvenly>(u), tiles[g]);
      // Each of G streams goes on in the group that is G further.
      const int64_t ahead = u + kAheadUnits, beyond = ahead < units ? 0 : (G - 1) * units;
      next[g] = groups[g].address(ahead + beyond);
    }
    for (int b = 0; b < Format::kBlocks; ++b) {
      const Tile* tile[G];
#pragma GCC unroll 2
      for (int g = 0; g < G; ++g) {
        tile[g] = &tiles[g][b];
        if (!kEvenly || next[g] == nullptr) continue;
#pragma GCC unroll 8
        for (int64_t i = 0; i < kBytes; i += 64) prefetch(next[g] + b * kBytes + i);
      }
      dot_tile<Format, G, NT, false>(tile, values, u * Format::kBlocks + b, sum);
    }
  }
  for (int t = 0; t < NT; ++t) {
    for (int g = 0; g < G; ++g) store(sums + (t * G + g) * kLanes, sum[g][t]);
  }
}

// One token is multiplied with two groups of rows at a time where a group alone waits for itself: two scales and two
// minima a block are a chain of four additions, 16 cycles for 168 bytes of Q2_K. Formats that the memory limits lose by
// it (Q6_K a fifth): two streams are asked for less evenly than one.
template <typename Format>
constexpr bool kPairsOfGroups = kRowGroups == 2 && Format::kHalves == 2 && Format::kMin;

// sums[tokens][G][kLanes] = the rows of G groups x tokens [t0, t0 + tokens). The sums of the tokens behind the last
// whole tile are found where place_of() says.
template <typename Format, int G, typename Group>
inline void dot_groups(const Group (&groups)[G], const Q8Rows& x, const std::byte* prepared, int64_t t0, int64_t tokens,
                       float* sums) {
  const int64_t blocks = x.cols / 32;
  alignas(64) TileChunk<G> chunk;
  for (int64_t i = 0; i < (tokens + kTileTokens) * G * kLanes; i += kLanes) store(sums + i, zero());
  // Chunks of even size: 18 blocks are twice 9, not 16 and 2.
  const int64_t chunks = (blocks + kChunkBlocks - 1) / kChunkBlocks;
  const int64_t even = (blocks / Format::kBlocks + chunks - 1) / chunks * Format::kBlocks;
  for (int64_t b0 = 0; b0 < blocks; b0 += even) {
    const int n = static_cast<int>(blocks - b0 < even ? blocks - b0 : even);
    for (int g = 0; g < G; ++g) {
      for (int b = 0; b < n; b += Format::kBlocks)
        Format::unpack(groups[g].template unit<false>((b0 + b) / Format::kBlocks), chunk.tiles[g] + b);
    }
    // The next chunk comes while this one is multiplied: of the same groups, or the first of those behind them.
    Ahead<G> ahead;
    if (groups[0].address(0) != nullptr) {
      const bool last = b0 + n == blocks;
      const int64_t units = blocks / Format::kBlocks;
      for (int g = 0; g < G; ++g)
        ahead.groups[g] = last ? groups[0].address((G + g) * units) : groups[g].address((b0 + n) / Format::kBlocks);
      const int64_t steps = n * ((tokens + kTileTokens - 1) / kTileTokens);
      ahead.bytes = even / Format::kBlocks * Format::kBytes * kPanelRows;
      ahead.lines = (ahead.bytes / 64 + steps - 1) / steps;
    }
    dot_all_tokens<Format, G>(chunk, n, x, prepared, t0, tokens, b0, sums, ahead);
  }
}

// Where token t of `tokens` is among the sums.
KERNEL_INLINE int64_t place_of(int64_t t, int64_t tokens) {
  const int64_t whole = tokens / kTileTokens * kTileTokens, wide = overlap(whole, tokens);
  return t >= whole && wide > 0 ? t + wide : t;
}

// y[t0 + t, r + g kLanes ..] = sums.
template <int G>
inline void store_sums(const float* sums, int64_t tokens, int64_t count, float* y, int64_t ldy) {
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t place = place_of(t, tokens);
    for (int g = 0; g < G; ++g) {
      float* out = y + t * ldy + g * kLanes;
      const Floats v = load(sums + (place * G + g) * kLanes);
      if (G > 1 || count == kLanes) {
        store(out, v);
      } else {
        store_part(out, v, count);
      }
    }
  }
}

// kLanes rows, or fewer, x tokens [t0, t0 + tokens).
template <typename Format, typename Group>
inline void dot_one_group(const Group& group, const Q8Rows& x, const std::byte* prepared, int64_t t0, int64_t tokens,
                          float* sums) {
  const int64_t units = x.cols / 32 / Format::kBlocks;
  const Group groups[1] = {group};
  if (tokens == 1) return dot_groups_few<Format, 1, 1>(groups, units, x, t0, sums);
  if (tokens == 2) return dot_groups_few<Format, 1, 2>(groups, units, x, t0, sums);
  dot_groups<Format, 1>(groups, x, prepared, t0, tokens, sums);
}

template <typename Format>
inline void gemm_q8_of(const Mat& w, RowRange rows, const Q8Rows& x, int64_t T, float* y, int64_t ldy, float* panel) {
  alignas(64) float sums[(kMaxTokens + kTileTokens) * kRowGroups * kLanes];
  const int64_t fit = kTileBytes / x.cols / kTileTokens * kTileTokens;
  const int64_t tile_tokens = fit < kTileTokens ? kTileTokens : fit > kMaxTokens ? kMaxTokens : fit;
  const bool panels = w.layout == MatLayout::kPanels;
  // In the scratch: prepared sums, then rows that are copied.
  auto* prepared = reinterpret_cast<std::byte*>(panel);
  auto* copy = prepared + kMaxTokens * (x.cols / 32) * Format::kHalves * 4;
  static_assert(kMaxTokens * Format::kHalves * 4 + kLanes * Format::kBytes / Format::kBlocks <= 32 * 4 * kPanelRows);

  for (int64_t t0 = 0; t0 < T; t0 += tile_tokens) {
    const int64_t tokens = T - t0 < tile_tokens ? T - t0 : tile_tokens;
    float* out = y + t0 * ldy;
    if (tokens > 2) prepare_sums<Format>(x, t0, tokens, prepared);
    int64_t r = rows.begin;
    if (panels && (tokens > 2 || (tokens == 1 && kPairsOfGroups<Format>))) {
      for (; r + kRowGroups * kLanes <= rows.end && kRowGroups > 1; r += kRowGroups * kLanes) {
        const PanelGroup<Format> groups[2] = {PanelGroup<Format>(w, r), PanelGroup<Format>(w, r + kLanes)};
        if (tokens > 2) {
          dot_groups<Format, 2>(groups, x, prepared, t0, tokens, sums);
        } else if constexpr (kPairsOfGroups<Format>) {
          dot_groups_few<Format, 2, 1>(groups, x.cols / 32 / Format::kBlocks, x, t0, sums);
        }
        store_sums<2>(sums, tokens, kLanes, out + r, ldy);
      }
    }
    for (; r < rows.end; r += kLanes) {
      int64_t count = kLanes;
      if (panels) {
        dot_one_group<Format>(PanelGroup<Format>(w, r), x, prepared, t0, tokens, sums);
      } else {
        const RowGroup group = row_group(w, r, rows.end, copy);
        count = group.count;
        dot_one_group<Format>(StridedGroup<Format>{group, r + 2 * kLanes <= rows.end}, x, prepared, t0, tokens, sums);
      }
      store_sums<1>(sums, tokens, count, out + r, ldy);
    }
  }
}

inline void gemm_q8(const Mat& w, RowRange rows, const Q8Rows& x, int64_t T, float* y, int64_t ldy, float* panel) {
  if (T > 0) with_format(w.dtype, [&](auto format) { gemm_q8_of<decltype(format)>(w, rows, x, T, y, ldy, panel); });
}
