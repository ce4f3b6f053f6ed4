// Query rows against cached keys and values. Included inside the level's namespace and target region, after gemm_f32.h
// and rows.h; includes nothing itself.
//
//   scores[i, s] = scale q[i] . k[s]     p = softmax(scores)     out[i] = sum_s p[i, s] v[s]
//
// Shapes: q [n_q, k_dim], k [n_keys, k_dim], v [n_keys, v_dim] in pages, out [n_q, v_dim], scratch [n_q, n_keys].
// Bytes: n_keys (k_dim + v_dim) floats; FLOPs 2 n_q n_keys (k_dim + v_dim): memory is the limit for few query rows, the
// FMA units for the many of MLA. Every key read serves all query rows: kRows keys x kTokens queries a register tile;
// values in blocks of kKeyBlock keys that stay in the L2 cache while all query rows use them.
//
// Order: a score is summed as in gemm_f32, an output element is one chain over ascending s: pages change nothing.

constexpr int64_t kKeyBlock = 64;  // keys; of MLA's 512 values they are 128 KB

// Calls f(pointer to the row of s, s, count) for runs of keys in [begin, end) that lie in one page.
template <typename F>
inline void for_each_run(const AttendArgs& a, int64_t begin, int64_t end, F&& f) {
  for (int64_t s = begin; s < end;) {
    const int64_t in_page = s % a.page_tokens, left = a.page_tokens - in_page;
    const int64_t count = end - s < left ? end - s : left;
    f(a.pages[s / a.page_tokens] + in_page * a.row_stride, s, count);
    s += count;
  }
}

// scores[t][r] = scale * sum(sums[r * NT + t]), t < queries.
template <int R, int NT>
inline void store_scores(const AttendArgs& a, const Floats* sums, int64_t i, int64_t queries, int64_t s) {
  const int64_t keys = a.most_keys();
  for (int64_t t = 0; t < queries; ++t) {
    for (int r = 0; r < R; ++r) a.scratch[(i + t) * keys + s + r] = a.scale * sum(sums[r * NT + t]);
  }
}

#if WESTLAKE_SUM_SIXTEEN
// Scores of four keys with NT query rows: sixteen are summed together, two operations each instead of eight.
template <int NT>
inline void score_four(const AttendArgs& a, const std::byte* keys, int64_t i, int64_t s) {
  const int64_t ld = a.most_keys();
  Floats sums[16];
  for (Floats& each : sums) each = zero();
  multiply<LoadF32, 4, NT>(keys, a.row_stride * 4, nullptr, a.q + i * a.q_stride, a.q_stride, a.k_dim, sums, 4);
  alignas(64) float scores[16];
  store(scores, mul(set(a.scale), sum_sixteen(sums)));
  for (int t = 0; t < NT; ++t) std::memcpy(a.scratch + (i + t) * ld + s, scores + 4 * t, 16);
}
#endif

// Scores of R keys with all query rows.
template <int R>
inline void score_keys(const AttendArgs& a, const float* key, int64_t s) {
  const auto* w = reinterpret_cast<const std::byte*>(key + a.k_offset);
  int64_t i = 0;
#if WESTLAKE_SUM_SIXTEEN
  if constexpr (R == 4) {
    for (; i + 4 <= a.n_q; i += 4) score_four<4>(a, w, i, s);
    if (a.n_q - i == 3) return score_four<3>(a, w, i, s);
    if (a.n_q - i == 2) return score_four<2>(a, w, i, s);
    if (a.n_q - i == 1) return score_four<1>(a, w, i, s);
    return;
  }
#endif
  for (; i < a.n_q; i += kTokens) {
    const int64_t queries = a.n_q - i < kTokens ? a.n_q - i : kTokens;
    Floats sums[R * kTokens];
    for (Floats& each : sums) each = zero();
    multiply_tokens<LoadF32, R>(w, a.row_stride * 4, a.q + i * a.q_stride, a.q_stride, queries, a.k_dim, sums, kTokens);
    store_scores<R, kTokens>(a, sums, i, queries, s);
  }
}

// out[t][0 .. V kLanes) += sum_s p[t][s] v[s][...] over keys of one page.
template <int NT>
inline void add_values(const AttendArgs& a, const float* values, int64_t s, int64_t count, int64_t i) {
  const int64_t keys = a.most_keys();
  accumulate_columns<NT>(values + a.v_offset, a.row_stride, count, a.scratch + i * keys + s, keys,
                         a.out + i * a.out_stride, a.out_stride, a.v_dim);
}

inline void attend(const AttendArgs& a) {
  const int64_t keys = a.most_keys();
  for_each_run(a, 0, keys, [&](const float* rows, int64_t s, int64_t count) {
    int64_t j = 0;
    for (; j + kRows <= count; j += kRows) score_keys<kRows>(a, rows + j * a.row_stride, s + j);
    for (; j < count; ++j) score_keys<1>(a, rows + j * a.row_stride, s + j);
  });
  for (int i = 0; i < a.n_q; ++i) {
    float* p = a.scratch + i * keys;
    const int64_t seen = a.keys_of(i);
    softmax(p, seen);
    std::memset(p + seen, 0, static_cast<size_t>(keys - seen) * sizeof(float));  // what others see adds nothing here
    std::memset(a.out + i * a.out_stride, 0, static_cast<size_t>(a.v_dim) * sizeof(float));
  }
  constexpr int kNT = kLanes == 16 ? 4 : 2;
  for (int64_t s0 = 0; s0 < keys; s0 += kKeyBlock) {
    const int64_t end = keys - s0 < kKeyBlock ? keys : s0 + kKeyBlock;
    for_each_run(a, s0, end, [&](const float* rows, int64_t s, int64_t count) {
      int64_t i = 0;
      for (; i + kNT <= a.n_q; i += kNT) add_values<kNT>(a, rows, s, count, i);
      if constexpr (kNT == 4) {
        if (a.n_q - i == 3) return add_values<3>(a, rows, s, count, i);
        if (a.n_q - i == 2) return add_values<2>(a, rows, s, count, i);
      }
      if (i < a.n_q) add_values<1>(a, rows, s, count, i);
    });
  }
}
