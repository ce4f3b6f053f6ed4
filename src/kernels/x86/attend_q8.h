// Query rows against keys and values in int8. Included inside the level's namespace and target region, after rows.h and
// dots_q8.h; includes nothing itself.
//
//   for each block of kKvBlock keys:  dots = q k (int32)      scores = scales x dots
//                                     w = 2^(scores - max) x scale of v, as 14-bit integers W = 128 hi + lo
//                                     out = out 2^(old max - max) + factor (sum_s W v)          sum likewise
//
// Query rows lie in lanes until their weights are known: maxima and sums over keys are additions of registers, never of
// lanes. Then keys lie four side by side, and the lanes are dimensions of the values.
//
// Shapes: q [n_q, k_dim] float32, quantised and packed here once; v [64, v_dim] is turned to four keys side by side
// once a block for all rows. Bytes: keys (k_dim + v_dim); operations 2 n_q (k_dim + 2 v_dim) a key in int8: with MLA's
// many rows the dot units are the limit.
//
// Order: a row's result depends on nothing but its q and the keys from `begin` on: not on the other rows.

constexpr int kGroupDims = 4 * kLanes;            // of v: four registers of kLanes dimensions x four keys
constexpr int kValueRows = kLanes == 16 ? 3 : 1;  // query rows of a register tile of W v: 8 registers each
constexpr int kQuads = kKvBlock / 4;

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

// What one call keeps in its scratch. rows: n_q, up to whole registers of lanes.
struct Q8Scratch {
  int64_t rows;
  std::byte* q;     // [rows / kLanes][k_dim / 4][kLanes][4]
  float* q_scale;   // [2, rows], times the scale of the scores
  float* max;       // [rows]
  float* sum;       // [rows]
  float* factor;    // [rows]: of the block's sums
  float* fade;      // [rows]: 2^(old max - new max)
  float* seen;      // [rows]: keys of the block that a row sees
  float* scores;    // [64, rows], later the weights
  int32_t* offset;  // [2, 64]: what the dots with a key begin with
  int8_t* values;   // [v_dim / kGroupDims][kQuads][4][4 kLanes]: v of a block, four keys side by side
  uint8_t* high;    // [rows / kLanes][kQuads][kLanes][4]: W / 128
  uint8_t* low;     // the same: W mod 128

  const uint8_t* four_of(const uint8_t* weights, int64_t row, int64_t quad) const {
    return weights + ((row / kLanes * kQuads + quad) * kLanes + row % kLanes) * 4;
  }
};

inline Q8Scratch q8_scratch(const AttendQ8Args& a) {
  std::byte* p = a.scratch;
  const auto take = [&](int64_t bytes) {
    std::byte* at = p;
    p += (bytes + 63) / 64 * 64;
    return at;
  };
  const auto floats = [&](int64_t n) { return reinterpret_cast<float*>(take(4 * n)); };
  Q8Scratch s;
  const int64_t n = s.rows = (a.n_q + kLanes - 1) / kLanes * kLanes;
  s.q = take(n * a.k_dim());
  s.q_scale = floats(2 * n);
  s.max = floats(n);
  s.sum = floats(n);
  s.factor = floats(n);
  s.fade = floats(n);
  s.seen = floats(n);
  s.scores = floats(kKvBlock * n);
  s.offset = reinterpret_cast<int32_t*>(take(2 * kKvBlock * 4));
  s.values = reinterpret_cast<int8_t*>(take(kKvBlock * a.v_dim));
  s.high = reinterpret_cast<uint8_t*>(take(n * kKvBlock));
  s.low = reinterpret_cast<uint8_t*>(take(n * kKvBlock));
  return s;
}

// q to int8 and side by side. Lanes behind the last row repeat nothing: they are zero.
inline void pack_queries(const AttendQ8Args& a, const Q8Scratch& s) {
  auto* row_major = reinterpret_cast<int8_t*>(s.scores);  // [kLanes, part], not used yet
  int64_t at = 0;
  for (int p = 0; p < a.k_parts; at += a.k_dims[p++]) {
    const int64_t K = a.k_dims[p];
    for (int64_t i = 0; i < s.rows; ++i) {
      int8_t* qs = row_major + i % kLanes * K;
      if (i < a.n_q) {
        s.q_scale[p * s.rows + i] = a.scale * quantise_row(a.q + i * a.q_stride + at, K, qs);
      } else {
        s.q_scale[p * s.rows + i] = 0;
        std::memset(qs, 0, static_cast<size_t>(K));
      }
      if (i % kLanes == kLanes - 1) pack_lanes(row_major, K, s.q + (i - i % kLanes) * a.k_dim() + at * kLanes);
    }
  }
}

// Scores of NQ registers of rows, the first of them row i, with the first `keys` of a block (a few more, up to a tile).
template <int NQ>
inline void score_block(const AttendQ8Args& a, const Q8Scratch& s, const int8_t* rows, const float* scales, int64_t i,
                        int64_t keys) {
  for (int64_t k = 0; k < keys; k += kTileKeys<NQ>) {
    int64_t at = 0;
    for (int p = 0; p < a.k_parts; at += a.k_dims[p++]) {
      Ints dots[NQ * kTileKeys<NQ>];
      dot_tile<NQ>(s.q + i * a.k_dim() + at * kLanes, kLanes * a.k_dim(), a.k_dims[p],
                   rows + k * a.row_bytes + a.k_offset + at, a.row_bytes, s.offset + p * kKvBlock + k, dots);
#pragma GCC unroll 4
      for (int j = 0; j < NQ; ++j) {
        const Floats q_scale = load(s.q_scale + p * s.rows + i + j * kLanes);
#pragma GCC unroll 16
        for (int r = 0; r < kTileKeys<NQ>; ++r) {
          float* score = s.scores + (k + r) * s.rows + i + j * kLanes;
          const Floats scale = mul(q_scale, set(scales[a.k_scale[p] * kKvBlock + k + r]));
          store(score, fma(scale, to_float(dots[r * NQ + j]), p == 0 ? zero() : load(score)));
        }
      }
    }
  }
}

// Scores of rows [i, i + kLanes) to weights; max and sum of the rows move on. all: every row sees the whole block.
template <bool all>
inline void weigh(const AttendQ8Args& a, const Q8Scratch& s, const float* scales, int64_t i) {
  float* x = s.scores + i;
  const Floats seen = load(s.seen + i), before = load(s.max + i), none = set(-__builtin_inff());
  Floats tops[4] = {none, none, none, none};
  for (int64_t k = 0; k < kKvBlock; k += 4) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      Floats score = load(x + (k + j) * s.rows);
      if constexpr (!all) {  // behind the last key scores may be anything
        score = where_less(set(static_cast<float>(k + j)), seen, score, none);
        store(x + (k + j) * s.rows, score);
      }
      tops[j] = max(tops[j], score);
    }
  }
  const Floats now = max(before, max(max(tops[0], tops[1]), max(tops[2], tops[3])));
  const Floats base = max(set(-3e38f), now);  // a row that has seen nothing yet: every power is 0
  Floats sums[4] = {zero(), zero(), zero(), zero()}, most[4] = {zero(), zero(), zero(), zero()};
  for (int64_t k = 0; k < kKvBlock; k += 4) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const Floats e = power2(sub(load(x + (k + j) * s.rows), base));
      sums[j] = add(sums[j], e);
      Floats w = mul(e, set(scales[a.v_scale * kKvBlock + k + j]));
      if constexpr (!all) w = where_less(set(static_cast<float>(k + j)), seen, w, zero());
      store(x + (k + j) * s.rows, w);
      most[j] = max(most[j], w);
    }
  }
  const Floats largest_weight = max(max(most[0], most[1]), max(most[2], most[3]));
  const Floats some = set(0x1p-100f);
  const Floats steps = where_less(some, largest_weight, div(set(kQ8WeightSteps), largest_weight), zero());
  const Ints bytes = set_i(0x007f007f), upper = set_i(0x7f007f00);
  for (int64_t k = 0; k < kKvBlock; k += 4) {
    Ints w[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) w[j] = rounded(mul(load(x + (k + j) * s.rows), steps));
    const Ints even = bitor_i(w[0], shift_left(w[2], 16)), odd = bitor_i(w[1], shift_left(w[3], 16));
    const int64_t at = (i * kQuads + k / 4 * kLanes) * 4;
    store_i(s.high + at, bitor_i(bitand_i(shift_right(even, 7), bytes), bitand_i(shift_left(odd, 1), upper)));
    store_i(s.low + at, bitor_i(bitand_i(even, bytes), bitand_i(shift_left(odd, 8), upper)));
  }
  const Floats fade = power2(sub(before, base));
  store(s.fade + i, fade);
  store(s.factor + i, where_less(some, largest_weight, mul(largest_weight, set(1.0f / kQ8WeightSteps)), zero()));
  store(s.max + i, now);
  store(s.sum + i, fma(load(s.sum + i), fade, add(add(sums[0], sums[1]), add(sums[2], sums[3]))));
}

// Values of up to 64 keys, four keys side by side.
inline void turn_values(const int8_t* v, int64_t stride, int64_t quads, int64_t v_dim, int8_t* out) {
  for (int64_t g = 0; g < v_dim / kGroupDims; ++g) {
    for (int64_t quad = 0; quad < quads; ++quad) {
      const int8_t* p = v + 4 * quad * stride + g * kGroupDims;
      interleave_four(p, stride, out + (g * kQuads + quad) * 4 * kGroupDims);
    }
  }
}

// out rows [i, i + NR) = out fade + factor (W v), kGroupDims dimensions. The lanes of out stay in the order that
// interleave_four makes until the end.
template <int NR>
inline void add_group(const Q8Scratch& s, const int8_t* values, int64_t quads, int64_t i, float* out, int64_t ld) {
  Ints high[NR][4], low[NR][4];
  const uint8_t *h_row[NR], *l_row[NR];
#pragma GCC unroll 3
  for (int r = 0; r < NR; ++r) {
    h_row[r] = s.four_of(s.high, i + r, 0);
    l_row[r] = s.four_of(s.low, i + r, 0);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) high[r][j] = low[r][j] = zero_i();
  }
  for (int64_t quad = 0; quad < quads; ++quad) {
    Ints v[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) v[j] = load_i(values + (4 * quad + j) * kGroupDims);
#pragma GCC unroll 3
    for (int r = 0; r < NR; ++r) {
      const Ints h = broadcast_4(h_row[r] + quad * 4 * kLanes);
      const Ints l = broadcast_4(l_row[r] + quad * 4 * kLanes);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        high[r][j] = dot4_vectors(high[r][j], h, v[j]);
        low[r][j] = dot4_vectors(low[r][j], l, v[j]);
      }
    }
  }
#pragma GCC unroll 3
  for (int r = 0; r < NR; ++r) {
    const Floats fade = set(s.fade[i + r]), factor = set(s.factor[i + r]);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      float* y = out + r * ld + j * kLanes;
      const Floats whole = to_float(add_i(shift_left(high[r][j], 7), low[r][j]));
      store(y, fma(factor, whole, mul(fade, load(y))));
    }
  }
}

// Dots of all rows from `first` on, as many registers together as there are.
inline void score_rows(const AttendQ8Args& a, const Q8Scratch& s, const int8_t* rows, const float* scales,
                       int64_t first, int64_t keys) {
  int64_t i = first;
  if constexpr (kLanes == 16) {
    for (; i + 4 * kLanes <= s.rows; i += 4 * kLanes) score_block<4>(a, s, rows, scales, i, keys);
  }
  for (; i + 2 * kLanes <= s.rows; i += 2 * kLanes) score_block<2>(a, s, rows, scales, i, keys);
  for (; i < s.rows; i += kLanes) score_block<1>(a, s, rows, scales, i, keys);
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

inline void attend_q8(const AttendQ8Args& a) {
  const Q8Scratch s = q8_scratch(a);
  pack_queries(a, s);
  for (int64_t i = 0; i < s.rows; ++i) s.max[i] = -__builtin_inff(), s.sum[i] = 0;
  std::memset(a.out, 0, static_cast<size_t>(a.n_q * a.v_dim) * sizeof(float));
  const int64_t end = a.keys_of(a.n_q - 1) < a.end ? a.keys_of(a.n_q - 1) : a.end;  // pages go no further
  for (int64_t b = a.begin; b < end; b += kKvBlock) {
    const int64_t in_page = b % a.page_tokens;
    const auto* page = reinterpret_cast<const int8_t*>(a.pages[b / a.page_tokens] + a.layer_offset + a.page_offset);
    const int8_t* rows = page + in_page * a.row_bytes;
    const auto* scales = reinterpret_cast<const float*>(page + a.page_tokens * a.row_bytes);
    const auto seen_by = [&](int64_t i) {  // rows behind the last see what the last one does
      const int64_t keys = a.keys_of(i < a.n_q ? i : a.n_q - 1), n = (keys < a.end ? keys : a.end) - b;
      return n < 0 ? int64_t{0} : n < kKvBlock ? n : kKvBlock;
    };
    const int64_t most = seen_by(a.n_q - 1), quads = (most + 3) / 4;
    int64_t first = 0;  // rows before it see nothing of this block
    while (seen_by(first + kLanes - 1) == 0) first += kLanes;
    int64_t at = 0;
    for (int p = 0; p < a.k_parts; at += a.k_dims[p++])
      key_offsets(rows + a.k_offset + at, a.row_bytes, kKvBlock, a.k_dims[p], s.offset + p * kKvBlock);
    score_rows(a, s, rows, scales, first, most);
    for (int64_t i = first; i < s.rows; i += kLanes) {
      for (int64_t r = i; r < i + kLanes; ++r) s.seen[r] = static_cast<float>(seen_by(r));
      seen_by(i) == kKvBlock ? weigh<true>(a, s, scales, i) : weigh<false>(a, s, scales, i);
    }
    turn_values(rows + a.v_offset, a.row_bytes, quads, a.v_dim, s.values);
    for (int64_t g = 0; g < a.v_dim / kGroupDims; ++g) {
      const int8_t* values = s.values + g * kKvBlock * kGroupDims;
      float* out = a.out + g * kGroupDims;
      int64_t i = first;
      for (; i + kValueRows <= a.n_q; i += kValueRows)
        add_group<kValueRows>(s, values, quads, i, out + i * a.v_dim, a.v_dim);
      for (; i < a.n_q; ++i) add_group<1>(s, values, quads, i, out + i * a.v_dim, a.v_dim);
    }
  }
  std::memcpy(a.max, s.max, static_cast<size_t>(a.n_q) * sizeof(float));
  std::memcpy(a.sum, s.sum, static_cast<size_t>(a.n_q) * sizeof(float));
  order_dimensions(a);
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
