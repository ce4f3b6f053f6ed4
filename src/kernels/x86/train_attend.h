// Causal attention within documents and its gradient, in blocks. Included inside the level's namespace and target
// region, after train_products.h and rows.h; includes nothing itself. Source: Dao 2023, FlashAttention-2.
//
//   S = scale Q K^T      P = softmax(S)      O = P V                       S, P [queries, keys] of a pair of blocks
//   dV += P^T dO   dP = dO V^T   dS = P (dP - delta) scale   dQ = dS K   dK += dS^T Q        delta = rowsum(dO O)
//
// The probabilities of a row of tokens are never held whole. Forward: a block of kQueryBlock queries meets blocks of
// kKeyBlock keys, ascending; the running maximum and sum of a row rescale what was summed before. Backward: P again
// from lse; S and dP are computed transposed, so that P^T and dS^T are left operands as they lie.
// All products are multiply_block on packed operands: keys and values are packed once for all query blocks, queries
// once a block. Blocks outside [doc_start, i] are skipped; in those at its border what is outside is set to nothing.
//
// Shapes: q, k [T, k_dim], v, out, dout [T, v_dim]; FLOPs of a pair of blocks: 2 kQueryBlock kKeyBlock (k_dim + v_dim)
// forward, 2 .. (3 k_dim + 2 v_dim) backward; the arithmetic units are the limit, and exp a third of it at k_dim = 64.
// Order: blocks ascend and are of fixed size: an output depends on nothing but its inputs.
namespace training {

constexpr int64_t kQueryBlock = 64;
constexpr int64_t kKeyBlock = 128;     // forward: scores of a pair of blocks are 32 KB
constexpr int64_t kBackKeyBlock = 64;  // backward: two of 16 KB

// ---------------------------------------------------------------------------------------------------------- operands

// Memory of scratch, cut from the front. With null it only counts.
class Cut {
 public:
  explicit Cut(std::byte* at) : begin_(at), at_(0) {}
  std::byte* bytes(int64_t n) {
    std::byte* p = begin_ == nullptr ? nullptr : begin_ + at_;
    at_ += (n + 63) / 64 * 64;
    return p;
  }
  float* floats(int64_t n) { return reinterpret_cast<float*>(bytes(4 * n)); }
  int64_t used() const { return at_; }

 private:
  std::byte* begin_;
  int64_t at_;
};

inline int64_t right_operand_bytes(int64_t K, int64_t N) {
  return (N + kPanelN - 1) / kPanelN * right_panel_bytes<float>(Precision::kFull, K);
}
inline int64_t left_operand_bytes(int64_t M, int64_t K) {
  return M * left_row_bytes<float>(Precision::kFull, K);
}

// Scratch of the forward pass. Sized for float32 operands, so that one size serves both precisions.
struct Forward {
  std::byte *keys, *values;  // K^T [k_dim, T], V [T, v_dim]: right operands
  std::byte *queries, *p;    // a block: left operands
  float* scores;             // [kQueryBlock, kKeyBlock]
  explicit Forward(Cut& cut, int64_t T, int64_t k_dim, int64_t v_dim)
      : keys(cut.bytes(right_operand_bytes(k_dim, T))),
        values(cut.bytes(right_operand_bytes(T, v_dim))),
        queries(cut.bytes(left_operand_bytes(kQueryBlock, k_dim))),
        p(cut.bytes(left_operand_bytes(kQueryBlock, kKeyBlock))),
        scores(cut.floats(kQueryBlock * kKeyBlock)) {}
};

struct Backward {
  std::byte *keys, *values;        // K [T, k_dim], V [T, v_dim]: left operands, of S^T and dP^T
  std::byte* keys_right;           // K [T, k_dim]: of dQ
  std::byte *queries_t, *douts_t;  // Q^T [k_dim, block], dO^T [v_dim, block]: right operands
  std::byte *queries, *douts;      // Q [block, k_dim], dO [block, v_dim]: right operands
  std::byte *p_t, *ds_t, *ds;      // left operands
  float *p, *dp;                   // P^T and dP^T of a pair of blocks; dP^T becomes dS^T
  float *lse, *delta;              // of the block's queries
  explicit Backward(Cut& cut, int64_t T, int64_t k_dim, int64_t v_dim)
      : keys(cut.bytes(left_operand_bytes(T, k_dim))),
        values(cut.bytes(left_operand_bytes(T, v_dim))),
        keys_right(cut.bytes(right_operand_bytes(T, k_dim))),
        queries_t(cut.bytes(right_operand_bytes(k_dim, kQueryBlock))),
        douts_t(cut.bytes(right_operand_bytes(v_dim, kQueryBlock))),
        queries(cut.bytes(right_operand_bytes(kQueryBlock, k_dim))),
        douts(cut.bytes(right_operand_bytes(kQueryBlock, v_dim))),
        p_t(cut.bytes(left_operand_bytes(kBackKeyBlock, kQueryBlock))),
        ds_t(cut.bytes(left_operand_bytes(kBackKeyBlock, kQueryBlock))),
        ds(cut.bytes(left_operand_bytes(kQueryBlock, kBackKeyBlock))),
        p(cut.floats(kBackKeyBlock * kQueryBlock)),
        dp(cut.floats(kBackKeyBlock * kQueryBlock)),
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

KERNEL_INLINE int64_t least(int64_t a, int64_t b) {
  return a < b ? a : b;
}

// c [m, n] (+)= rows of words times panels of words, both packed for K.
template <Precision P>
inline void product(const std::byte* a, int64_t a_row, int64_t m, const std::byte* b, int64_t panel_bytes, int64_t n,
                    int64_t K, float* c, int64_t ldc, bool add) {
  const Block block = {a, a_row, m, b, panel_bytes, n, words_of(P, K), c, ldc, add};
  if constexpr (P == Precision::kBf16) return multiply_block<Bf16Unit>(block);
  multiply_block<FullUnit>(block);
}
template <Precision P>
constexpr int64_t kNumberBytes = 4 / kNumbers<P>;

// ----------------------------------------------------------------------------------------------------------- forward

constexpr float kNone = -1e30f;

// Of keys [j0, j0 + keys): those that query i sees, counted from j0. Empty: begin == end.
struct KeyRange {
  int64_t begin, end;
};
inline KeyRange keys_seen(const TrainAttendArgs<float>& a, int64_t i, int64_t j0, int64_t keys) {
  const int64_t end = least(keys, i + 1 - j0), begin = a.doc_start[i] > j0 ? a.doc_start[i] - j0 : 0;
  return end <= begin ? KeyRange{0, 0} : KeyRange{begin, end};
}

// top: the largest score of each query so far, and now of these keys too; keep = exp(old top - new).
inline void next_tops(const TrainAttendArgs<float>& a, const float* scores, int64_t i0, int64_t queries, int64_t j0,
                      int64_t keys, float* top, float* keep) {
  for (int64_t i = 0; i < queries; ++i) {
    const KeyRange seen = keys_seen(a, i0 + i, j0, keys);
    keep[i] = top[i];
    if (seen.end == 0) continue;
    const float most = a.scale * largest_of(scores + i * kKeyBlock + seen.begin, seen.end - seen.begin);
    if (most > top[i]) top[i] = most;
  }
  for (int64_t i = 0; i < kQueryBlock; i += kLanes) store(keep + i, exp(sub(load(keep + i), load(top + i))));
}

inline void scale_row(float* x, float by, int64_t n) {
  for_lanes(n, [&](int64_t i, int64_t m) { store_some(x + i, mul(load_some(x + i, m), set(by)), m); });
}

// p[0, n) = exp(scale p - top) in [begin, end), zero elsewhere; returns their sum.
inline float exp_row(float* p, float scale, float top, int64_t begin, int64_t end, int64_t n) {
  Floats sums = zero();
  std::memset(p, 0, static_cast<size_t>(begin) * 4);
  const Floats factor = set(scale), less = set(-top);
  int64_t j = begin;
  for (; j + kLanes <= end; j += kLanes) {
    const Floats e = exp(fma(load(p + j), factor, less));
    store(p + j, e);
    sums = add(sums, e);
  }
  if (j < end) {
    store_part(p + j, exp(fma(load_part(p + j, end - j), factor, less)), end - j);
    sums = add(sums, load_part(p + j, end - j));
  }
  std::memset(p + end, 0, static_cast<size_t>(n - end) * 4);
  return sum(sums);
}

template <Precision P>
inline void attend_at(const TrainAttendArgs<float>& a) {
  Cut cut(aligned_scratch(a.scratch));
  const Forward s(cut, a.T, a.k_dim, a.v_dim);
  const int64_t q_row = left_row_bytes<float>(P, a.k_dim), p_row = left_row_bytes<float>(P, kKeyBlock);
  const int64_t key_panel = right_panel_bytes<float>(P, a.k_dim), value_panel = right_panel_bytes<float>(P, a.T);
  pack_panels_transposed<P>(a.k, a.k_stride, a.T, a.k_dim, s.keys, key_panel);
  pack_panels<P>(a.v, a.v_stride, a.v_dim, a.T, s.values, value_panel);
  for (int64_t i0 = 0; i0 < a.T; i0 += kQueryBlock) {
    const int64_t queries = least(a.T - i0, kQueryBlock);
    pack_rows<P>(a.q + i0 * a.q_stride, a.q_stride, queries, a.k_dim, s.queries, q_row);
    alignas(64) float top[kQueryBlock], total[kQueryBlock];  // so far; a top of kNone: no key yet
    for (int64_t i = 0; i < kQueryBlock; ++i) top[i] = kNone, total[i] = 0;
    const int64_t first_key = a.doc_start[i0] / kKeyBlock * kKeyBlock;
    for (int64_t j0 = first_key; j0 < i0 + queries; j0 += kKeyBlock) {
      const int64_t keys = least(i0 + queries - j0, kKeyBlock), padded = padded_k(keys);
      product<P>(s.queries, q_row, queries, s.keys + j0 / kPanelN * key_panel, key_panel, keys, a.k_dim, s.scores,
                 kKeyBlock, false);
      alignas(64) float keep[kQueryBlock] = {};
      next_tops(a, s.scores, i0, queries, j0, keys, top, keep);
      for (int64_t i = 0; i < queries; ++i) {
        const KeyRange seen = keys_seen(a, i0 + i, j0, keys);
        const float added = exp_row(s.scores + i * kKeyBlock, a.scale, top[i], seen.begin, seen.end, padded);
        total[i] = total[i] * keep[i] + added;
        if (j0 > first_key && keep[i] != 1.0f) scale_row(a.out + (i0 + i) * a.out_stride, keep[i], a.v_dim);
      }
      pack_rows<P>(s.scores, kKeyBlock, queries, padded, s.p, p_row);
      product<P>(s.p, p_row, queries, s.values + j0 * kPanelN * kNumberBytes<P>, value_panel, a.v_dim, padded,
                 a.out + i0 * a.out_stride, a.out_stride, j0 > first_key);
    }
    for (int64_t i = 0; i < queries; ++i) {
      scale_row(a.out + (i0 + i) * a.out_stride, 1.0f / total[i], a.v_dim);
      a.lse[i0 + i] = top[i] + std::log(total[i]);
    }
  }
}

inline void attend(const TrainAttendArgs<float>& a) {
  if (a.precision == Precision::kBf16) return attend_at<Precision::kBf16>(a);
  attend_at<Precision::kFull>(a);
}

// ---------------------------------------------------------------------------------------------------------- backward

// Of key j, whose row of P^T and dP^T over n queries are p and dp: p = exp(scale p - lse), dp = p (dp - delta) scale.
inline void probabilities_back(float* p, float* dp, const float* lse, const float* delta, float scale, int64_t n) {
  const Floats factor = set(scale);
  for (int64_t i = 0; i < n; i += kLanes) {
    const Floats e = exp(sub(mul(load(p + i), factor), load(lse + i)));
    store(p + i, e);
    store(dp + i, mul(mul(e, factor), sub(load(dp + i), load(delta + i))));
  }
}
// Requires: begin <= end.
inline void clear_outside(float* row, int64_t begin, int64_t end, int64_t n) {
  std::memset(row, 0, static_cast<size_t>(begin) * 4);
  std::memset(row + end, 0, static_cast<size_t>(n - end) * 4);
}

template <Precision P>
inline void attend_backward_at(const TrainAttendArgs<float>& a, const TrainAttendGrad<float>& g) {
  Cut cut(aligned_scratch(a.scratch));
  const Backward s(cut, a.T, a.k_dim, a.v_dim);
  const int64_t key_row = left_row_bytes<float>(P, a.k_dim), value_row = left_row_bytes<float>(P, a.v_dim);
  const int64_t key_panel = right_panel_bytes<float>(P, a.T), block_row = left_row_bytes<float>(P, kQueryBlock);
  const int64_t q_t_panel = right_panel_bytes<float>(P, a.k_dim), do_t_panel = right_panel_bytes<float>(P, a.v_dim);
  const int64_t block_panel = right_panel_bytes<float>(P, kQueryBlock);
  static_assert(kQueryBlock == kBackKeyBlock && kQueryBlock % kOperandK == 0);
  pack_rows<P>(a.k, a.k_stride, a.T, a.k_dim, s.keys, key_row);
  pack_rows<P>(a.v, a.v_stride, a.T, a.v_dim, s.values, value_row);
  pack_panels<P>(a.k, a.k_stride, a.k_dim, a.T, s.keys_right, key_panel);
  for (int64_t i0 = 0; i0 < a.T; i0 += kQueryBlock) {
    const int64_t queries = least(a.T - i0, kQueryBlock);
    const float *q = a.q + i0 * a.q_stride, *dout = g.dout + i0 * g.dout_stride;
    pack_panels_transposed<P>(q, a.q_stride, queries, a.k_dim, s.queries_t, q_t_panel);
    pack_panels_transposed<P>(dout, g.dout_stride, queries, a.v_dim, s.douts_t, do_t_panel);
    pack_panels<P>(q, a.q_stride, a.k_dim, queries, s.queries, block_panel);
    pack_panels<P>(dout, g.dout_stride, a.v_dim, queries, s.douts, block_panel);
    for (int64_t i = 0; i < kQueryBlock; ++i) {
      const bool there = i < queries;
      s.lse[i] = there ? a.lse[i0 + i] : 0;
      s.delta[i] = there ? dot(dout + i * g.dout_stride, a.out + (i0 + i) * a.out_stride, a.v_dim) : 0;
    }
    const int64_t first_key = a.doc_start[i0] / kBackKeyBlock * kBackKeyBlock;
    for (int64_t j0 = first_key; j0 < i0 + queries; j0 += kBackKeyBlock) {
      const int64_t keys = least(a.T - j0, kBackKeyBlock);
      // S^T and dP^T [keys, queries]: columns beyond the queries hold anything, until they are cleared below.
      product<P>(s.keys + j0 * key_row, key_row, keys, s.queries_t, q_t_panel, kQueryBlock, a.k_dim, s.p, kQueryBlock,
                 false);
      product<P>(s.values + j0 * value_row, value_row, keys, s.douts_t, do_t_panel, kQueryBlock, a.v_dim, s.dp,
                 kQueryBlock, false);
      // Queries that see key j: from j itself to the last one of its document, a range, since doc_start ascends.
      int64_t seen = 0;
      const bool border = j0 + keys > i0 || a.doc_start[i0 + queries - 1] > j0 || queries < kQueryBlock;
      for (int64_t j = 0; j < keys; ++j) {
        float *p = s.p + j * kQueryBlock, *dp = s.dp + j * kQueryBlock;
        probabilities_back(p, dp, s.lse, s.delta, a.scale, kQueryBlock);
        if (border) {
          while (seen < queries && a.doc_start[i0 + seen] <= j0 + j) ++seen;
          const int64_t begin = j0 + j > i0 ? least(j0 + j - i0, seen) : 0;
          clear_outside(p, begin, seen, kQueryBlock);
          clear_outside(dp, begin, seen, kQueryBlock);
        }
      }
      pack_rows<P>(s.p, kQueryBlock, keys, kQueryBlock, s.p_t, block_row);
      pack_rows<P>(s.dp, kQueryBlock, keys, kQueryBlock, s.ds_t, block_row);
      pack_rows_transposed<P>(s.dp, kQueryBlock, queries, keys, s.ds, block_row);
      product<P>(s.p_t, block_row, keys, s.douts, block_panel, a.v_dim, queries, g.dv + j0 * g.dv_stride, g.dv_stride,
                 true);
      product<P>(s.ds_t, block_row, keys, s.queries, block_panel, a.k_dim, queries, g.dk + j0 * g.dk_stride,
                 g.dk_stride, true);
      product<P>(s.ds, block_row, queries, s.keys_right + j0 * kPanelN * kNumberBytes<P>, key_panel, a.k_dim, keys,
                 g.dq + i0 * g.dq_stride, g.dq_stride, j0 > first_key);
    }
  }
}

inline void attend_backward(const TrainAttendArgs<float>& a, const TrainAttendGrad<float>& g) {
  if (a.precision == Precision::kBf16) return attend_backward_at<Precision::kBf16>(a, g);
  attend_backward_at<Precision::kFull>(a, g);
}

}  // namespace training
