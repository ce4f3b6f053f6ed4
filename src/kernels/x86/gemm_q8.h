// y[t, n] = sum_k x[t, k] W[n, k] for quantised W and int8 x. Included inside the level's namespace and target region;
// includes nothing itself.
//
//   y[t, n] = sum_blocks (scale d) (sum_k q qs)  +  min (d sum_k qs)            q in W, qs and d in x
//
// Shapes: W [N, K] in blocks along K, x [T, K] int8 with a scale a block of 32, y [T, N] float32.
// Bytes: the weights once a token tile (T = 1: this is all, and the memory is the limit). Operations: 2 T N K in int8.
//
//            K ->  kChunkBlocks blocks of 32
//   rows   +--------+--------+-----     One or two groups of kLanes rows x one chunk are unpacked to tiles in the L1
//   kLanes |  tiles |        |          cache (formats.h) while the first kTileTokens tokens are multiplied with them,
//          +--------+--------+          then come the others, packed into one stream (packed_q8.h). The sums of
//                                       (row, token) wait in `sums` until the last chunk. One or two tokens alone: a
//                                       unit is unpacked to registers and used at once.
//
// Blocks of some tokens have a rest (Q8Rest): while the tiles of a chunk are there, each block is multiplied with its
// list of rests too, four tokens at a time, into sums of their own.
//
// Each (row, token) has one chain of fused multiply-adds in ascending order of blocks (and one for its rests), whatever
// T, the row range and the level: the same bits as ref.

constexpr int kChunkBlocks = 16;  // 12 KB of tiles a row group at 16 lanes
constexpr int kRowGroups =
    kLanes == 16 ? 2 : 1;  // of kLanes rows: two accumulators a (group, token), 32 or 16 registers
constexpr int64_t kMaxTokens = kLanes == 16 ? 192 : 128;  // of a token tile
constexpr int64_t kTileBytes = 512 << 10;                 // int8 activations of a token tile: they stay in the L2 cache

// sum[g][t] += tile g x a block of NT tokens (packed_q8.h). Every activation that is loaded serves G groups of rows,
// every weight NT tokens.
template <typename Format, int G, int NT, typename Block>
KERNEL_INLINE void dot_tile(const Tile* const (&tiles)[G], const Block& x, Floats (&sum)[G][NT]) {
  constexpr int kSteps = 8 / Format::kHalves;  // dot4 steps that share a scale
#pragma GCC unroll 2
  for (int h = 0; h < Format::kHalves; ++h) {
    Ints dots[G][NT];
#pragma GCC unroll 8
    for (int t = 0; t < NT; ++t) {
      const Ints start = Format::kOffset != 0 ? x.minus_offset(t, h) : zero_i();
#pragma GCC unroll 2
      for (int g = 0; g < G; ++g) dots[g][t] = start;
    }
#pragma GCC unroll 8
    for (int j = h * kSteps; j < (h + 1) * kSteps; ++j) {
#pragma GCC unroll 8
      for (int t = 0; t < NT; ++t) {
        const int8_t* values = x.qs(t) + 4 * j;
#pragma GCC unroll 2
        for (int g = 0; g < G; ++g) {
          const Ints weights = tiles[g]->q[j];
          dots[g][t] = Format::kSigned ? dot4_signed(dots[g][t], weights, values) : dot4(dots[g][t], weights, values);
        }
      }
    }
#pragma GCC unroll 8
    for (int t = 0; t < NT; ++t) {
      const Floats scale = x.scale(t);
#pragma GCC unroll 2
      for (int g = 0; g < G; ++g) sum[g][t] = fma(mul(tiles[g]->scale[h], scale), to_float(dots[g][t]), sum[g][t]);
      if constexpr (Format::kMin) {
        const Floats ones = x.scaled_ones(t, h);
#pragma GCC unroll 2
        for (int g = 0; g < G; ++g) sum[g][t] = fma(tiles[g]->min[h], ones, sum[g][t]);
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

// Where the sums of the tokens wait between chunks, [place, G, kLanes], and where they go behind the last chunk: y,
// rows `ldy` apart. Each tile goes there as soon as it is done: rows of y lie a power of two apart, and hundreds of
// them written at once would wait for each other's lines in a few sets of the cache.
struct Sums {
  float* waiting;
  float* y;  // of token 0; null: all stay in `waiting`
  int64_t ldy;
  bool first, last;  // chunk
};

// A tile of packed tokens from token t on x the tiles of weights, n blocks. unpack(b) is called before block b is used.
template <typename Format, int G, int NT, typename Unpack>
KERNEL_INLINE void dot_tiles(const TileChunk<G>& chunk, int n, const std::byte* x, int64_t t, int64_t tokens,
                             const Sums& sums, Ahead<G>& ahead, const Unpack& unpack) {
  float* waiting = sums.waiting + t * G * kLanes;
  Floats sum[G][NT];
#pragma GCC unroll 8
  for (int i = 0; i < NT; ++i) {
#pragma GCC unroll 2
    for (int g = 0; g < G; ++g) sum[g][i] = sums.first ? zero() : load(waiting + (i * G + g) * kLanes);
  }
  for (int b = 0; b < n; ++b) {
    unpack(b);
    ahead.step();
    const Tile* tiles[G];
#pragma GCC unroll 2
    for (int g = 0; g < G; ++g) tiles[g] = &chunk.tiles[g][b];
    dot_tile<Format, G, NT>(tiles, PackedBlock<Format, NT>{x + b * NT * kPackedBytes<Format>}, sum);
  }
  const bool done = sums.last && sums.y != nullptr && t + NT <= tokens;
  float* to = done ? sums.y + t * sums.ldy : waiting;
  const int64_t ld = done ? sums.ldy : G * kLanes;
#pragma GCC unroll 8
  for (int i = 0; i < NT; ++i) {
#pragma GCC unroll 2
    for (int g = 0; g < G; ++g) store(to + i * ld + g * kLanes, sum[g][i]);
  }
  // A tile with an idle place.
  for (int64_t i = 0; sums.last && sums.y != nullptr && !done && t + i < tokens; ++i) {
    for (int g = 0; g < G; ++g) store(sums.y + (t + i) * sums.ldy + g * kLanes, load(waiting + (i * G + g) * kLanes));
  }
}

// All packed tokens x the tiles of weights, n blocks. The first tile unpacks the blocks as it goes: its dots use two of
// the ports, unpacking the others.
template <typename Format, int G, typename Unpack>
inline void dot_all_tokens(const TileChunk<G>& chunk, int n, const std::byte* x, int64_t tokens, const Sums& sums,
                           Ahead<G> ahead, const Unpack& unpack) {
  const auto unpacked = [](int) {};
  const int64_t token = n * kPackedBytes<Format>;
  int64_t t = 0;
  if (tile_width(tokens) == kTileTokens) {
    dot_tiles<Format, G, kTileTokens>(chunk, n, x, 0, tokens, sums, ahead, unpack);
    t = kTileTokens;
  } else {
    for (int b = 0; b < n; ++b) unpack(b);
  }
  for (; t < tokens; t += kTileTokens) {
    const std::byte* at = x + t * token;
    const int64_t width = tile_width(tokens - t);
    if (width == kTileTokens) {
      dot_tiles<Format, G, kTileTokens>(chunk, n, at, t, tokens, sums, ahead, unpacked);
    } else if (width == 4) {
      dot_tiles<Format, G, 4>(chunk, n, at, t, tokens, sums, ahead, unpacked);
    } else if (width == 2) {
      dot_tiles<Format, G, 2>(chunk, n, at, t, tokens, sums, ahead, unpacked);
    } else {
      dot_tiles<Format, G, 1>(chunk, n, at, t, tokens, sums, ahead, unpacked);
    }
  }
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

// The place in y of the first token and row, and how many of kLanes rows exist.
struct Output {
  float* y;
  int64_t ldy;
  int64_t count;
};

KERNEL_INLINE void store_part_or_all(float* y, Floats v, int64_t count) {
  if (count == kLanes) return store(y, v);
  store_part(y, v, count);
}

// The rests of a token tile: sums of their own, [kMaxTokens, G, kLanes], zero before and after every group of rows.
struct Rests {
  const Q8Rest* x = nullptr;  // null: there are none
  int64_t blocks = 0;         // K / 32
  int64_t t0 = 0;             // where the token tile begins: a multiple of kRestTokens
  float* sums = nullptr;
};

// sums[token][g] += tiles x the rests of one block, pairs [begin, end) of it. sums: [kRestTokens, G, kLanes].
template <typename Format, int G>
inline void dot_rests(const Tile* const (&tiles)[G], const Q8Rest& rest, int64_t begin, int64_t end, float* sums) {
  const auto some = [&]<int NT>(std::integral_constant<int, NT>, int64_t p) {
    const int32_t* token = rest.token + p;
    Floats sum[G][NT];
#pragma GCC unroll 4
    for (int t = 0; t < NT; ++t) {
#pragma GCC unroll 2
      for (int g = 0; g < G; ++g) sum[g][t] = load(sums + (token[t] * G + g) * kLanes);
    }
    dot_tile<Format, G, NT>(tiles, RestBlocks<Format>(rest.blocks, p), sum);
#pragma GCC unroll 4
    for (int t = 0; t < NT; ++t) {
#pragma GCC unroll 2
      for (int g = 0; g < G; ++g) store(sums + (token[t] * G + g) * kLanes, sum[g][t]);
    }
  };
  int64_t p = begin;
  for (; p + 4 <= end; p += 4) some(std::integral_constant<int, 4>(), p);
  for (; p < end; ++p) some(std::integral_constant<int, 1>(), p);
}

// The rests of blocks [b0, b0 + n) of all tokens of the tile.
template <typename Format, int G>
inline void dot_rests_of_chunk(const TileChunk<G>& chunk, int n, int64_t b0, int64_t tokens, const Rests& rests) {
  for (int64_t t = 0; t < tokens; t += kRestTokens) {
    const int64_t group = (rests.t0 + t) / kRestTokens;
    for (int b = 0; b < n; ++b) {
      const int64_t begin = rests.x->begin(group, b0 + b, rests.blocks);
      const int64_t end = rests.x->begin(group, b0 + b + 1, rests.blocks);
      if (begin == end) continue;
      const Tile* tiles[G];
#pragma GCC unroll 2
      for (int g = 0; g < G; ++g) tiles[g] = &chunk.tiles[g][b];
      dot_rests<Format, G>(tiles, *rests.x, begin, end, rests.sums + t * G * kLanes);
    }
  }
}

// sum + what token t has in `rests`, which is zero then.
template <int G>
KERNEL_INLINE Floats with_rest(Floats sum, const Rests& rests, int64_t t, int g) {
  if (rests.x == nullptr) return sum;
  float* rest = rests.sums + (t * G + g) * kLanes;
  const Floats all = add(sum, load(rest));
  store(rest, zero());
  return all;
}

// One or two tokens: a unit is unpacked and multiplied at once, nothing waits in memory. Where there are no rests, no
// code for them either: their tiles must lie in memory, which costs 5 % of a decode.
template <typename Format, int G, int NT, bool kRests, typename Group>
inline void dot_groups_few(const Group (&groups)[G], const Q8Rows& x, int64_t t0, const Rests& rests,
                           const Output& out) {
  const LooseTokens<Format, NT> tokens(x, t0);
  const int64_t units = x.cols / 32 / Format::kBlocks;
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
      dot_tile<Format, G, NT>(tile, tokens.block(u * Format::kBlocks + b), sum);
      if constexpr (kRests) {
        const int64_t block = u * Format::kBlocks + b, group = t0 / kRestTokens;
        const int64_t begin = rests.x->begin(group, block, rests.blocks);
        const int64_t end = rests.x->begin(group, block + 1, rests.blocks);
        if (begin < end) dot_rests<Format, G>(tile, *rests.x, begin, end, rests.sums);
      }
    }
  }
  for (int t = 0; t < NT; ++t) {
    for (int g = 0; g < G; ++g)
      store_part_or_all(out.y + t * out.ldy + g * kLanes, with_rest<G>(sum[g][t], rests, t, g), out.count);
  }
}

template <typename Format, int G, int NT, typename Group>
inline void dot_few(const Group (&groups)[G], const Q8Rows& x, int64_t t0, const Rests& rests, const Output& out) {
  if (rests.x == nullptr) return dot_groups_few<Format, G, NT, false>(groups, x, t0, rests, out);
  dot_groups_few<Format, G, NT, true>(groups, x, t0, rests, out);
}

// One token is multiplied with two groups of rows at a time where a group alone waits for itself: two scales and two
// minima a block are a chain of four additions, 16 cycles for 168 bytes of Q2_K. Formats that the memory limits lose by
// it (Q6_K a fifth): two streams are asked for less evenly than one.
template <typename Format>
constexpr bool kPairsOfGroups = kRowGroups == 2 && Format::kHalves == 2 && Format::kMin;

// Blocks of a chunk: of even size, 18 blocks are twice 9, not 16 and 2.
template <typename Format>
inline int64_t chunk_blocks(int64_t blocks) {
  const int64_t chunks = (blocks + kChunkBlocks - 1) / kChunkBlocks;
  return (blocks / Format::kBlocks + chunks - 1) / chunks * Format::kBlocks;
}

// out = the rows of G groups x the packed tokens. waiting: kMaxTokens * G * kLanes floats.
template <typename Format, int G, typename Group>
inline void dot_groups(const Group (&groups)[G], int64_t blocks, const std::byte* x, int64_t tokens, float* waiting,
                       const Rests& rests, const Output& out) {
  alignas(64) TileChunk<G> chunk;
  const int64_t places = places_of(tokens), even = chunk_blocks<Format>(blocks);
  const bool direct = (G > 1 || out.count == kLanes) && rests.x == nullptr;
  for (int64_t b0 = 0; b0 < blocks; b0 += even) {
    const int n = static_cast<int>(blocks - b0 < even ? blocks - b0 : even);
    const bool last = b0 + n == blocks;
    // The next chunk comes while this one is multiplied: of the same groups, or the first of those behind them.
    Ahead<G> ahead;
    if (groups[0].address(0) != nullptr) {
      const int64_t units = blocks / Format::kBlocks;
      for (int g = 0; g < G; ++g)
        ahead.groups[g] = last ? groups[0].address((G + g) * units) : groups[g].address((b0 + n) / Format::kBlocks);
      const int64_t steps = n * ((tokens + kTileTokens - 1) / kTileTokens);
      ahead.bytes = even / Format::kBlocks * Format::kBytes * kPanelRows;
      ahead.lines = (ahead.bytes / 64 + steps - 1) / steps;
    }
    const auto unpack = [&](int b) {
      if (b % Format::kBlocks != 0) return;
      for (int g = 0; g < G; ++g)
        Format::unpack(groups[g].template unit<false>((b0 + b) / Format::kBlocks), chunk.tiles[g] + b);
    };
    const Sums sums = {waiting, direct ? out.y : nullptr, out.ldy, b0 == 0, last};
    dot_all_tokens<Format, G>(chunk, n, x + b0 * places * kPackedBytes<Format>, tokens, sums, ahead, unpack);
    if (rests.x != nullptr) dot_rests_of_chunk<Format, G>(chunk, n, b0, tokens, rests);
  }
  for (int64_t t = 0; !direct && t < tokens; ++t) {
    for (int g = 0; g < G; ++g) {
      const Floats sum = with_rest<G>(load(waiting + (t * G + g) * kLanes), rests, t, g);
      store_part_or_all(out.y + t * out.ldy + g * kLanes, sum, out.count);
    }
  }
}

// kLanes rows, or fewer, x tokens [t0, t0 + tokens), packed when they are more than two.
template <typename Format, typename Group>
inline void dot_one_group(const Group& group, const Q8Rows& x, const std::byte* packed, int64_t t0, int64_t tokens,
                          float* waiting, const Rests& rests, const Output& out) {
  const Group groups[1] = {group};
  if (tokens == 1) return dot_few<Format, 1, 1>(groups, x, t0, rests, out);
  if (tokens == 2) return dot_few<Format, 1, 2>(groups, x, t0, rests, out);
  dot_groups<Format, 1>(groups, x.cols / 32, packed, tokens, waiting, rests, out);
}

// Tokens of a tile for a product of K columns: a multiple of `unit`.
inline int64_t tokens_of_tile(int64_t cols, int64_t unit) {
  const int64_t fit = kTileBytes / cols, most = fit > kMaxTokens ? kMaxTokens : fit;
  return most < unit ? unit : most / unit * unit;
}

template <typename Format>
inline void gemm_q8_of(const Mat& w, RowRange rows, const Q8Rows& x, int64_t T, float* y, int64_t ldy, float* scratch) {
  alignas(64) float sums[kMaxTokens * kRowGroups * kLanes];
  alignas(64) float rest_sums[kMaxTokens * kRowGroups * kLanes];
  static_assert(kRestTokens % kTileTokens == 0);  // a tile has whole groups of rests
  const int64_t blocks = x.cols / 32, tile_tokens = tokens_of_tile(x.cols, x.rest ? kRestTokens : kTileTokens);
  const int64_t rest_floats = x.rest ? (T < tile_tokens ? T : tile_tokens) * kRowGroups * kLanes : 0;
  for (int64_t i = 0; i < rest_floats; i += kLanes) store(rest_sums + i, zero());
  const bool panels = w.layout == MatLayout::kPanels;
  // In the scratch: packed activations, then rows that are copied.
  auto* packed = reinterpret_cast<std::byte*>(scratch);
  std::byte* copy = packed + kMaxTokens * blocks * kPackedBytes<Format>;
  static_assert(kMaxTokens * kPackedBytes<Format> + kLanes * Format::kBytes / Format::kBlocks <= 32 * 4 * kScratchRows);

  for (int64_t t0 = 0; t0 < T; t0 += tile_tokens) {
    const int64_t tokens = T - t0 < tile_tokens ? T - t0 : tile_tokens;
    const Rests rests = {x.rest, blocks, t0, rest_sums};
    float* out = y + t0 * ldy;
    if (tokens > 2) pack_tokens<Format>(x, t0, tokens, chunk_blocks<Format>(blocks), tile_width, packed);
    int64_t r = rows.begin;
    if (panels && (tokens > 2 || (tokens == 1 && kPairsOfGroups<Format>))) {
      for (; r + kRowGroups * kLanes <= rows.end && kRowGroups > 1; r += kRowGroups * kLanes) {
        const PanelGroup<Format> groups[2] = {PanelGroup<Format>(w, r), PanelGroup<Format>(w, r + kLanes)};
        const Output to = {out + r, ldy, kLanes};
        if (tokens > 2) {
          dot_groups<Format, 2>(groups, blocks, packed, tokens, sums, rests, to);
        } else if constexpr (kPairsOfGroups<Format>) {
          dot_few<Format, 2, 1>(groups, x, t0, rests, to);
        }
      }
    }
    for (; r < rows.end; r += kLanes) {
      if (panels) {
        dot_one_group<Format>(PanelGroup<Format>(w, r), x, packed, t0, tokens, sums, rests, {out + r, ldy, kLanes});
      } else {
        const RowGroup group = row_group(w, r, rows.end, copy);
        dot_one_group<Format>(StridedGroup<Format>{group, r + 2 * kLanes <= rows.end}, x, packed, t0, tokens, sums,
                              rests, {out + r, ldy, group.count});
      }
    }
  }
}

inline void gemm_q8(const Mat& w, RowRange rows, const Q8Rows& x, int64_t T, float* y, int64_t ldy, float* scratch) {
  if (T > 0) with_format(w.dtype, [&](auto format) { gemm_q8_of<decltype(format)>(w, rows, x, T, y, ldy, scratch); });
}
