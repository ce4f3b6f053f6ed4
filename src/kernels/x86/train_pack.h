// Operands of training's products from matrices of float32. Included inside the level's namespace and target region,
// after operands512.h or operands256.h; includes nothing itself.
//
// Words of 32 bits (train_products.h) come along k, from kLanes or 2 kLanes neighbours in memory, or across k, from one
// row or a pair of them; where the operand wants the other direction a square of kLanes x kLanes words is transposed in
// registers. Bytes: 4 read and 2 (or 4) written a number, which is the limit.

KERNEL_INLINE Floats load_some(const float* p, int64_t n) {
  return n >= kLanes ? load(p) : n > 0 ? load_part(p, n) : zero();
}
KERNEL_INLINE void store_some(float* p, Floats v, int64_t n) {
  if (n >= kLanes) return store(p, v);
  if (n > 0) store_part(p, v, n);
}

template <Precision P>
constexpr int64_t kNumbers = P == Precision::kBf16 ? 2 : 1;  // of a word

KERNEL_INLINE Ints as_ints(Floats v) {
  return __builtin_bit_cast(Ints, v);
}

// kLanes words of x[0 .. n), zero beyond.
template <Precision P>
KERNEL_INLINE Ints words_along(const float* x, int64_t n) {
  if constexpr (P == Precision::kFull) return as_ints(load_some(x, n));
  return to_bf16(load_some(x, n), load_some(x + kLanes, n - kLanes));
}

// Lane i < n: a word of x[i], and for pairs x[ldx + i]. rows: of them that are there; the others are zero.
template <Precision P>
KERNEL_INLINE Ints words_across(const float* x, int64_t ldx, int64_t rows, int64_t n) {
  const Floats a = rows > 0 ? load_some(x, n) : zero();
  if constexpr (P == Precision::kFull) return as_ints(a);
  return pair_bf16(a, rows > 1 ? load_some(x + ldx, n) : zero());
}

// Asks for a line to be written.
KERNEL_INLINE void prefetch_to_write(const void* p) {
  __asm__ volatile("prefetchw %0" : : "m"(*static_cast<const char*>(p)));
}

template <Precision P>
inline int64_t padded_words(int64_t K) {
  return (K + kOperandK - 1) / kOperandK * kOperandK / kNumbers<P>;
}

// Rows of words, `row_bytes` apart, from rows of x.
template <Precision P>
inline void pack_rows(const float* x, int64_t ldx, int64_t n, int64_t K, std::byte* out, int64_t row_bytes) {
  const int64_t words = padded_words<P>(K);
  for (int64_t m = 0; m < n; ++m) {
    for (int64_t w = 0; w < words; w += kLanes)
      store_i(out + m * row_bytes + 4 * w, words_along<P>(x + m * ldx + w * kNumbers<P>, K - w * kNumbers<P>));
  }
}

// The same from columns of x: row m from x[k * ldx + m]. Rows of x lie far apart: what the next words need is asked for
// one line after the other, and so are the lines that they will be written to.
template <Precision P>
inline void pack_rows_transposed(const float* x, int64_t ldx, int64_t n, int64_t K, std::byte* out, int64_t row_bytes) {
  const int64_t words = padded_words<P>(K);
  constexpr int64_t kStep = kLanes * kNumbers<P>;
  for (int64_t w = 0; w < words; w += kLanes) {
    const float* from = x + w * kNumbers<P> * ldx;
    const int64_t k = w * kNumbers<P>, ahead = K - k - kStep < kStep ? K - k - kStep : kStep;
    for (int64_t m = 0; m < n; m += kLanes) {
      for (int64_t i = 0; i < ahead; ++i) prefetch(reinterpret_cast<const std::byte*>(from + (kStep + i) * ldx + m));
      Ints v[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i)
        v[i] = words_across<P>(from + i * kNumbers<P> * ldx + m, ldx, K - k - i * kNumbers<P>, n - m);
      transpose_all(v);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        if (m + i >= n) break;
        std::byte* to = out + (m + i) * row_bytes + 4 * w;
        store_i(to, v[i]);
        if (ahead > 0) prefetch_to_write(to + 4 * kLanes);
      }
    }
  }
}

// n columns in panels `panel_bytes` apart, from x[k * ldx + column]. A row of x is a few lines: those of the rows after
// the next are asked for.
template <Precision P>
inline void pack_panels(const float* x, int64_t ldx, int64_t n, int64_t K, std::byte* out, int64_t panel_bytes) {
  constexpr int64_t kAhead = 16;
  const int64_t words = padded_words<P>(K), columns = (n + kPanelN - 1) / kPanelN * kPanelN;
  for (int64_t w = 0; w < words; ++w) {
    const int64_t k = w * kNumbers<P>;
    const float* row = x + k * ldx;
    for (int64_t c = 0; c < columns; c += kLanes) {
      if (k + kAhead + 1 < K) {
#pragma GCC unroll 2
        for (int64_t i = 0; i < kNumbers<P>; ++i)
          prefetch(reinterpret_cast<const std::byte*>(row + (kAhead + i) * ldx + c));
      }
      store_i(out + c / kPanelN * panel_bytes + w * (4 * kPanelN) + c % kPanelN * 4,
              words_across<P>(row + c, ldx, K - k, n - c));
    }
  }
}

// The same from x[column * ldx + k].
template <Precision P>
inline void pack_panels_transposed(const float* x, int64_t ldx, int64_t n, int64_t K, std::byte* out,
                                   int64_t panel_bytes) {
  const int64_t words = padded_words<P>(K), columns = (n + kPanelN - 1) / kPanelN * kPanelN;
  for (int64_t c = 0; c < columns; c += kLanes) {
    for (int64_t w = 0; w < words; w += kLanes) {
      Ints v[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        const int64_t k = w * kNumbers<P>;
        v[i] = c + i < n ? words_along<P>(x + (c + i) * ldx + k, K - k) : zero_i();
      }
      transpose_all(v);
      std::byte* to = out + c / kPanelN * panel_bytes + w * (4 * kPanelN) + c % kPanelN * 4;
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) store_i(to + i * (4 * kPanelN), v[i]);
    }
  }
}

template <Precision P>
inline void pack_left_at(const float* x, int64_t ldx, bool transposed, int64_t row, int64_t n, int64_t K,
                         std::byte* operand) {
  const int64_t row_bytes = left_row_bytes<float>(P, K);
  std::byte* out = operand + row * row_bytes;
  if (transposed) return pack_rows_transposed<P>(x + row, ldx, n, K, out, row_bytes);
  pack_rows<P>(x + row * ldx, ldx, n, K, out, row_bytes);
}
inline void pack_left(Precision p, const float* x, int64_t ldx, bool transposed, int64_t row, int64_t n, int64_t K,
                      std::byte* operand) {
  if (p == Precision::kBf16) return pack_left_at<Precision::kBf16>(x, ldx, transposed, row, n, K, operand);
  pack_left_at<Precision::kFull>(x, ldx, transposed, row, n, K, operand);
}

template <Precision P>
inline void pack_right_at(const float* x, int64_t ldx, bool transposed, int64_t panel, int64_t n, int64_t K, int64_t N,
                          std::byte* operand) {
  const int64_t bytes = right_panel_bytes<float>(P, K), begin = panel * kPanelN;
  const int64_t columns = N - begin < n * kPanelN ? N - begin : n * kPanelN;
  std::byte* out = operand + panel * bytes;
  if (transposed) return pack_panels_transposed<P>(x + begin * ldx, ldx, columns, K, out, bytes);
  pack_panels<P>(x + begin, ldx, columns, K, out, bytes);
}
inline void pack_right(Precision p, const float* x, int64_t ldx, bool transposed, int64_t panel, int64_t n, int64_t K,
                       int64_t N, std::byte* operand) {
  if (p == Precision::kBf16) return pack_right_at<Precision::kBf16>(x, ldx, transposed, panel, n, K, N, operand);
  pack_right_at<Precision::kFull>(x, ldx, transposed, panel, n, K, N, operand);
}

template <Precision P>
inline void pack_both_at(const float* x, int64_t ldx, int64_t row, int64_t n, int64_t T, int64_t D, std::byte* rows,
                         std::byte* columns, bool columns_left) {
  const int64_t row_bytes = left_row_bytes<float>(P, D);
  if (rows != nullptr) pack_rows<P>(x, ldx, n, D, rows + row * row_bytes, row_bytes);
  if (columns == nullptr) return;
  const int64_t k_bytes = 4 / kNumbers<P>;
  if (columns_left) return pack_rows_transposed<P>(x, ldx, D, n, columns + row * k_bytes, left_row_bytes<float>(P, T));
  pack_panels<P>(x, ldx, D, n, columns + row * kPanelN * k_bytes, right_panel_bytes<float>(P, T));
}
inline void pack_both(Precision p, const float* x, int64_t ldx, int64_t row, int64_t n, int64_t T, int64_t D,
                      std::byte* rows, std::byte* columns, bool columns_left) {
  if (p == Precision::kBf16) return pack_both_at<Precision::kBf16>(x, ldx, row, n, T, D, rows, columns, columns_left);
  pack_both_at<Precision::kFull>(x, ldx, row, n, T, D, rows, columns, columns_left);
}
