// Causal attention within documents and its gradient, in blocks. Included inside the level's namespace and target
// region, after train_multiply.h and rows.h; includes nothing itself. Source: Dao 2023, FlashAttention-2.
//
//   S = scale Q K^T      P = softmax(S)      O = P V                       S, P [queries, keys] of a pair of blocks
//   dV += P^T dO   dP = dO V^T   dS = P (dP - delta) scale   dQ = dS K   dK += dS^T Q        delta = rowsum(dO O)
//
// The probabilities of a row of tokens are never held whole. Forward: a block of kQueryBlock queries meets blocks of
// kKeyBlock keys, ascending; the running maximum and sum of a query rescale what was summed before. Backward: P again
// from lse. Everything is transposed, a row a key and a lane a query, so that maxima and sums run down the lanes:
//
//   S^T = K Q^T    O^T += V^T P^T      dP^T = V dO^T    dV += P^T dO    dK += dS^T Q    dQ^T += K^T dS^T
//
// All are multiply_packed on packed operands. Keys and values are packed once for all query blocks, queries once a
// block; P^T and dS^T are written as operands by the pass that makes them. Sums over blocks stay in scratch: in the
// caller's rows, many heads apart, they would fall into few sets of the caches. Blocks outside [doc_start, i] are
// skipped; in those at its border what is outside is set to nothing.
//
// Shapes: q, k [T, k_dim], v, out, dout [T, v_dim]; FLOPs of a pair of blocks: 2 kQueryBlock kKeyBlock (k_dim + v_dim)
// forward, 2 .. (3 k_dim + 2 v_dim) backward; the arithmetic units are the limit.
// Order: blocks ascend and are of fixed size: an output depends on nothing but its inputs.
//
// Lost: a row a query: half of the time at k_dim = 64 went into sums across lanes and clearing parts of rows.
namespace training {

constexpr int64_t kQueryBlock = 64;
constexpr int64_t kKeyBlock = 64;
constexpr int64_t kColumns = kQueryBlock / kLanes;  // registers of a row
static_assert(kQueryBlock % kOperandK == 0 && kKeyBlock % kOperandK == 0);

// ------------------------------------------------------------------------------------------------------------ scratch

// Memory of scratch, cut from the front. With null it only counts.
class Cut {
 public:
  explicit Cut(std::byte* begin) : begin_(begin) {}
  std::byte* bytes(int64_t n) {
    std::byte* p = begin_ == nullptr ? nullptr : begin_ + used_;
    used_ += (n + 63) / 64 * 64;
    return p;
  }
  // Of an operand with numbers of float32, so that one size serves both precisions.
  std::byte* left(int64_t M, int64_t K) { return bytes(M * left_row_bytes<float>(Precision::kFull, K)); }
  std::byte* right(int64_t K, int64_t N) {
    return bytes((N + kPanelN - 1) / kPanelN * right_panel_bytes<float>(Precision::kFull, K));
  }
  float* floats(int64_t n) { return reinterpret_cast<float*>(bytes(4 * n)); }
  int64_t used() const { return used_; }

 private:
  std::byte* begin_;
  int64_t used_ = 0;
};

struct Forward {
  std::byte *keys, *values_t;  // left: K [T, k_dim], V^T [v_dim, T]
  std::byte *queries_t, *p_t;  // right, of a block: Q^T [k_dim, queries], P^T [keys, queries]
  float *scores, *out_t;       // S^T [keys, queries], O^T [v_dim, queries]
  float *top, *total, *keep;   // [queries]: largest score, sum of exponentials, what rescales earlier sums
  Forward(Cut& cut, int64_t T, int64_t k_dim, int64_t v_dim)
      : keys(cut.left(T, k_dim)),
        values_t(cut.left(v_dim, T)),
        queries_t(cut.right(k_dim, kQueryBlock)),
        p_t(cut.right(kKeyBlock, kQueryBlock)),
        scores(cut.floats(kKeyBlock * kQueryBlock)),
        out_t(cut.floats(v_dim * kQueryBlock)),
        top(cut.floats(kQueryBlock)),
        total(cut.floats(kQueryBlock)),
        keep(cut.floats(kQueryBlock)) {}
};

struct Backward {
  std::byte *keys, *values, *keys_t;  // left: K [T, k_dim], V [T, v_dim], K^T [k_dim, T]
  std::byte *queries_t, *douts_t;     // right, of a block: Q^T [k_dim, queries], dO^T [v_dim, queries]
  std::byte *queries, *douts;         // right: Q [queries, k_dim], dO [queries, v_dim]
  std::byte *p_t, *ds_t;              // left: P^T, dS^T [keys, queries]
  std::byte* ds_right;                // right: dS^T [keys, queries]
  float *scores, *dp;                 // S^T, dP^T [keys, queries]
  float *dk, *dv, *dq_t;              // [T, k_dim], [T, v_dim], [k_dim, queries]
  float *lse, *delta;                 // [queries]
  Backward(Cut& cut, int64_t T, int64_t k_dim, int64_t v_dim)
      : keys(cut.left(T, k_dim)),
        values(cut.left(T, v_dim)),
        keys_t(cut.left(k_dim, T)),
        queries_t(cut.right(k_dim, kQueryBlock)),
        douts_t(cut.right(v_dim, kQueryBlock)),
        queries(cut.right(kQueryBlock, k_dim)),
        douts(cut.right(kQueryBlock, v_dim)),
        p_t(cut.left(kKeyBlock, kQueryBlock)),
        ds_t(cut.left(kKeyBlock, kQueryBlock)),
        ds_right(cut.right(kKeyBlock, kQueryBlock)),
        scores(cut.floats(kKeyBlock * kQueryBlock)),
        dp(cut.floats(kKeyBlock * kQueryBlock)),
        dk(cut.floats(T * k_dim)),
        dv(cut.floats(T * v_dim)),
        dq_t(cut.floats(k_dim * kQueryBlock)),
        lse(cut.floats(kQueryBlock)),
        delta(cut.floats(kQueryBlock)) {}
};

inline int64_t attend_scratch_bytes(int64_t T, int64_t k_dim, int64_t v_dim) {
  Cut forward(nullptr), backward(nullptr);
  Forward(forward, T, k_dim, v_dim);
  Backward(backward, T, k_dim, v_dim);
  return (forward.used() > backward.used() ? forward.used() : backward.used()) + 64;
}
inline std::byte* aligned_scratch(std::byte* scratch) {
  return reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(scratch) + 63) / 64 * 64);
}

// ------------------------------------------------------------------------------------------------------------- blocks

KERNEL_INLINE int64_t least(int64_t a, int64_t b) {
  return a < b ? a : b;
}

template <Precision P>
constexpr int64_t kNumberBytes = 4 / kNumbers<P>;

// c [m, n] (+)= rows of words times panels of words, of K numbers each.
template <Precision P>
inline void product(const std::byte* a, int64_t a_row, int64_t m, const std::byte* b, int64_t panel_bytes, int64_t n,
                    int64_t K, float* c, int64_t ldc, bool add) {
  multiply_packed<P>({.a = a,
                      .a_row = a_row,
                      .m = m,
                      .b = b,
                      .panel_bytes = panel_bytes,
                      .n = n,
                      .words = words_of<P>(K),
                      .c = c,
                      .ldc = ldc,
                      .add = add});
}

// What a pair of blocks has to do: queries [i0, i0 + queries), keys [j0, j0 + keys).
struct Pair {
  const TrainAttendArgs<float>& a;
  int64_t i0, queries, j0, keys;
  int64_t rows;  // keys, and as many more as fill an operand
  bool border;   // some query does not see some key
  Pair(const TrainAttendArgs<float>& args, int64_t query, int64_t key)
      : a(args),
        i0(query),
        queries(least(a.T - i0, kQueryBlock)),
        j0(key),
        keys(least(a.T - j0, kKeyBlock)),
        rows(padded_k(keys)),
        border(j0 + keys > i0 || a.doc_start[i0 + queries - 1] > j0 || queries < kQueryBlock || rows != keys) {}
};

// Queries that see a key, counted from i0: from the key itself to the last of its document, since doc_start ascends.
// Asked for keys in ascending order.
class Seen {
 public:
  explicit Seen(const Pair& p) : p_(p) {}
  void next(int64_t row) {
    const int64_t key = p_.j0 + row;
    while (end < p_.queries && p_.a.doc_start[p_.i0 + end] <= key) ++end;
    begin = key > p_.i0 ? least(key - p_.i0, end) : 0;
    if (row >= p_.keys) begin = end;
  }
  int64_t begin = 0, end = 0;

 private:
  const Pair& p_;
};

// exp, for a result that is rounded to the operands' precision: to 2^-18 for bfloat16, by the Taylor series of 2^r.
template <Precision P>
KERNEL_INLINE Floats exp_for(Floats x) {
  if constexpr (P == Precision::kFull) return exp(x);
  x = max(set(-200.0f), mul(x, set(0x1.715476p+0f)));  // a NaN passes
  const Floats n = round_even(x), r = sub(x, n);
  Floats p = set(0x1.5d87fep-10f);
  p = fma(p, r, set(0x1.3b2ab6p-7f));
  p = fma(p, r, set(0x1.c6b08ep-5f));
  p = fma(p, r, set(0x1.ebfbep-3f));
  p = fma(p, r, set(0x1.62e43p-1f));
  p = fma(p, r, set(1.0f));
  return scale_by_power(p, n);
}

// y[c * ld + r] = x[r * kQueryBlock + c] for c < n, r < dim.
inline void store_transposed(const float* x, int64_t dim, int64_t n, float* y, int64_t ld) {
  for (int64_t r = 0; r < dim; r += kLanes) {
    for (int64_t c = 0; c < n; c += kLanes) {
      Ints v[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) v[i] = r + i < dim ? load_i(x + (r + i) * kQueryBlock + c) : zero_i();
      transpose_all(v);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        if (c + i < n) store_some(y + (c + i) * ld + r, as_floats(v[i]), dim - r);
      }
    }
  }
}

// ------------------------------------------------------------------------------------------------------------ forward

constexpr float kNone = -1e30f;  // the largest score before there is one

// Scores of keys that a query does not see become -infinity, of which exp is zero.
inline void mask_scores(const Pair& p, float* scores) {
  Seen seen(p);
  const Floats nothing = set(-__builtin_inff());
  for (int64_t j = 0; j < p.rows; ++j) {
    seen.next(j);
    if (seen.begin == 0 && seen.end == kQueryBlock) continue;
    float* row = scores + j * kQueryBlock;
    for (int64_t c = 0; c < kQueryBlock; c += kLanes)
      store(row + c, keep_range(load(row + c), nothing, seen.begin - c, seen.end - c));
  }
}

// top = max(top, scores), keep = exp(scale (old top - top))
inline void next_tops(const float* scores, int64_t rows, float scale, float* top, float* keep) {
  Floats most[kColumns];
#pragma GCC unroll 8
  for (int c = 0; c < kColumns; ++c) most[c] = load(top + c * kLanes);
  for (int64_t j = 0; j < rows; ++j) {
#pragma GCC unroll 8
    for (int c = 0; c < kColumns; ++c) most[c] = max(most[c], load(scores + j * kQueryBlock + c * kLanes));
  }
#pragma GCC unroll 8
  for (int c = 0; c < kColumns; ++c) {
    store(keep + c * kLanes, exp(mul(set(scale), sub(load(top + c * kLanes), most[c]))));
    store(top + c * kLanes, most[c]);
  }
}

// P^T = exp(scale (S^T - top)) as a right operand; total = total keep + its sums.
template <Precision P>
inline void exponentials(const float* scores, int64_t rows, float scale, const float* top, const float* keep,
                         float* total, std::byte* p_t, int64_t panel_bytes) {
  const Floats factor = set(scale);
  for (int64_t c = 0; c < kQueryBlock; c += kLanes) {
    std::byte* out = p_t + c / kPanelN * panel_bytes + c % kPanelN * 4;
    const Floats most = load(top + c);
    Floats even = zero(), odd = zero();
    for (int64_t j = 0; j < rows; j += 2) {
      const float* row = scores + j * kQueryBlock + c;
      const Floats x = exp_for<P>(mul(factor, sub(load(row), most)));
      const Floats y = exp_for<P>(mul(factor, sub(load(row + kQueryBlock), most)));
      even = add(even, x);
      odd = add(odd, y);
      if constexpr (P == Precision::kBf16) {
        store_i(out + j / 2 * kPanelBytes, pair_bf16(x, y));
      } else {
        store_i(out + j * kPanelBytes, as_ints(x));
        store_i(out + (j + 1) * kPanelBytes, as_ints(y));
      }
    }
    store(total + c, fma(load(total + c), load(keep + c), add(even, odd)));
  }
}

// x[r] *= by, for rows of kQueryBlock.
inline void scale_columns(float* x, int64_t dim, const float* by) {
  for (int64_t c = 0; c < kQueryBlock; c += kLanes) {
    const Floats factor = load(by + c);
    for (int64_t r = 0; r < dim; ++r) store(x + r * kQueryBlock + c, mul(load(x + r * kQueryBlock + c), factor));
  }
}

template <Precision P>
inline void attend_at(const TrainAttendArgs<float>& a) {
  Cut cut(aligned_scratch(a.scratch));
  const Forward s(cut, a.T, a.k_dim, a.v_dim);
  const int64_t key_row = left_row_bytes<float>(P, a.k_dim), value_row = left_row_bytes<float>(P, a.T);
  const int64_t query_panel = right_panel_bytes<float>(P, a.k_dim), p_panel = right_panel_bytes<float>(P, kKeyBlock);
  pack_rows<P>(a.k, a.k_stride, a.T, a.k_dim, s.keys, key_row);
  pack_rows_transposed<P>(a.v, a.v_stride, a.v_dim, a.T, s.values_t, value_row);
  for (int64_t i0 = 0; i0 < a.T; i0 += kQueryBlock) {
    const int64_t queries = least(a.T - i0, kQueryBlock);
    pack_panels_transposed<P>(a.q + i0 * a.q_stride, a.q_stride, queries, a.k_dim, s.queries_t, query_panel);
    for (int64_t i = 0; i < kQueryBlock; ++i) s.top[i] = kNone, s.total[i] = 0;
    const int64_t first_key = a.doc_start[i0] / kKeyBlock * kKeyBlock;
    for (int64_t j0 = first_key; j0 < i0 + queries; j0 += kKeyBlock) {
      const Pair pair(a, i0, j0);
      // Columns beyond the queries hold anything, and stay by themselves.
      product<P>(s.keys + j0 * key_row, key_row, pair.keys, s.queries_t, query_panel, kQueryBlock, a.k_dim, s.scores,
                 kQueryBlock, false);
      if (pair.border) mask_scores(pair, s.scores);
      next_tops(s.scores, pair.rows, a.scale, s.top, s.keep);
      exponentials<P>(s.scores, pair.rows, a.scale, s.top, s.keep, s.total, s.p_t, p_panel);
      if (j0 > first_key) scale_columns(s.out_t, a.v_dim, s.keep);
      product<P>(s.values_t + j0 * kNumberBytes<P>, value_row, a.v_dim, s.p_t, p_panel, kQueryBlock, pair.keys, s.out_t,
                 kQueryBlock, j0 > first_key);
    }
    for (int64_t i = 0; i < queries; ++i) a.lse[i0 + i] = a.scale * s.top[i] + std::log(s.total[i]);
    for (int64_t c = 0; c < kQueryBlock; c += kLanes) store(s.keep + c, div(set(1.0f), load(s.total + c)));
    scale_columns(s.out_t, a.v_dim, s.keep);
    store_transposed(s.out_t, a.v_dim, queries, a.out + i0 * a.out_stride, a.out_stride);
  }
}

inline void attend(const TrainAttendArgs<float>& a) {
  if (a.precision == Precision::kBf16) return attend_at<Precision::kBf16>(a);
  attend_at<Precision::kFull>(a);
}

// ----------------------------------------------------------------------------------------------------------- backward

// kLanes words, or twice as many, along a row.
template <Precision P>
KERNEL_INLINE void store_along(std::byte* row, int64_t c, Floats a, Floats b) {
  if constexpr (P == Precision::kBf16) {
    store_i(row + 2 * c, to_bf16(a, b));
  } else {
    store_i(row + 4 * c, as_ints(a));
    store_i(row + 4 * (c + kLanes), as_ints(b));
  }
}

// From S^T and dP^T: P^T = exp(scale S^T - lse) and dS^T = P^T (dP^T - delta) scale, as operands.
template <Precision P, bool kBorder>
inline void probabilities_back(const Pair& p, const Backward& s, int64_t row_bytes, int64_t panel_bytes) {
  const Floats factor = set(p.a.scale);
  for (int64_t c = 0; c < kQueryBlock; c += 2 * kLanes) {
    Seen seen(p);
    const Floats lse[2] = {load(s.lse + c), load(s.lse + c + kLanes)};
    const Floats delta[2] = {load(s.delta + c), load(s.delta + c + kLanes)};
    std::byte* right = s.ds_right + c / kPanelN * panel_bytes + c % kPanelN * 4;
    for (int64_t j = 0; j < p.rows; j += 2) {
      Floats ds[2][2];
#pragma GCC unroll 2
      for (int64_t r = 0; r < 2; ++r) {
        const float *scores = s.scores + (j + r) * kQueryBlock + c, *dp = s.dp + (j + r) * kQueryBlock + c;
        if constexpr (kBorder) seen.next(j + r);
        Floats e[2];
#pragma GCC unroll 2
        for (int64_t i = 0; i < 2; ++i) {
          e[i] = exp_for<P>(sub(mul(load(scores + i * kLanes), factor), lse[i]));
          ds[r][i] = mul(mul(e[i], factor), sub(load(dp + i * kLanes), delta[i]));
          if constexpr (kBorder) {
            const int64_t at = c + i * kLanes;
            e[i] = keep_range(e[i], zero(), seen.begin - at, seen.end - at);
            ds[r][i] = keep_range(ds[r][i], zero(), seen.begin - at, seen.end - at);
          }
        }
        store_along<P>(s.p_t + (j + r) * row_bytes, c, e[0], e[1]);
        store_along<P>(s.ds_t + (j + r) * row_bytes, c, ds[r][0], ds[r][1]);
      }
#pragma GCC unroll 2
      for (int64_t i = 0; i < 2; ++i) {
        std::byte* out = right + i * kLanes * 4;
        if constexpr (P == Precision::kBf16) {
          store_i(out + j / 2 * kPanelBytes, pair_bf16(ds[0][i], ds[1][i]));
        } else {
          store_i(out + j * kPanelBytes, as_ints(ds[0][i]));
          store_i(out + (j + 1) * kPanelBytes, as_ints(ds[1][i]));
        }
      }
    }
  }
}

template <Precision P>
inline void attend_backward_at(const TrainAttendArgs<float>& a, const TrainAttendGrad<float>& g) {
  Cut cut(aligned_scratch(a.scratch));
  const Backward s(cut, a.T, a.k_dim, a.v_dim);
  const int64_t key_row = left_row_bytes<float>(P, a.k_dim), value_row = left_row_bytes<float>(P, a.v_dim);
  const int64_t key_t_row = left_row_bytes<float>(P, a.T), pair_row = left_row_bytes<float>(P, kQueryBlock);
  const int64_t q_t_panel = right_panel_bytes<float>(P, a.k_dim), do_t_panel = right_panel_bytes<float>(P, a.v_dim);
  const int64_t block_panel = right_panel_bytes<float>(P, kQueryBlock),
                ds_panel = right_panel_bytes<float>(P, kKeyBlock);
  pack_rows<P>(a.k, a.k_stride, a.T, a.k_dim, s.keys, key_row);
  pack_rows<P>(a.v, a.v_stride, a.T, a.v_dim, s.values, value_row);
  pack_rows_transposed<P>(a.k, a.k_stride, a.k_dim, a.T, s.keys_t, key_t_row);
  std::memset(s.dk, 0, static_cast<size_t>(a.T * a.k_dim) * 4);
  std::memset(s.dv, 0, static_cast<size_t>(a.T * a.v_dim) * 4);
  for (int64_t i0 = 0; i0 < a.T; i0 += kQueryBlock) {
    const int64_t queries = least(a.T - i0, kQueryBlock);
    const float *q = a.q + i0 * a.q_stride, *dout = g.dout + i0 * g.dout_stride;
    pack_panels_transposed<P>(q, a.q_stride, queries, a.k_dim, s.queries_t, q_t_panel);
    pack_panels_transposed<P>(dout, g.dout_stride, queries, a.v_dim, s.douts_t, do_t_panel);
    pack_panels<P>(q, a.q_stride, a.k_dim, queries, s.queries, block_panel);
    pack_panels<P>(dout, g.dout_stride, a.v_dim, queries, s.douts, block_panel);
    for (int64_t i = 0; i < queries; ++i) {
      s.lse[i] = a.lse[i0 + i];
      s.delta[i] = dot(dout + i * g.dout_stride, a.out + (i0 + i) * a.out_stride, a.v_dim);
    }
    const int64_t first_key = a.doc_start[i0] / kKeyBlock * kKeyBlock;
    for (int64_t j0 = first_key; j0 < i0 + queries; j0 += kKeyBlock) {
      const Pair pair(a, i0, j0);
      product<P>(s.keys + j0 * key_row, key_row, pair.keys, s.queries_t, q_t_panel, kQueryBlock, a.k_dim, s.scores,
                 kQueryBlock, false);
      product<P>(s.values + j0 * value_row, value_row, pair.keys, s.douts_t, do_t_panel, kQueryBlock, a.v_dim, s.dp,
                 kQueryBlock, false);
      pair.border ? probabilities_back<P, true>(pair, s, pair_row, ds_panel)
                  : probabilities_back<P, false>(pair, s, pair_row, ds_panel);
      product<P>(s.p_t, pair_row, pair.keys, s.douts, block_panel, a.v_dim, queries, s.dv + j0 * a.v_dim, a.v_dim,
                 true);
      product<P>(s.ds_t, pair_row, pair.keys, s.queries, block_panel, a.k_dim, queries, s.dk + j0 * a.k_dim, a.k_dim,
                 true);
      product<P>(s.keys_t + j0 * kNumberBytes<P>, key_t_row, a.k_dim, s.ds_right, ds_panel, kQueryBlock, pair.keys,
                 s.dq_t, kQueryBlock, j0 > first_key);
    }
    store_transposed(s.dq_t, a.k_dim, queries, g.dq + i0 * g.dq_stride, g.dq_stride);
  }
  for (int64_t j = 0; j < a.T; ++j) {
    axpy(1.0f, s.dk + j * a.k_dim, a.k_dim, g.dk + j * g.dk_stride);
    axpy(1.0f, s.dv + j * a.v_dim, a.v_dim, g.dv + j * g.dv_stride);
  }
}

inline void attend_backward(const TrainAttendArgs<float>& a, const TrainAttendGrad<float>& g) {
  if (a.precision == Precision::kBf16) return attend_backward_at<Precision::kBf16>(a, g);
  attend_backward_at<Precision::kFull>(a, g);
}

}  // namespace training
