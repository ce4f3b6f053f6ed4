// Query rows against keys and values in int8. Included inside the level's namespace and target region, after rows.h and
// dots_q8.h; includes nothing itself.
//
//   for each block of kKvBlock keys:  dots = q k (int32)      scores = scales x dots
//                                     w = 2^(scores - max) x scale of v, as 14-bit integers W = 128 hi + lo
//                                     out = out 2^(old max - max) + factor (sum_s W v)          sum likewise
//
// Query rows lie in lanes until their weights are known: maxima and sums over keys are additions of registers. Then
// keys lie four side by side, and the lanes are dimensions of the values. Few rows share the lanes with four keys each;
// the numbers are the same to the bit, since four chains of additions, key mod 4, take their turns in either case.
//
// Shapes: q [n_q, k_dim] float32, quantised and packed here once; v [256, v_dim] is turned to four keys side by side,
// 64 dimensions at a time for all rows. Bytes: keys (k_dim + v_dim); operations 2 n_q (k_dim + 2 v_dim) a key in int8:
// with MLA's many rows the dot units are the limit.
//
// Order: keys in pieces of kPiece from `begin` on; the maximum moves between pieces only. A row's result depends on
// nothing but its q and the keys from `begin` on: not on the other rows.

constexpr int kGroupDims = 4 * kLanes;  // of v: four registers of kLanes dimensions x four keys
constexpr int kValueRows =
    kLanes == 16 ? 2 : 1;  // query rows of a tile of W v: 8 registers of integers, 4 of sums each
constexpr int kQuads = kKvBlock / 4;
constexpr int kPieceBlocks = 4;
constexpr int kPiece = kPieceBlocks * kKvBlock;
constexpr int kMostFewRows = 16;        // up to so many rows the lanes hold few of them
constexpr int64_t kShortKeyDims = 128;  // rows of longer keys are streams that the hardware follows by itself

// 2^x for x <= 0, to 3e-6: weights are rounded to 6e-5 of the largest. 1 at 0, 0 from -200 on; NaN stays NaN.
//   x = n + r, |r| <= 1/2: 2^r by the polynomial of degree 4 whose largest relative error is the smallest
inline Floats power2(Floats x) {
  x = max(set(-200.0f), x);
  const Floats n = round_even(x), r = sub(x, n);
  Floats p = set(0x1.3a02ccp-7f);
  p = fma(p, r, set(0x1.c9fc46p-5f));
  p = fma(p, r, set(0x1.ec0378p-3f));
  p = fma(p, r, set(0x1.62e12cp-1f));
  p = fma(p, r, set(1.0f));
  return scale_by_power(p, n);
}

// Where a register of scores has its rows and keys.
struct Many {
  static constexpr int kRows = kLanes, kKeys = 1, kChains = 4;
  static Floats rows(const float* p) { return load(p); }
  static void keep_rows(float* p, Floats v) { store(p, v); }
  static Floats keys(const float* p) { return set(*p); }
  static Floats added(const Floats (&v)[kChains]) { return add(add(v[0], v[1]), add(v[2], v[3])); }
  static Floats top(const Floats (&v)[kChains]) { return max(max(v[0], v[1]), max(v[2], v[3])); }
};
struct Few {
  static constexpr int kRows = kFewRows, kKeys = 4, kChains = 1;
  static Floats rows(const float* p) { return load_fours(p); }
  static void keep_rows(float* p, Floats v) { store_fours(p, v); }
  static Floats keys(const float* p) { return broadcast_16(p); }
  static Floats added(const Floats (&v)[kChains]) {
    const Floats pairs = add(v[0], swap_ones(v[0]));
    return add(pairs, swap_twos(pairs));
  }
  static Floats top(const Floats (&v)[kChains]) {
    const Floats pairs = max(v[0], swap_ones(v[0]));
    return max(pairs, swap_twos(pairs));
  }
};

// What one call keeps in its scratch. rows: n_q, up to whole registers of lanes.
struct Q8Scratch {
  int64_t rows;
  int8_t* row_major;  // [kLanes, k_dim]: before they are packed
  std::byte* q;       // packed, part after part of a register of rows
  float* q_scale;     // [2, rows], times the scale of the scores
  float* max;         // [rows]
  float* sum;         // [rows]
  float* fade;        // [rows]: 2^(old max - new max)
  float* factor;      // [kPieceBlocks, rows]: of a block's sums
  float* seen;        // [rows]: keys of the piece that a row sees
  float* scores;      // [kPiece / keys of a register][rows / rows of it][kLanes], later the weights
  int32_t* offset;    // [2, kKvBlock]: what the dots with a key begin with
  int8_t* values;     // [kPieceBlocks kQuads][4][4 kLanes]: 64 dimensions of v, four keys side by side
  uint8_t* high;      // [rows / rows of a register][kPieceBlocks kQuads][rows of it][4]: W / 128
  uint8_t* low;       // the same: W mod 128
};

inline Q8Scratch q8_scratch(const AttendQ8Args& a, int64_t rows) {
  std::byte* p = a.scratch;
  const auto take = [&](int64_t bytes) {
    std::byte* at = p;
    p += (bytes + 63) / 64 * 64;
    return at;
  };
  const auto floats = [&](int64_t n) { return reinterpret_cast<float*>(take(4 * n)); };
  Q8Scratch s;
  s.rows = rows;
  s.row_major = reinterpret_cast<int8_t*>(take(kLanes * a.k_dim()));
  s.q = take(rows * a.k_dim());
  s.q_scale = floats(2 * rows);
  s.max = floats(rows);
  s.sum = floats(rows);
  s.fade = floats(rows);
  s.factor = floats(kPieceBlocks * rows);
  s.seen = floats(rows);
  s.scores = floats(kPiece * rows);
  s.offset = reinterpret_cast<int32_t*>(take(2 * kKvBlock * 4));
  s.values = reinterpret_cast<int8_t*>(take(kPiece * kGroupDims));
  s.high = reinterpret_cast<uint8_t*>(take(rows * kPiece));
  s.low = reinterpret_cast<uint8_t*>(take(rows * kPiece));
  return s;
}

// q to int8 and side by side. Rows behind the last are zero.
template <typename Lanes>
inline void pack_queries(const AttendQ8Args& a, const Q8Scratch& s) {
  int64_t at = 0;
  for (int p = 0; p < a.k_parts; at += a.k_dims[p++]) {
    const int64_t K = a.k_dims[p];
    for (int64_t i = 0; i < s.rows; ++i) {
      const int64_t lane = i % Lanes::kRows;
      int8_t* qs = s.row_major + lane * K;
      if (i < a.n_q) {
        s.q_scale[p * s.rows + i] = a.scale * quantise_row(a.q + i * a.q_stride + at, K, qs);
      } else {
        s.q_scale[p * s.rows + i] = 0;
        std::memset(qs, 0, static_cast<size_t>(K));
      }
      if (lane < Lanes::kRows - 1) continue;
      std::byte* to = s.q + (i - lane) * a.k_dim() + at * Lanes::kRows;
      Lanes::kKeys == 1 ? pack_lanes(s.row_major, K, to) : pack_few(s.row_major, K, to);
    }
  }
}

// Where the keys of a block and their scales are, and how many of them anybody sees.
struct Q8Block {
  const int8_t* rows;
  const float* scales;
  int64_t keys;
  const int8_t* next;  // the rows of the block behind it, or these again
  const int8_t* far;   // of the block a piece behind it, likewise
};

// Scores of NQ registers of rows, the first of them row i, with the keys of a block (a few more, up to a tile).
template <typename Lanes, int NQ>
inline void score_tile_rows(const AttendQ8Args& a, const Q8Scratch& s, const Q8Block& block, int64_t i, float* scores) {
  constexpr int kKeys = kTileKeys<NQ>, kSteps = kKeys / Lanes::kKeys;  // registers of keys
  for (int64_t k = 0; k < block.keys; k += kKeys) {
    int64_t at = 0;
    for (int p = 0; p < a.k_parts; at += a.k_dims[p++]) {
      Ints dots[kTileSums / Lanes::kKeys];
      const std::byte* q = s.q + i * a.k_dim() + at * Lanes::kRows;
      const int8_t* keys = block.rows + k * a.row_bytes + a.k_offset + at;
      const int32_t* offset = s.offset + p * kKvBlock + k;
      if constexpr (Lanes::kKeys == 1) {
        dot_tile<NQ>(q, Lanes::kRows * a.k_dim(), a.k_dims[p], keys, a.row_bytes, offset, dots);
      } else {
        const int8_t* ahead = k + kKeys < kKvBlock ? keys + kKeys * a.row_bytes : block.next + a.k_offset + at;
        dot_tile_few<NQ>(q, Lanes::kRows * a.k_dim(), a.k_dims[p], keys, a.row_bytes, ahead, offset, dots);
      }
      const float* k_scale = block.scales + a.k_scale[p] * kKvBlock + k;
#pragma GCC unroll 4
      for (int j = 0; j < NQ; ++j) {
        const Floats q_scale = Lanes::rows(s.q_scale + p * s.rows + i + j * Lanes::kRows);
#pragma GCC unroll 16
        for (int r = 0; r < kSteps; ++r) {
          float* score =
              scores + (k / Lanes::kKeys + r) * s.rows * Lanes::kKeys + (i + j * Lanes::kRows) * Lanes::kKeys;
          const Floats scale = mul(q_scale, Lanes::keys(k_scale + r * Lanes::kKeys));
          store(score, fma(scale, to_float(dots[r * NQ + j]), p == 0 ? zero() : load(score)));
        }
      }
    }
  }
}

// Asks for dims [offset, offset + n) of the rows of a block. Of short keys a row of the cache has a line or two for
// each head, too far apart for the hardware's own prefetcher.
inline void ask_for(const AttendQ8Args& a, const int8_t* rows, int64_t keys, int64_t offset, int64_t n) {
  if (a.k_dim() > kShortKeyDims) return;
  for (int64_t i = 0; i < keys; ++i, rows += a.row_bytes) {
    for (int64_t k = 0; k < n; k += 64) prefetch(reinterpret_cast<const std::byte*>(rows + offset + k));
  }
}

// Dots of all rows from `first` on, as many registers together as there are.
template <typename Lanes>
inline void score_block(const AttendQ8Args& a, const Q8Scratch& s, const Q8Block& block, int64_t first, float* scores) {
  int64_t at = 0;
  for (int p = 0; p < a.k_parts; at += a.k_dims[p++])
    key_offsets(block.rows + a.k_offset + at, a.row_bytes, a.k_dims[p], s.offset + p * kKvBlock);
  int64_t i = first;
  constexpr int64_t kRows = Lanes::kRows;
  if constexpr (kLanes == 16) {
    for (; i + 4 * kRows <= s.rows; i += 4 * kRows) score_tile_rows<Lanes, 4>(a, s, block, i, scores);
  }
  for (; i + 2 * kRows <= s.rows; i += 2 * kRows) score_tile_rows<Lanes, 2>(a, s, block, i, scores);
  if constexpr (kTileSums / Lanes::kKeys >= 1) {
    for (; i < s.rows; i += kRows) score_tile_rows<Lanes, 1>(a, s, block, i, scores);
  }
}

// Scores of a register of rows, the first of them row i, to weights; max and sum of the rows move on. all: every row
// sees all keys of all blocks.
template <typename Lanes, bool all>
inline void weigh(const AttendQ8Args& a, const Q8Scratch& s, const Q8Block* blocks, int n_blocks, int64_t i) {
  constexpr int kChains = Lanes::kChains, kSteps = kKvBlock / Lanes::kKeys;
  constexpr float kIndex[4] = {0, 1, 2, 3};
  const int64_t next = s.rows * Lanes::kKeys;  // floats to the next keys
  float* const x = s.scores + i * Lanes::kKeys;
  const Floats seen = Lanes::rows(s.seen + i), before = Lanes::rows(s.max + i), none = set(-__builtin_inff());
  const auto index = [&](int64_t step) {
    return add(set(static_cast<float>(step * Lanes::kKeys)), Lanes::keys(kIndex));
  };
  Floats tops[kChains];
#pragma GCC unroll 4
  for (Floats& each : tops) each = none;
  for (int64_t t = 0; t < n_blocks * kSteps; t += kChains) {
#pragma GCC unroll 4
    for (int j = 0; j < kChains; ++j) {
      Floats score = load(x + (t + j) * next);
      if constexpr (!all) {  // behind the last key scores may be anything
        score = where_less(index(t + j), seen, score, none);
        store(x + (t + j) * next, score);
      }
      tops[j] = max(tops[j], score);
    }
  }
  const Floats now = max(before, Lanes::top(tops));
  const Floats base = max(set(-3e38f), now);  // a row that has seen nothing yet: every power is 0
  const Floats fade = power2(sub(before, base)), some = set(0x1p-100f);
  Floats sums[kChains];
#pragma GCC unroll 4
  for (Floats& each : sums) each = zero();
  for (int b = 0; b < n_blocks; ++b) {
    const float* v_scale = blocks[b].scales + a.v_scale * kKvBlock;
    float* const w = x + b * kSteps * next;
    Floats most[kChains];
#pragma GCC unroll 4
    for (Floats& each : most) each = zero();
    for (int64_t t = 0; t < kSteps; t += kChains) {
#pragma GCC unroll 4
      for (int j = 0; j < kChains; ++j) {
        const Floats e = power2(sub(load(w + (t + j) * next), base));
        sums[j] = add(sums[j], e);
        Floats weight = mul(e, Lanes::keys(v_scale + (t + j) * Lanes::kKeys));
        if constexpr (!all) weight = where_less(index(b * kSteps + t + j), seen, weight, zero());
        store(w + (t + j) * next, weight);
        most[j] = max(most[j], weight);
      }
    }
    const Floats largest_weight = Lanes::top(most);
    const Floats steps = where_less(some, largest_weight, div(set(kQ8WeightSteps), largest_weight), zero());
    Lanes::keep_rows(s.factor + b * s.rows + i,
                     where_less(some, largest_weight, mul(largest_weight, set(1.0f / kQ8WeightSteps)), zero()));
    const int64_t at = (i * kPieceBlocks + b * Lanes::kRows) * kQuads * 4;
    if constexpr (Lanes::kKeys == 4) {
      for (int64_t t = 0; t < kSteps; ++t) {
        const int64_t to = at + t * Lanes::kRows * 4;
        const Ints n = rounded(mul(load(w + t * next), steps));
        store_bytes(shift_right(n, 7), s.high + to);
        store_bytes(bitand_i(n, set_i(127)), s.low + to);
      }
    } else {
      const Ints bytes = set_i(0x007f007f), upper = set_i(0x7f007f00);
      for (int64_t k = 0; k < kKvBlock; k += 4) {
        Ints n[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) n[j] = rounded(mul(load(w + (k + j) * next), steps));
        const Ints even = bitor_i(n[0], shift_left(n[2], 16)), odd = bitor_i(n[1], shift_left(n[3], 16));
        const int64_t to = at + k * Lanes::kRows;
        store_i(s.high + to, bitor_i(bitand_i(shift_right(even, 7), bytes), bitand_i(shift_left(odd, 1), upper)));
        store_i(s.low + to, bitor_i(bitand_i(even, bytes), bitand_i(shift_left(odd, 8), upper)));
      }
    }
  }
  Lanes::keep_rows(s.fade + i, fade);
  Lanes::keep_rows(s.max + i, now);
  Lanes::keep_rows(s.sum + i, fma(Lanes::rows(s.sum + i), fade, Lanes::added(sums)));
}

// Bytes from the rows of a block.
struct Lines {
  int64_t first, step;
};

// The index-th of the lines that take turns until all of a block's keys and values are asked for: one of every fourth
// key. Behind them the first line again.
inline Lines lines_ahead(const AttendQ8Args& a, int64_t index) {
  const bool latent = a.v_offset >= a.k_offset && a.v_offset < a.k_offset + a.k_dim();  // values are in the keys
  const int64_t key = index % 4, column = index / 4 * 64, rest = column - a.k_dim();
  if (rest >= (latent ? 0 : a.v_dim)) return {0, 0};
  return {key * a.row_bytes + (rest < 0 ? a.k_offset + column : a.v_offset + rest), 4 * a.row_bytes};
}

// out rows [i, i + NR) = out fade + sum over blocks of factor (W v), kGroupDims dimensions; the four keys of a quad are
// side by side in s.values. The lanes of out stay in the order that interleave_four makes until the end.
template <typename Lanes, int NR>
inline void add_group(const Q8Scratch& s, const Q8Block* blocks, int n_blocks, int64_t i, Lines ahead, float* out,
                      int64_t ld) {
  Floats y[NR][4];
  const uint8_t *h_row[NR], *l_row[NR];
#pragma GCC unroll 2
  for (int r = 0; r < NR; ++r) {
    const int64_t row = i + r, lane = row % Lanes::kRows;
    h_row[r] = s.high + (row - lane) * kPiece + lane * 4;
    l_row[r] = s.low + (row - lane) * kPiece + lane * 4;
    const Floats fade = set(s.fade[row]);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) y[r][j] = mul(fade, load(out + r * ld + j * kLanes));
  }
  for (int b = 0; b < n_blocks; ++b) {
    Ints high[NR][4], low[NR][4];
#pragma GCC unroll 2
    for (int r = 0; r < NR; ++r) {
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) high[r][j] = low[r][j] = zero_i();
    }
    const int8_t* line = blocks[b].far + ahead.first;
    for (int64_t quad = b * kQuads; quad < b * kQuads + (blocks[b].keys + 3) / 4; ++quad) {
      prefetch_far(reinterpret_cast<const std::byte*>(line));
      line += ahead.step;
      Ints v[4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) v[j] = load_i(s.values + (4 * quad + j) * kGroupDims);
#pragma GCC unroll 2
      for (int r = 0; r < NR; ++r) {
        const Ints h = broadcast_4(h_row[r] + quad * 4 * Lanes::kRows);
        const Ints l = broadcast_4(l_row[r] + quad * 4 * Lanes::kRows);
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
          high[r][j] = dot4_vectors(high[r][j], h, v[j]);
          low[r][j] = dot4_vectors(low[r][j], l, v[j]);
        }
      }
    }
#pragma GCC unroll 2
    for (int r = 0; r < NR; ++r) {
      const Floats factor = set(s.factor[b * s.rows + i + r]);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) y[r][j] = fma(factor, to_float(add_i(shift_left(high[r][j], 7), low[r][j])), y[r][j]);
    }
  }
#pragma GCC unroll 2
  for (int r = 0; r < NR; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) store(out + r * ld + j * kLanes, y[r][j]);
  }
}

// Values of a piece, 64 dimensions after 64 dimensions, into the sums of rows from `first` on.
template <typename Lanes>
inline void add_values(const AttendQ8Args& a, const Q8Scratch& s, const Q8Block* blocks, int n_blocks, int64_t first) {
  int64_t tiles = 0;
  for (int64_t g = 0; g < a.v_dim; g += kGroupDims) {
    for (int b = 0; b < n_blocks; ++b) {
      const int8_t* v = blocks[b].rows + a.v_offset + g;
      for (int64_t quad = 0; quad < (blocks[b].keys + 3) / 4; ++quad)
        interleave_four(v + 4 * quad * a.row_bytes, a.row_bytes, s.values + (b * kQuads + quad) * 4 * kGroupDims);
    }
    float* out = a.out + g;
    int64_t i = first;
    for (; i + kValueRows <= a.n_q; i += kValueRows)
      add_group<Lanes, kValueRows>(s, blocks, n_blocks, i, lines_ahead(a, tiles++), out + i * a.v_dim, a.v_dim);
    for (; i < a.n_q; ++i)
      add_group<Lanes, 1>(s, blocks, n_blocks, i, lines_ahead(a, tiles++), out + i * a.v_dim, a.v_dim);
  }
}

// The dimensions back to their order: register j, piece L of four lanes holds dimensions 16 L + 4 j ..
inline void order_dimensions(const AttendQ8Args& a) {
  for (int64_t i = 0; i < a.n_q; ++i) {
    for (int64_t g = 0; g < a.v_dim; g += kGroupDims) {
      float* y = a.out + i * a.v_dim + g;
      float copy[kGroupDims];
      std::memcpy(copy, y, sizeof copy);
      for (int j = 0; j < 4; ++j) {
        for (int piece = 0; piece < kLanes / 4; ++piece)
          std::memcpy(y + 16 * piece + 4 * j, copy + j * kLanes + 4 * piece, 16);
      }
    }
  }
}

template <typename Lanes>
inline void attend_q8_in(const AttendQ8Args& a) {
  const Q8Scratch s = q8_scratch(a, (a.n_q + Lanes::kRows - 1) / Lanes::kRows * Lanes::kRows);
  pack_queries<Lanes>(a, s);
  for (int64_t i = 0; i < s.rows; ++i) s.max[i] = -__builtin_inff(), s.sum[i] = 0;
  std::memset(a.out, 0, static_cast<size_t>(a.n_q * a.v_dim) * sizeof(float));
  // Keys that a row sees; rows behind the last see what that one does.
  const auto seen_by = [&](int64_t i) {
    const int64_t keys = a.keys_of(i < a.n_q ? i : a.n_q - 1);
    return keys < a.end ? keys : a.end;
  };
  const int64_t known = a.keys_of(a.n_q - 1), end = seen_by(a.n_q - 1);  // pages go no further
  const auto page_of = [&](int64_t key) {
    return reinterpret_cast<const int8_t*>(a.pages[key / a.page_tokens] + a.layer_offset + a.page_offset);
  };
  for (int64_t piece = a.begin; piece < end; piece += kPiece) {
    int64_t first = 0;  // rows before it see nothing of this piece
    while (seen_by(first + Lanes::kRows - 1) <= piece) first += Lanes::kRows;
    Q8Block blocks[kPieceBlocks];
    int n_blocks = 0;
    for (int64_t b = piece; b < end && b < piece + kPiece; b += kKvBlock) {
      const auto* page = page_of(b);
      const int64_t next = b + kKvBlock < end ? b + kKvBlock : b, far = b + kPiece < known ? b + kPiece : b;
      blocks[n_blocks] = {page + b % a.page_tokens * a.row_bytes,
                          reinterpret_cast<const float*>(page + a.page_tokens * a.row_bytes),
                          end - b < kKvBlock ? end - b : kKvBlock, page_of(next) + next % a.page_tokens * a.row_bytes,
                          page_of(far) + far % a.page_tokens * a.row_bytes};
      const Q8Block& block = blocks[n_blocks];
      if (a.v_offset != a.k_offset) ask_for(a, block.rows, block.keys, a.v_offset, a.v_dim);
      if (Lanes::kKeys == 1 && block.next != block.rows) ask_for(a, block.next, block.keys, a.k_offset, a.k_dim());
      score_block<Lanes>(a, s, block, first, s.scores + n_blocks * kKvBlock * s.rows);
      ++n_blocks;
    }
    for (int64_t i = first; i < s.rows; i += Lanes::kRows) {
      for (int64_t r = i; r < i + Lanes::kRows; ++r) s.seen[r] = static_cast<float>(seen_by(r) - piece);
      seen_by(i) - piece >= n_blocks* kKvBlock ? weigh<Lanes, true>(a, s, blocks, n_blocks, i)
                                               : weigh<Lanes, false>(a, s, blocks, n_blocks, i);
    }
    add_values<Lanes>(a, s, blocks, n_blocks, first);
  }
  std::memcpy(a.max, s.max, static_cast<size_t>(a.n_q) * sizeof(float));
  std::memcpy(a.sum, s.sum, static_cast<size_t>(a.n_q) * sizeof(float));
  order_dimensions(a);
}

inline void attend_q8(const AttendQ8Args& a) {
  a.n_q <= kMostFewRows ? attend_q8_in<Few>(a) : attend_q8_in<Many>(a);
}

inline void attend_q8_merge(const AttendPart& add_part, const AttendPart& to, int64_t n) {
  if (*add_part.sum == 0) return;
  const float now = *to.max > *add_part.max ? *to.max : *add_part.max;
  const float a = *to.max == now ? 1.0f : __builtin_exp2f(*to.max - now);
  const float b = *add_part.max == now ? 1.0f : __builtin_exp2f(*add_part.max - now);
  *to.max = now;
  *to.sum = __builtin_fmaf(*to.sum, a, *add_part.sum * b);
  for (int64_t k = 0; k < n; k += kLanes)
    store(to.out + k, fma(load(to.out + k), set(a), mul(load(add_part.out + k), set(b))));
}
