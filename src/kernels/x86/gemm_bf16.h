// y[t, n] = sum_k x[t, k] W[n, k] in bfloat16. Included inside the level's namespace and target region; includes
// nothing itself.
//
// Shapes: W [N, K] as in a file, x [T, K] rounded to bfloat16, row after row, y [T, N] float32.
// Bytes: the weights once a token tile (T = 1: this is all, and the memory is the limit); FLOPs 2 T N K, 64 an
// instruction.
//
//              K ->
//   kBlock   +---------------------     kRows rows x kTokens tokens are one register a (row, token), whose 16 lanes are
//   rows     | kRows x 32 | ->          chains over pairs of neighbours in K. The rows of a block stay in the L2 cache
//            |            | ->          for all tokens of a tile, tokens in the L1 cache for all rows of the block; the
//            +---------------------     chains of a block wait in `sums` and are added by one tree, sixteen at a time.
//
// Weights are read where they lie, in two-byte pairs as they are: nothing is unpacked, transposed or copied,
// and nothing is asked for beforehand: four streams are the hardware's to follow (docs/log.md).
// Order: each (row, token) is 16 chains of dots over ascending k, then one fixed tree, whatever T and the ranges. The
// dot rounds in its own way, denormals are zero (vdpbf16ps does not look at MXCSR): the bits are those of the level.

constexpr int kRows = 4;
constexpr int kTokens = 6;                 // 24 accumulators, 6 activations, 1 weight of 32 registers
constexpr int64_t kBlock = kPanelRows;     // rows whose sums are added together
constexpr int64_t kPairs = 2 * kLanes;     // bfloat16 in a register
constexpr int64_t kChunk = 2048;           // of K: 6 tokens are 24 KB, half of the L1 cache
constexpr int64_t kMaxTokens = 192;        // of a token tile
constexpr int64_t kTileBytes = 512 << 10;  // activations of a token tile: they stay in the L2 cache
static_assert(kBlock == 16 && kRows == 4, "sum_sixteen");

// sums += the two products of each lane. In assembly, because GCC 12 copies the sums to another register and back
// around intrinsics of this shape.
KERNEL_INLINE Floats dot_pairs(Floats sums, Ints a, Ints b) {
  __asm__("vdpbf16ps %2, %1, %0" : "+v"(sums) : "v"(a), "v"(b));
  return sums;
}

// Where the sums of row r of a block are among sixteen, so that sum_sixteen() gives them back in order.
constexpr int64_t place_of(int64_t r) {
  return 4 * (r % 4) + r / 4;
}

// sums[t][place_of(r)] += w[r] . x[t] over n columns, for rows [r0, r0 + R) of a block. kFirst: `sums` are not read.
template <int R, int NT, bool kFirst>
inline void multiply(const std::byte* w, int64_t w_stride, int64_t r0, const uint16_t* x, int64_t ldx, int64_t n,
                     Floats (*sums)[kBlock]) {
  Floats sum[R][NT];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 6
    for (int t = 0; t < NT; ++t) sum[r][t] = kFirst ? zero() : sums[t][place_of(r0 + r)];
  }
  for (int64_t k = 0; k < n; k += kPairs) {
    Ints values[NT];
#pragma GCC unroll 6
    for (int t = 0; t < NT; ++t) values[t] = load_i(x + t * ldx + k);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const Ints weights = load_i(w + r * w_stride + 2 * k);
#pragma GCC unroll 6
      for (int t = 0; t < NT; ++t) sum[r][t] = dot_pairs(sum[r][t], weights, values[t]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 6
    for (int t = 0; t < NT; ++t) sums[t][place_of(r0 + r)] = sum[r][t];
  }
}

// All of a block's `count` rows over columns [k0, k0 + n).
template <int NT, bool kFirst>
inline void multiply_block(const Mat& w, int64_t row, int64_t count, int64_t k0, const uint16_t* x, int64_t n,
                           Floats (*sums)[kBlock]) {
  const auto at = [&](int64_t r) { return w.row(row + r) + 2 * k0; };
  int64_t r = 0;
  for (; r + kRows <= count; r += kRows) multiply<kRows, NT, kFirst>(at(r), w.row_bytes, r, x + k0, w.cols, n, sums);
  for (; r < count; ++r) multiply<1, NT, kFirst>(at(r), w.row_bytes, r, x + k0, w.cols, n, sums);
}

// y[t][row + r] for the `count` rows of a block and NT tokens.
template <int NT>
inline void block_of_tokens(const Mat& w, int64_t row, int64_t count, const uint16_t* x, float* y, int64_t ldy) {
  Floats sums[NT][kBlock];
  for (int t = 0; t < NT && count < kBlock; ++t) {
    for (Floats& sum : sums[t]) sum = zero();
  }
  const int64_t first = w.cols < kChunk ? w.cols : kChunk;
  multiply_block<NT, true>(w, row, count, 0, x, first, sums);
  for (int64_t k0 = first; k0 < w.cols; k0 += kChunk)
    multiply_block<NT, false>(w, row, count, k0, x, w.cols - k0 < kChunk ? w.cols - k0 : kChunk, sums);
  for (int t = 0; t < NT; ++t) {
    const Floats v = sum_sixteen(sums[t]);
    if (count == kBlock) {
      store(y + t * ldy + row, v);
    } else {
      store_part(y + t * ldy + row, v, count);
    }
  }
}

// The same for any number of tokens up to kTokens.
inline void block_of(const Mat& w, int64_t row, int64_t count, const uint16_t* x, int64_t tokens, float* y,
                     int64_t ldy) {
  switch (tokens) {
    case 1:
      return block_of_tokens<1>(w, row, count, x, y, ldy);
    case 2:
      return block_of_tokens<2>(w, row, count, x, y, ldy);
    case 3:
      return block_of_tokens<3>(w, row, count, x, y, ldy);
    case 4:
      return block_of_tokens<4>(w, row, count, x, y, ldy);
    case 5:
      return block_of_tokens<5>(w, row, count, x, y, ldy);
    default:
      return block_of_tokens<kTokens>(w, row, count, x, y, ldy);
  }
}

inline void gemm_bf16(const Mat& w, RowRange rows, const Bf16Rows& x, int64_t T, float* y, int64_t ldy, float*) {
  const int64_t fit = kTileBytes / (2 * w.cols) / kTokens * kTokens;
  const int64_t tile = fit < kTokens ? kTokens : fit > kMaxTokens ? kMaxTokens : fit;
  for (int64_t t0 = 0; t0 < T; t0 += tile) {
    const int64_t end = T - t0 < tile ? T : t0 + tile;
    for (int64_t r = rows.begin; r < rows.end; r += kBlock) {
      const int64_t count = rows.end - r < kBlock ? rows.end - r : kBlock;
      for (int64_t t = t0; t < end; t += kTokens)
        block_of(w, r, count, x.data + t * w.cols, end - t < kTokens ? end - t : kTokens, y + t * ldy, ldy);
    }
  }
}

// Row after row.
inline void round_bf16(const float* x, int64_t ldx, int64_t T, const Bf16Rows& out) {
  for (int64_t t = 0; t < T; ++t) {
    for (int64_t k = 0; k < out.cols; k += kPairs) store_bf16(x + t * ldx + k, out.data + t * out.cols + k);
  }
}
