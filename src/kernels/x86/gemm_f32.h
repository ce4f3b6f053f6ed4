// Products with float32 activations, weights of every dtype. Included inside the level's namespace and target region;
// includes nothing itself.
//
//   gemm_f32:     y[t, n]  = sum_k x[t, k] W[n, k]        W [N, K], x [T, K], y [T, N]
//   gemm_nn_f32:  y[t, k] += sum_n x[t, n] W[n, k]        x [T, N], y [T, K]
//
// Bytes: the weights once (gemm_f32: once a token tile) and T (K + N) floats; FLOPs 2 T N K. One or two tokens are
// bound by memory: numbers are converted as they are read and no panel is written. More tokens: kPanelRows rows x
// kChunk columns are converted once to float32 in the L1 cache, and tiles of kRows rows x kTokens tokens run over them
// with one register a (row, token): kRows * kTokens chains, more than latency x throughput of the FMA units (4 x 2).
//
// Order: each (row, token) of gemm_f32 is summed in kLanes chains over k mod kLanes, ascending, then by one fixed tree;
// each (token, k) of gemm_nn_f32 is one chain over ascending n. Neither T, nor ranges, nor chunks change a bit.

constexpr int kRows = 4;
constexpr int kTokens = kLanes == 16 ? 6 : 3;  // 24 (12) accumulators, 4 weights, 1 activation of 32 (16) registers
constexpr int kChunk = 512;                    // columns: 16 rows of float32 are 32 KB
constexpr int64_t kF32Tokens = 4 * kTokens;    // of a token tile: their accumulators are 24 KB at most

// ------------------------------------------------------------------------------------------------- numbers to float32

struct LoadF32 {
  static constexpr int kBytes = 4;
  static Floats full(const std::byte* p) { return load(reinterpret_cast<const float*>(p)); }
};
struct LoadBF16 {
  static constexpr int kBytes = 2;
  static Floats full(const std::byte* p) { return load_bf16(p); }
};
struct LoadF16 {
  static constexpr int kBytes = 2;
  static Floats full(const std::byte* p) { return load_f16(p); }
};
// Without its scale, and divided by 256: fp8_factor() puts both back.
struct LoadF8 {
  static constexpr int kBytes = 1;
  static Floats full(const std::byte* p) { return load_e4m3(p); }
};
template <typename Load>
inline Floats load_tail(const std::byte* p, int64_t n) {
  std::byte copy[kLanes * 4] = {};
  std::memcpy(copy, p, static_cast<size_t>(n) * Load::kBytes);
  return Load::full(copy);
}

// 256 x the scale of a block of 128 x 128. Exact; a scale of 2^120 or more becomes infinite.
inline float fp8_factor(const Mat& w, int64_t row, int64_t block) {
  float scale = 1;
  const int64_t i = row / Mat::kScaleBlock * w.scale_cols() + block;
  if (w.scales != nullptr && w.scale_dtype == DType::kF8E8M0) {
    scale = e8m0_to_float(static_cast<uint8_t>(w.scales[i]));
  } else if (w.scales != nullptr) {
    std::memcpy(&scale, w.scales + 4 * i, 4);
  }
  return 256 * scale;
}

// ------------------------------------------------------------------------------------------------- the register tile

// sums[r][t] += w[r][k] x[t][k] over n columns. `sums` is [R][ld_sums] registers in memory. scale: fp8_factor() of each
// row, or null.
template <typename Load, int R, int NT>
inline void multiply(const std::byte* w, int64_t w_stride, const float* scale, const float* x, int64_t ldx, int64_t n,
                     Floats* sums, int64_t ld_sums) {
  Floats sum[R][NT], factor[R];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    factor[r] = set(scale ? scale[r] : 1.0f);
#pragma GCC unroll 6
    for (int t = 0; t < NT; ++t) sum[r][t] = sums[r * ld_sums + t];
  }
  int64_t k = 0;
  if constexpr (Load::kBytes == 1 && NT == 1) {
    for (; k + kE4m3Vectors * kLanes <= n; k += kE4m3Vectors * kLanes) {
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        Floats weights[kE4m3Vectors];
        prefetch(w + (R + r) * w_stride + k);
        load_e4m3_vectors(w + r * w_stride + k, weights);
#pragma GCC unroll 4
        for (int v = 0; v < kE4m3Vectors; ++v)
          sum[r][0] = fma(mul(weights[v], factor[r]), load(x + k + v * kLanes), sum[r][0]);
      }
    }
  }
  for (; k + kLanes <= n; k += kLanes) {
    Floats values[NT];
#pragma GCC unroll 6
    for (int t = 0; t < NT; ++t) values[t] = load(x + t * ldx + k);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      if constexpr (Load::kBytes == 2) prefetch(w + (R + r) * w_stride + k * Load::kBytes);
      Floats weights = Load::full(w + r * w_stride + k * Load::kBytes);
      if constexpr (Load::kBytes == 1) weights = mul(weights, factor[r]);
#pragma GCC unroll 6
      for (int t = 0; t < NT; ++t) sum[r][t] = fma(weights, values[t], sum[r][t]);
    }
  }
  if (k < n) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      Floats weights = load_tail<Load>(w + r * w_stride + k * Load::kBytes, n - k);
      if constexpr (Load::kBytes == 1) weights = mul(weights, factor[r]);
#pragma GCC unroll 6
      for (int t = 0; t < NT; ++t) sum[r][t] = fma(weights, load_part(x + t * ldx + k, n - k), sum[r][t]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 6
    for (int t = 0; t < NT; ++t) sums[r * ld_sums + t] = sum[r][t];
  }
}

// The same for R rows and at most kTokens tokens.
template <typename Load, int R>
inline void multiply_tokens(const std::byte* w, int64_t w_stride, const float* x, int64_t ldx, int64_t tokens,
                            int64_t n, Floats* sums, int64_t ld_sums) {
  if (tokens == kTokens) return multiply<Load, R, kTokens>(w, w_stride, nullptr, x, ldx, n, sums, ld_sums);
  int64_t t = 0;
  if constexpr (kTokens > 4) {
    for (; t + 4 <= tokens; t += 4) multiply<Load, R, 4>(w, w_stride, nullptr, x + t * ldx, ldx, n, sums + t, ld_sums);
  }
  for (; t + 2 <= tokens; t += 2) multiply<Load, R, 2>(w, w_stride, nullptr, x + t * ldx, ldx, n, sums + t, ld_sums);
  for (; t < tokens; ++t) multiply<Load, R, 1>(w, w_stride, nullptr, x + t * ldx, ldx, n, sums + t, ld_sums);
}

// sums[r][t] += panel[r] . x[t] for a panel of rows x n floats.
inline void multiply_panel(const float* panel, int64_t rows, const float* x, int64_t ldx, int64_t tokens, int64_t n,
                           Floats* sums) {
  const auto* w = reinterpret_cast<const std::byte*>(panel);
  for (int64_t t = 0; t < tokens; t += kTokens) {
    const int64_t count = tokens - t < kTokens ? tokens - t : kTokens;
    int64_t r = 0;
    for (; r + kRows <= rows; r += kRows)
      multiply_tokens<LoadF32, kRows>(w + r * n * 4, n * 4, x + t * ldx, ldx, count, n, sums + r * tokens + t, tokens);
    for (; r < rows; ++r)
      multiply_tokens<LoadF32, 1>(w + r * n * 4, n * 4, x + t * ldx, ldx, count, n, sums + r * tokens + t, tokens);
  }
}

// ------------------------------------------------------------------------------------------------- one or two tokens

// The first columns of R rows in FP8 for one token, where the machine has a quicker way to widen them: all blocks of
// scales that are whole, up to one whose scale is too large. Returns how many columns that was. The product with the
// scale is rounded once, at whatever power of two the weight is taken: the results are those of load_e4m3().
template <int R>
inline int64_t e4m3_blocks(const Mat& w, int64_t row, const float* x, Floats* sums) {
  if constexpr (kE4m3Tables) {
    if (!cpu_features().avx512_vbmi) return 0;
    const auto scales = [&](int64_t block, float* factor) {
      bool finite = true;
      for (int r = 0; r < R; ++r) {
        const float by_256 = fp8_factor(w, row + r, block);
        factor[r] = by_256 / 256;
        finite = finite && by_256 - by_256 == 0;
      }
      return finite;
    };
    return multiply_e4m3_tables<R>(w.row(row), w.row_bytes, Mat::kScaleBlock, scales, x, w.cols, sums);
  }
  return 0;
}

template <typename Load, int R>
inline void rows_direct(const Mat& w, int64_t row, const float* x, int64_t ldx, int64_t T, float* y, int64_t ldy) {
  for (int64_t t = 0; t < T; ++t) {
    Floats sums[R];
    for (int r = 0; r < R; ++r) sums[r] = zero();
    const int64_t step = Load::kBytes == 1 ? Mat::kScaleBlock : w.cols;
    int64_t k = 0;
    if constexpr (Load::kBytes == 1) k = e4m3_blocks<R>(w, row, x + t * ldx, sums);
    for (; k < w.cols; k += step) {
      float scale[R];
      if constexpr (Load::kBytes == 1) {
        for (int r = 0; r < R; ++r) scale[r] = fp8_factor(w, row + r, k / Mat::kScaleBlock);
      }
      multiply<Load, R, 1>(w.row(row) + k * Load::kBytes, w.row_bytes, Load::kBytes == 1 ? scale : nullptr,
                           x + t * ldx + k, ldx, w.cols - k < step ? w.cols - k : step, sums, 1);
    }
    for (int r = 0; r < R; ++r) y[t * ldy + row + r] = sum(sums[r]);
  }
}

template <typename Load>
inline void gemm_direct(const Mat& w, RowRange rows, const float* x, int64_t ldx, int64_t T, float* y, int64_t ldy) {
  int64_t r = rows.begin;
  for (; r + kRows <= rows.end; r += kRows) rows_direct<Load, kRows>(w, r, x, ldx, T, y, ldy);
  for (; r < rows.end; ++r) rows_direct<Load, 1>(w, r, x, ldx, T, y, ldy);
}

// ------------------------------------------------------------------------------------------------- panels of float32

template <typename Load>
inline void numbers_to_panel(const Mat& w, int64_t row, int64_t rows, int64_t k0, int64_t n, float* out) {
  for (int64_t r = 0; r < rows; ++r, out += n) {
    const std::byte* p = w.row(row + r) + k0 * Load::kBytes;
    const int64_t step = Load::kBytes == 1 ? Mat::kScaleBlock : n;
    for (int64_t begin = 0; begin < n; begin += step) {
      const int64_t end = n - begin < step ? n : begin + step;
      Floats factor = zero();
      if constexpr (Load::kBytes == 1) factor = set(fp8_factor(w, row + r, (k0 + begin) / Mat::kScaleBlock));
      int64_t k = begin;
      for (; k + kLanes <= end; k += kLanes) {
        Floats v = Load::full(p + k * Load::kBytes);
        if constexpr (Load::kBytes == 1) v = mul(v, factor);
        store(out + k, v);
      }
      if (k < end) {
        Floats v = load_tail<Load>(p + k * Load::kBytes, end - k);
        if constexpr (Load::kBytes == 1) v = mul(v, factor);
        store_part(out + k, v, end - k);
      }
    }
  }
}

// One tile (formats.h) back to rows: out[r * ld + i], i in [0, 32), r in [0, rows).
template <typename Format>
inline void tile_to_rows(const Tile& tile, int64_t rows, float* out, int64_t ld) {
  for (int half = 0; half < 2; ++half) {
    const int h = Format::kHalves == 1 ? 0 : half;
    Ints v[4] = {tile.q[4 * half], tile.q[4 * half + 1], tile.q[4 * half + 2], tile.q[4 * half + 3]};
    transpose(v);  // v[i]: sixteen bytes of row i, then of row 4 + i, 8 + i ...
    alignas(64) uint8_t bytes[4][kLanes * 4];
    alignas(64) float scale[kLanes], min[kLanes];
    for (int i = 0; i < 4; ++i) std::memcpy(bytes[i], &v[i], sizeof v[i]);
    store(scale, tile.scale[h]);
    if constexpr (Format::kMin) store(min, tile.min[h]);
    for (int64_t r = 0; r < rows; ++r) {
      for (int i = 0; i < 16; i += kLanes) {
        const uint8_t* p = bytes[r % 4] + 16 * (r / 4) + i;
        const Floats q = Format::kSigned ? load_i8(p) : sub(load_u8(p), set(static_cast<float>(Format::kOffset)));
        const Floats value = Format::kMin ? fma(q, set(scale[r]), set(min[r])) : mul(q, set(scale[r]));
        store(out + r * ld + 16 * half + i, value);
      }
    }
  }
}

template <typename Format>
inline void blocks_to_panel(const Mat& w, int64_t row, int64_t rows, int64_t k0, int64_t n, float* out) {
  alignas(64) Tile tiles[8];
  constexpr int64_t kStep = 32 * Format::kBlocks;
  for (int64_t r = 0; r < rows; r += kLanes) {
    const int64_t count = rows - r < kLanes ? rows - r : kLanes;
    for (int64_t k = 0; k < n; k += kStep) {
      const std::byte* p = w.row(row + r) + (k0 + k) / kStep * Format::kBytes;
      if (w.layout == MatLayout::kPanels) {
        Format::unpack(PanelGroup<Format>(w, row + r).template unit<true>((k0 + k) / kStep), tiles);
      } else if (count == kLanes) {
        Format::unpack(StridedRows{p, w.row_bytes}, tiles);
      } else {  // short of rows: copy the unit of each, the last one repeated
        std::byte copy[kLanes * Format::kBytes];
        for (int64_t i = 0; i < kLanes; ++i)
          std::memcpy(copy + i * Format::kBytes, p + (i < count ? i : count - 1) * w.row_bytes, Format::kBytes);
        Format::unpack(StridedRows{copy, Format::kBytes}, tiles);
      }
      for (int b = 0; b < Format::kBlocks; ++b) tile_to_rows<Format>(tiles[b], count, out + r * n + k + 32 * b, n);
    }
  }
}

// out[rows][n] = W[row + r, k0 + k]. Requires: k0 a multiple of kChunk, n <= kChunk, rows <= kPanelRows.
inline void to_panel(const Mat& w, int64_t row, int64_t rows, int64_t k0, int64_t n, float* out) {
  switch (w.dtype) {
    case DType::kF32:
      return numbers_to_panel<LoadF32>(w, row, rows, k0, n, out);
    case DType::kBF16:
      return numbers_to_panel<LoadBF16>(w, row, rows, k0, n, out);
    case DType::kF16:
      return numbers_to_panel<LoadF16>(w, row, rows, k0, n, out);
    case DType::kF8E4M3:
      return numbers_to_panel<LoadF8>(w, row, rows, k0, n, out);
    default:
      with_format(w.dtype, [&](auto format) { blocks_to_panel<decltype(format)>(w, row, rows, k0, n, out); });
  }
}

// --------------------------------------------------------------------------------------------------------- the entries

inline void gemm_f32(const Mat& w, RowRange rows, const float* x, int64_t ldx, int64_t T, float* y, int64_t ldy,
                     float* panel) {
  if (T <= 2) {
    switch (w.dtype) {
      case DType::kF32:
        return gemm_direct<LoadF32>(w, rows, x, ldx, T, y, ldy);
      case DType::kBF16:
        return gemm_direct<LoadBF16>(w, rows, x, ldx, T, y, ldy);
      case DType::kF16:
        return gemm_direct<LoadF16>(w, rows, x, ldx, T, y, ldy);
      case DType::kF8E4M3:
        return gemm_direct<LoadF8>(w, rows, x, ldx, T, y, ldy);
      default:
        break;
    }
  }
  Floats sums[kPanelRows * kF32Tokens];
  for (int64_t r0 = rows.begin; r0 < rows.end; r0 += kPanelRows) {
    const int64_t count = rows.end - r0 < kPanelRows ? rows.end - r0 : kPanelRows;
    for (int64_t k0 = 0; k0 < w.cols; k0 += kChunk)
      to_panel(w, r0, count, k0, w.cols - k0 < kChunk ? w.cols - k0 : kChunk, panel + count * k0);
    for (int64_t t0 = 0; t0 < T; t0 += kF32Tokens) {
      const int64_t tokens = T - t0 < kF32Tokens ? T - t0 : kF32Tokens;
      for (int64_t i = 0; i < count * tokens; ++i) sums[i] = zero();
      for (int64_t k0 = 0; k0 < w.cols; k0 += kChunk) {
        const int64_t n = w.cols - k0 < kChunk ? w.cols - k0 : kChunk;
        multiply_panel(panel + count * k0, count, x + t0 * ldx + k0, ldx, tokens, n, sums);
      }
      for (int64_t r = 0; r < count; ++r) {
        for (int64_t t = 0; t < tokens; ++t) y[(t0 + t) * ldy + r0 + r] = sum(sums[r * tokens + t]);
      }
    }
  }
}

// y[t][k0 .. k0 + V kLanes) += sum_r x[t][r] panel[r][...] for NT tokens.
template <int NT, int V>
inline void accumulate(const float* panel, int64_t ld, int64_t rows, const float* x, int64_t ldx, float* y,
                       int64_t ldy) {
  Floats sum[NT][V];
#pragma GCC unroll 4
  for (int t = 0; t < NT; ++t) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[t][v] = load(y + t * ldy + v * kLanes);
  }
  for (int64_t r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int t = 0; t < NT; ++t) {
      const Floats factor = set(x[t * ldx + r]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[t][v] = fma(factor, load(panel + r * ld + v * kLanes), sum[t][v]);
    }
  }
#pragma GCC unroll 4
  for (int t = 0; t < NT; ++t) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(y + t * ldy + v * kLanes, sum[t][v]);
  }
}

// All n columns of NT tokens.
template <int NT>
inline void accumulate_columns(const float* panel, int64_t ld, int64_t rows, const float* x, int64_t ldx, float* y,
                               int64_t ldy, int64_t n) {
  int64_t k = 0;
  for (; k + 4 * kLanes <= n; k += 4 * kLanes) accumulate<NT, 4>(panel + k, ld, rows, x, ldx, y + k, ldy);
  for (; k + kLanes <= n; k += kLanes) accumulate<NT, 1>(panel + k, ld, rows, x, ldx, y + k, ldy);
  if (k == n) return;
  for (int t = 0; t < NT; ++t) {
    Floats sum = load_part(y + t * ldy + k, n - k);
    for (int64_t r = 0; r < rows; ++r) sum = fma(set(x[t * ldx + r]), load_part(panel + r * ld + k, n - k), sum);
    store_part(y + t * ldy + k, sum, n - k);
  }
}

inline void gemm_nn_f32(const Mat& w, RowRange rows, const float* x, int64_t ldx, int64_t T, float* y, int64_t ldy,
                        float* panel) {
  constexpr int kNT = kLanes == 16 ? 4 : 2;  // of four registers each
  for (int64_t r0 = rows.begin; r0 < rows.end; r0 += kPanelRows) {
    const int64_t count = rows.end - r0 < kPanelRows ? rows.end - r0 : kPanelRows;
    for (int64_t k0 = 0; k0 < w.cols; k0 += kChunk) {
      const int64_t n = w.cols - k0 < kChunk ? w.cols - k0 : kChunk;
      to_panel(w, r0, count, k0, n, panel);
      int64_t t = 0;
      for (; t + kNT <= T; t += kNT)
        accumulate_columns<kNT>(panel, n, count, x + t * ldx + r0, ldx, y + t * ldy + k0, ldy, n);
      for (; t < T; ++t) accumulate_columns<1>(panel, n, count, x + t * ldx + r0, ldx, y + t * ldy + k0, ldy, n);
    }
  }
}

// One row at a time needs no speed (an embedding a token): the codec's own code.
inline void dequantise(const Mat& w, int64_t row, float* out) {
  if (is_quantised(w.dtype)) return dequantise_row(w, row, out);
  for (int64_t k0 = 0; k0 < w.cols; k0 += kChunk)
    to_panel(w, row, 1, k0, w.cols - k0 < kChunk ? w.cols - k0 : kChunk, out + k0);
}
