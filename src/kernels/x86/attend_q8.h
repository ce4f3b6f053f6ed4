// Query rows against keys and values in int8. Included inside the level's namespace and target region, after
// gemm_f32.h, rows.h and attend.h; includes nothing itself.
//
//   for each block of kKvBlock keys:  dots = q k (int32)      scores = scales x dots
//                                     w = exp(scores - max) x scale of v, as 14-bit integers W = 128 hi + lo
//                                     out = out exp(old max - max) + factor (sum_s W v)          sum likewise
//
// Shapes: q [n_q, k_dim] float32, quantised here once; k and v rows of int8 in pages, v [64, v_dim] is turned to four
// keys side by side once a block for all rows. Bytes: keys (k_dim + v_dim); operations 2 n_q (k_dim + 2 v_dim) a key in
// int8: with MLA's many rows the dot units are the limit.
//
// Order: a row's result depends on nothing but its q and the keys from `begin` on: not on the other rows.

constexpr int kGroupDims = 4 * kLanes;              // of v: four registers of kLanes dimensions x four keys
constexpr int kDotRows = 4;                         // query rows of a register tile of q k
constexpr int kDotKeys = kLanes == 16 ? 4 : 2;      // keys of it
constexpr int64_t kTurnRows = 12, kTurnDims = 128;  // keys are turned for so many rows, up to so many dimensions
constexpr int kValueRows = kLanes == 16 ? 3 : 1;    // query rows of a register tile of W v: 8 registers each

// As ref. total: the sum of qs.
inline float quantise_row(const float* x, int64_t n, int8_t* qs, int32_t* total) {
  const int64_t whole = n / 32 * 32;
  uint32_t bits = 0;  // of the largest magnitude; NaN last
  for (int64_t i = 0; i < whole; i += 32) {
    const uint32_t b = largest_magnitude_bits(load_block(x + i));
    bits = b > bits ? b : bits;
  }
  for (int64_t i = whole; i < n; ++i) {
    uint32_t b;
    std::memcpy(&b, x + i, 4);
    b &= 0x7fffffff;
    bits = b > bits ? b : bits;
  }
  float largest_value;
  std::memcpy(&largest_value, &bits, 4);
  *total = 0;
  if (bits >= 0x7f800000 || largest_value < 0x1p-100f) {
    std::memset(qs, 0, static_cast<size_t>(n));
    return bits >= 0x7f800000 ? __builtin_nanf("") : 0.0f;
  }
  const float inverse = 127.0f / largest_value;
  int16_t sums[2];
  for (int64_t i = 0; i < whole; i += 32) {
    store_rounded(load_block(x + i), inverse, qs + i, sums);
    *total += sums[0] + sums[1];
  }
  for (int64_t i = whole; i < n; ++i) {
    qs[i] = static_cast<int8_t>(__builtin_nearbyintf(x[i] * inverse));
    *total += qs[i];
  }
  return largest_value / 127.0f;
}

inline float quantise_row(const float* x, int64_t n, int8_t* qs) {
  int32_t total;
  return quantise_row(x, n, qs, &total);
}

// What one call keeps in its scratch.
struct Q8Scratch {
  int8_t* q;        // [n_q, k_dim]
  float* q_scale;   // [n_q, 2], times the scale of the scores
  int32_t* q_sums;  // [n_q, 2]: 128 x the sums of q, what dot4_both adds too much
  int8_t* keys;     // [k_dim / 4][64 keys][4]: keys of a block, where they are turned
  int8_t* values;   // [v_dim / kGroupDims][16 quads][4][4 kLanes]: v of a block, four keys side by side
  uint8_t* high;    // [n_q, 64]: W / 128
  uint8_t* low;     // [n_q, 64]: W mod 128
  float* factor;    // [n_q]: of the block's sums
  float* fade;      // [n_q]: exp(old max - new max)
};

inline Q8Scratch q8_scratch(const AttendQ8Args& a) {
  std::byte* p = a.scratch;
  const auto take = [&](int64_t bytes) {
    std::byte* at = p;
    p += (bytes + 63) / 64 * 64;
    return at;
  };
  const int64_t n = a.n_q;
  Q8Scratch s;
  s.q = reinterpret_cast<int8_t*>(take(n * a.k_dim()));
  s.q_scale = reinterpret_cast<float*>(take(n * 8));
  s.q_sums = reinterpret_cast<int32_t*>(take(n * 8));
  s.keys = reinterpret_cast<int8_t*>(take(kKvBlock * a.k_dim()));
  s.values = reinterpret_cast<int8_t*>(take(kKvBlock * a.v_dim));
  s.high = reinterpret_cast<uint8_t*>(take(n * kKvBlock));
  s.low = reinterpret_cast<uint8_t*>(take(n * kKvBlock));
  s.factor = reinterpret_cast<float*>(take(n * 4));
  s.fade = reinterpret_cast<float*>(take(n * 4));
  return s;
}

// dots[t][r] of NT query rows and kDotKeys keys over n dimensions.
template <int NT>
inline void dot_keys(const int8_t* keys, int64_t key_stride, const int8_t* q, int64_t q_stride, int64_t n,
                     int32_t* dots, int64_t ld_dots) {
  constexpr int kRows = kDotKeys * NT == 16 || kDotKeys < 4 ? NT : 4;  // sum_sixteen wants as many
  Ints sums[kDotKeys * kRows];
#pragma GCC unroll 16
  for (Ints& each : sums) each = zero_i();
  for (int64_t k = 0; k < n; k += kGroupDims) {
    Ints rows[NT];
#pragma GCC unroll 4
    for (int t = 0; t < NT; ++t) rows[t] = load_i(q + t * q_stride + k);
#pragma GCC unroll 4
    for (int r = 0; r < kDotKeys; ++r) {
      const Ints key = wide(load_i(keys + r * key_stride + k));
#pragma GCC unroll 4
      for (int t = 0; t < NT; ++t) sums[r * kRows + t] = dot4_both(sums[r * kRows + t], key, rows[t]);
    }
  }
#if WESTLAKE_SUM_SIXTEEN
  if constexpr (kRows == 4) {
    alignas(64) int32_t all[16];
    store_i(all, sum_sixteen(sums));
    for (int t = 0; t < NT; ++t) std::memcpy(dots + t * ld_dots, all + 4 * t, 16);
    return;
  }
#endif
  for (int t = 0; t < NT; ++t) {
    for (int r = 0; r < kDotKeys; ++r) dots[t * ld_dots + r] = sum(sums[r * kRows + t]);
  }
}

// Keys of a block turned: register (k / 4, j) holds four dimensions from k on of keys [j kLanes, (j + 1) kLanes). With
// many rows and short keys the sums over lanes cost more than the products, turned keys need none.
inline void turn_keys(const int8_t* keys, int64_t stride, int64_t n, int8_t* out) {
  for (int64_t r = 0; r < kKvBlock; r += kLanes) {
    for (int64_t k = 0; k < n; k += 16) {
      Ints v[4];
      load_rows(reinterpret_cast<const std::byte*>(keys + r * stride + k), stride, v);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) store_i(out + (k + 4 * j) * kKvBlock + 4 * r, wide(v[j]));
    }
  }
}

// As dot_keys, of all keys of a block.
template <int NT>
inline void dot_turned(const int8_t* turned, const int8_t* q, int64_t q_stride, int64_t n, int32_t* dots,
                       int64_t ld_dots) {
  constexpr int kVectors = kKvBlock / kLanes;
  Ints sums[NT][kVectors];
#pragma GCC unroll 4
  for (int t = 0; t < NT; ++t) {
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) sums[t][j] = zero_i();
  }
  for (int64_t k = 0; k < n; k += 4) {
    Ints rows[NT];
#pragma GCC unroll 4
    for (int t = 0; t < NT; ++t) rows[t] = broadcast_4(q + t * q_stride + k);
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) {
      const Ints key = load_i(turned + k * kKvBlock + 4 * j * kLanes);
#pragma GCC unroll 4
      for (int t = 0; t < NT; ++t) sums[t][j] = dot4_both(sums[t][j], key, rows[t]);
    }
  }
#pragma GCC unroll 4
  for (int t = 0; t < NT; ++t) {
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) store_i(dots + t * ld_dots + j * kLanes, sums[t][j]);
  }
}

// dots[t][p][k] of `count` query rows from q on with part p of keys [0, most) of a block. turned: null, or the part.
inline void dot_part(const int8_t* keys, int64_t key_stride, const int8_t* turned, int64_t most, const int8_t* q,
                     int64_t q_stride, int64_t count, int64_t n, int32_t* dots) {
  constexpr int64_t ld = 2 * kKvBlock;
  if (turned != nullptr) {
    int64_t t = 0;
    if constexpr (kLanes == 16) {
      if (count == 4) return dot_turned<4>(turned, q, q_stride, n, dots, ld);
      if (count == 3) return dot_turned<3>(turned, q, q_stride, n, dots, ld);
    }
    for (; t < count; ++t) dot_turned<1>(turned, q + t * q_stride, q_stride, n, dots + t * ld, ld);
    return;
  }
  for (int64_t k = 0; k < most; k += kDotKeys) {
    const int8_t* some = keys + k * key_stride;
    if (count == 4) {
      dot_keys<4>(some, key_stride, q, q_stride, n, dots + k, ld);
    } else if (count == 3) {
      dot_keys<3>(some, key_stride, q, q_stride, n, dots + k, ld);
    } else {
      for (int64_t t = 0; t < count; ++t)
        dot_keys<1>(some, key_stride, q + t * q_stride, q_stride, n, dots + t * ld + k, ld);
    }
  }
}

// The scores of one row in a block to weights; max and sum of the row move on.
inline void weigh(const AttendQ8Args& a, const Q8Scratch& s, const float* scales, const int32_t* dots, int64_t i,
                  int64_t seen) {
  constexpr int kVectors = kKvBlock / kLanes;
  alignas(64) float part[kKvBlock];  // of a block that is not seen whole
  Floats score[kVectors];
#pragma GCC unroll 8
  for (int j = 0; j < kVectors; ++j) {
    score[j] = zero();
    for (int p = 0; p < a.k_parts; ++p) {
      const Ints dot = sub_i(load_i(dots + p * kKvBlock + j * kLanes), set_i(s.q_sums[2 * i + p]));
      const Floats scale = mul(set(s.q_scale[2 * i + p]), load(scales + a.k_scale[p] * kKvBlock + j * kLanes));
      score[j] = fma(scale, to_float(dot), score[j]);
    }
  }
  if (seen < kKvBlock) {
    for (int j = 0; j < kVectors; ++j) store(part + j * kLanes, score[j]);
    for (int64_t k = seen; k < kKvBlock; ++k) part[k] = -__builtin_inff();
    for (int j = 0; j < kVectors; ++j) score[j] = load(part + j * kLanes);
  }
  Floats tops = score[0];
#pragma GCC unroll 8
  for (int j = 1; j < kVectors; ++j) tops = max(tops, score[j]);
  const float before = a.max[i], top = largest(tops), now = before > top ? before : top;
  Floats sums = zero(), most = zero();
#pragma GCC unroll 8
  for (int j = 0; j < kVectors; ++j) {
    const Floats e = exp(sub(score[j], set(now)));
    sums = add(sums, e);
    score[j] = e;
  }
  // Behind the last key scales may be anything.
  const float* v_scales = scales + a.v_scale * kKvBlock;
  if (seen < kKvBlock) {
    std::memcpy(part, v_scales, static_cast<size_t>(seen) * sizeof(float));
    std::memset(part + seen, 0, static_cast<size_t>(kKvBlock - seen) * sizeof(float));
    v_scales = part;
  }
#pragma GCC unroll 8
  for (int j = 0; j < kVectors; ++j) {
    score[j] = mul(score[j], load(v_scales + j * kLanes));
    most = max(most, score[j]);
  }
  const float largest_weight = largest(most);
  const float steps = largest_weight > 0x1p-100f ? kQ8WeightSteps / largest_weight : 0.0f;
#pragma GCC unroll 8
  for (int j = 0; j < kVectors; ++j)
    store_weights(mul(score[j], set(steps)), s.high + i * kKvBlock + j * kLanes, s.low + i * kKvBlock + j * kLanes);
  s.fade[i] = before == now ? 1.0f : __builtin_expf(before - now);
  s.factor[i] = steps > 0 ? largest_weight / kQ8WeightSteps : 0.0f;
  a.max[i] = now;
  a.sum[i] = __builtin_fmaf(a.sum[i], s.fade[i], sum(sums));
}

// Values of up to 64 keys, four keys side by side.
inline void turn_values(const int8_t* v, int64_t stride, int64_t quads, int64_t v_dim, int8_t* out) {
  for (int64_t g = 0; g < v_dim / kGroupDims; ++g) {
    for (int64_t quad = 0; quad < quads; ++quad) {
      const int8_t* p = v + 4 * quad * stride + g * kGroupDims;
      interleave_four(p, stride, out + (g * (kKvBlock / 4) + quad) * 4 * kGroupDims);
    }
  }
}

// out rows [i, i + NR) = out fade + factor (W v), kGroupDims dimensions. The lanes of out stay in the order that
// interleave_four makes until the end.
template <int NR>
inline void add_group(const Q8Scratch& s, const int8_t* values, int64_t quads, int64_t i, float* out, int64_t ld) {
  Ints high[NR][4], low[NR][4];
#pragma GCC unroll 3
  for (int r = 0; r < NR; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) high[r][j] = low[r][j] = zero_i();
  }
  for (int64_t quad = 0; quad < quads; ++quad) {
    Ints v[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) v[j] = load_i(values + (4 * quad + j) * kGroupDims);
#pragma GCC unroll 3
    for (int r = 0; r < NR; ++r) {
      const Ints h = broadcast_4(s.high + (i + r) * kKvBlock + 4 * quad);
      const Ints l = broadcast_4(s.low + (i + r) * kKvBlock + 4 * quad);
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

// Asks for the keys and values of the block from b on: a line or two of every row, too far apart for the hardware's own
// prefetcher.
inline void prefetch_block(const AttendQ8Args& a, int64_t b, int64_t end) {
  if (b >= end) return;
  const auto* page = reinterpret_cast<const std::byte*>(a.pages[b / a.page_tokens] + a.layer_offset);
  const std::byte* row = page + b % a.page_tokens * a.row_bytes;
  const int64_t count = end - b < kKvBlock ? end - b : kKvBlock;
  for (int64_t i = 0; i < count; ++i, row += a.row_bytes) {
    for (int64_t k = 0; k < a.k_dim(); k += 64) prefetch(row + a.k_offset + k);
    if (a.v_offset == a.k_offset) continue;  // the values are the keys
    for (int64_t k = 0; k < a.v_dim; k += 64) prefetch(row + a.v_offset + k);
  }
}

inline void attend_q8(const AttendQ8Args& a) {
  const Q8Scratch s = q8_scratch(a);
  const int64_t end = a.keys_of(a.n_q - 1) < a.end ? a.keys_of(a.n_q - 1) : a.end;  // pages go no further
  const bool short_keys = a.k_dim() <= kTurnDims;  // long ones are found by the hardware
  if (short_keys) prefetch_block(a, a.begin, end);
  const int64_t k_dim = a.k_dim();
  for (int64_t i = 0; i < a.n_q; ++i) {
    int64_t at = 0;
    for (int p = 0; p < a.k_parts; at += a.k_dims[p++]) {
      int32_t total;
      s.q_scale[2 * i + p] =
          a.scale * quantise_row(a.q + i * a.q_stride + at, a.k_dims[p], s.q + i * k_dim + at, &total);
      s.q_sums[2 * i + p] = kWideOffset * total;
    }
    a.max[i] = -__builtin_inff();
    a.sum[i] = 0;
    std::memset(a.out + i * a.v_dim, 0, static_cast<size_t>(a.v_dim) * sizeof(float));
  }
  alignas(64) int32_t dots[kDotRows][2 * kKvBlock];
  for (int64_t b = a.begin; b < end; b += kKvBlock) {
    if (short_keys) prefetch_block(a, b + kKvBlock, end);
    const int64_t in_page = b % a.page_tokens;
    const auto* page = reinterpret_cast<const int8_t*>(a.pages[b / a.page_tokens] + a.layer_offset);
    const int8_t* rows = page + in_page * a.row_bytes;
    const auto* scales = reinterpret_cast<const float*>(page + a.page_tokens * a.row_bytes);
    const auto seen_by = [&](int64_t i) {
      const int64_t n = (a.keys_of(i) < a.end ? a.keys_of(i) : a.end) - b;
      return n < 0 ? int64_t{0} : n < kKvBlock ? n : kKvBlock;
    };
    const int64_t most = seen_by(a.n_q - 1), quads = (most + 3) / 4;
    const bool turn = a.n_q >= kTurnRows && k_dim <= kTurnDims;
    if (turn) turn_keys(rows + a.k_offset, a.row_bytes, k_dim, s.keys);
    int64_t first = 0;  // rows before it see nothing of this block
    while (first < a.n_q && seen_by(first) == 0) ++first;
    for (int64_t i = first; i < a.n_q; i += kDotRows) {
      const int64_t count = a.n_q - i < kDotRows ? a.n_q - i : kDotRows;
      int64_t at = 0;
      for (int p = 0; p < a.k_parts; at += a.k_dims[p++]) {
        dot_part(rows + a.k_offset + at, a.row_bytes, turn ? s.keys + at * kKvBlock : nullptr, most,
                 s.q + i * k_dim + at, k_dim, count, a.k_dims[p], dots[0] + p * kKvBlock);
      }
      for (int64_t t = 0; t < count; ++t) weigh(a, s, scales, dots[t], i + t, seen_by(i + t));
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
  // The dimensions back to their order: register j, piece L of four lanes holds dimensions 16 L + 4 j ..
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

inline void attend_q8_merge(const AttendPart& add_part, const AttendPart& to, int64_t n) {
  if (*add_part.sum == 0) return;
  const float now = *to.max > *add_part.max ? *to.max : *add_part.max;
  const float a = *to.max == now ? 1.0f : __builtin_expf(*to.max - now);
  const float b = *add_part.max == now ? 1.0f : __builtin_expf(*add_part.max - now);
  *to.max = now;
  *to.sum = __builtin_fmaf(*to.sum, a, *add_part.sum * b);
  for (int64_t k = 0; k < n; k += kLanes)
    store(to.out + k, fma(load(to.out + k), set(a), mul(load(add_part.out + k), set(b))));
}
