// The contract of the kernels: what the layers may ask for, and what each answer means.
//
// Idea: one table of functions a level of machine (ref, avx2, avx512 ...), chosen once at start by name. `ref` is plain
// C++ and the truth; every other level is held against it by one table of op cases (kernels_test.cc). A kernel takes
// checked arguments, returns void, allocates nothing, prints nothing and runs on one thread: callers cut the work.
//
// Order of arithmetic: within one level the result for one (row, token) pair does not depend on how many rows or tokens
// are asked for in the call, nor on where ranges begin and end. Decode therefore equals prefill bit for bit wherever
// the same kernel serves both.
//
// Letters: T tokens, N rows of a weight = output features, K cols of a weight = input features, S cached positions,
// H heads. Strides are in elements.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "tensor/panels.h"
#include "tensor/view.h"

namespace westlake {

struct Q8Rest;

// Activations for the quantised path: int8 with one scale a block of 32, x[i] ~ d[i/32] * qs[i].
// sums[i/16] holds the sum of sixteen qs, for formats with a minimum or an offset.
// A row of K numbers takes K int8, K/32 floats and K/16 int16. Requires: K % 32 == 0.
struct Q8Rows {
  int8_t* qs = nullptr;     // [T, K]
  float* d = nullptr;       // [T, K/32]
  int16_t* sums = nullptr;  // [T, K/16]
  int64_t cols = 0;         // K
  // Token t is row index[t] of the memory; null: row t.
  const int32_t* index = nullptr;
  // What some blocks add, of token t (not of its row); null: nothing.
  const Q8Rest* rest = nullptr;

  int64_t row(int64_t t) const { return index != nullptr ? index[t] : t; }
  int8_t* qs_row(int64_t t) const { return qs + row(t) * cols; }
  float* d_row(int64_t t) const { return d + row(t) * (cols / 32); }
  int16_t* sums_row(int64_t t) const { return sums + row(t) * (cols / 16); }
};

// Finer activations: x[i] ~ d qs[i] + d' qs'[i], the second what the first leaves, in those blocks where that is much.
// One row of `blocks` (K = 32) for each pair (block, token) that has a second part. Tokens go in groups of kRestTokens
// from token 0 on; in group g the pairs of block b are [begin(g, b, K/32), begin(g, b + 1, K/32)), ascending in token.
inline constexpr int64_t kRestTokens = 48;
struct Q8Rest {
  Q8Rows blocks;
  int32_t* token = nullptr;   // of each pair, in its group
  int32_t* starts = nullptr;  // [groups, K/32 + 1]
  int64_t begin(int64_t group, int64_t b, int64_t n_blocks) const { return starts[group * (n_blocks + 1) + b]; }
};

// Activations for the bfloat16 path, [T, K] in groups of kBf16Group tokens; group g begins at data + g kBf16Group K,
// and how it lies inside is the level's matter. Takes numbers(T, K). Requires: K % 32 == 0.
inline constexpr int64_t kBf16Group = 16;
struct Bf16Rows {
  uint16_t* data = nullptr;
  int64_t cols = 0;  // K

  // Requires: t % kBf16Group == 0.
  uint16_t* group(int64_t t) const { return data + t * cols; }
  static int64_t numbers(int64_t T, int64_t K) { return (T + kBf16Group - 1) / kBf16Group * kBf16Group * K; }
};

// Scratch of int8 products, in rows of K floats: the activations of many tokens in another order.
inline constexpr int64_t kScratchRows = 72;

// A range [begin, end) of rows of a weight.
struct RowRange {
  int64_t begin = 0, end = 0;
};

// Query rows against cached keys and values: the heads that share keys, of one token, or one head of neighbouring
// tokens.
//   out[i] = sum_s softmax_s(scale * q[i] . k[s]) v[s],   s in [0, n_keys + i * keys_step)
// Row s of the cache is at pages[s / page_tokens] + (s % page_tokens) * row_stride; the key is its floats
// [k_offset, k_offset + k_dim), the value [v_offset, v_offset + v_dim) (the two may overlap: MLA's latent is both).
struct AttendArgs {
  const float* q = nullptr;  // [n_q, k_dim], row stride q_stride
  int64_t q_stride = 0;
  int n_q = 0;
  const float* const* pages = nullptr;
  int64_t page_tokens = 0;
  int64_t row_stride = 0;
  int64_t k_offset = 0, k_dim = 0;
  int64_t v_offset = 0, v_dim = 0;
  int64_t n_keys = 0;     // >= 1, of the first row
  int64_t keys_step = 0;  // 0: all rows see the same; 1: each row sees one more than the row before
  float scale = 1;
  float* out = nullptr;  // [n_q, v_dim], row stride out_stride
  int64_t out_stride = 0;
  float* scratch = nullptr;  // n_q * most_keys() floats

  int64_t keys_of(int i) const { return n_keys + i * keys_step; }
  int64_t most_keys() const { return keys_of(n_q - 1); }
};

// Keys and values in int8: what a cache page holds for one layer. Rows of int8, one a position, then the scales: part p
// of a row (a head's key, MLA's latent ..) is scale[p][position in page] * its integers.
//   [page_tokens][row_bytes] int8   [parts][page_tokens] float32
// Requires: page_tokens == kKvBlock; row_bytes and every part a multiple of 64.
inline constexpr int64_t kKvBlock = 64;

// Weights of values are integers up to kQ8WeightSteps, relative to the largest of a block of kKvBlock keys.
inline constexpr float kQ8WeightSteps = 16383;

// Where in a row of such a cache the keys and values are that a group of heads shares.
struct Q8Group {
  int64_t k_offset = 0;  // the key is k_parts parts, one after the other
  int k_parts = 1;
  int64_t k_dims[2] = {};
  int64_t k_scale[2] = {};  // which scale each part has
  int64_t v_offset = 0, v_dim = 0, v_scale = 0;
  int64_t page_offset = 0;  // floats: the rows of this group begin behind those of others
  int64_t k_dim() const { return k_dims[0] + (k_parts > 1 ? k_dims[1] : 0); }
};

// Query rows against int8 keys [begin, end) and their values: a piece of softmax(..) v that attend_q8_merge joins, in
// powers of two.
//   score = scale q k, max[i] = the largest of them
//   sum[i] = sum_s 2^(score - max), out[i] = sum_s 2^(score - max) v[s]
// Row i belongs to token i / heads and sees keys [0, n_keys + i / heads). Weights are rounded to 1/16383 of the largest
// of 64 keys, q to int8 a part. A whole block of kKvBlock keys may be read, whatever stands behind the last key.
struct AttendQ8Args : Q8Group {
  const float* q = nullptr;  // [n_q, k_dim()], row stride q_stride
  int64_t q_stride = 0;
  int64_t n_q = 0, heads = 1;
  const float* const* pages = nullptr;
  int64_t page_tokens = 0;
  int64_t layer_offset = 0;  // floats
  int64_t row_bytes = 0;
  int64_t n_keys = 0;            // of the first token
  int64_t begin = 0, end = 0;    // begin: a multiple of kKvBlock
  float scale = 1;               // of a softmax: its own times log2(e)
  float* max = nullptr;          // [n_q]
  float* sum = nullptr;          // [n_q]; 0 when the row sees nothing of the range
  float* out = nullptr;          // [n_q, v_dim]
  std::byte* scratch = nullptr;  // scratch_bytes()

  int64_t keys_of(int64_t i) const { return n_keys + i / heads; }
  int64_t scratch_bytes() const {
    const int64_t rows = (n_q + 15) / 16 * 16;  // whole registers of any level; weights of 256 keys and their halves
    return (rows + 16) * k_dim() + rows * (6 * 256 + 4 * 10) + 256 * 64 + 8 * kKvBlock + 16 * 64;
  }
};

// Rows of an int8 cache times a weight, back to int8: MLA's latents to the keys and the values of one head. A part of
// the outputs has its own scales: part p of row i is y_scale[i] * y[i * y_stride + j], as quantise_row makes it of
//   x_scale[i] w_scale[n] sum_k x[i, k] w[n, k]      the sum exact in int32
// Requires: K and every part a multiple of 64, T <= kKvBlock; a whole kKvBlock of rows of x may be read.
struct ExpandQ8Args {
  struct Part {
    int64_t N;  // outputs: the next N rows of w
    int8_t* y;
    float* y_scale;  // [T]
  };
  const int8_t* x = nullptr;  // [T, K], row stride x_stride
  int64_t x_stride = 0;
  const float* x_scale = nullptr;  // [T]
  int64_t T = 0, K = 0;
  const std::byte* w = nullptr;    // [parts' N, K], sixteen rows after sixteen rows as pack_q8 lays them out
  const float* w_scale = nullptr;  // [parts' N]
  Part parts[2] = {};
  int64_t y_stride = 0;
  float* scratch = nullptr;  // kKvBlock * (largest N + 1) floats
};

// One row of a piece.
struct AttendPart {
  float* max;
  float* sum;
  float* out;
};

struct KernelTable {
  std::string_view name;

  // y[t, n] = sum_k x[t, k] W[n, k] for n in rows, t in [0, T); float32 activations, weights dequantised on the fly,
  // float32 accumulation. `panel` is scratch of kPanelRows * K floats. All weight dtypes, rows or panels (for panels, a
  // range begins at a multiple of kPanelRows; so it does in the products below).
  // Bytes: rows * row_bytes once a call + T*K*4; FLOPs: 2 T N K.
  void (*gemm_f32)(const Mat& w, RowRange rows, const float* x, int64_t ldx, int64_t T, float* y, int64_t ldy,
                   float* panel);

  // The same with int8 activations; each dot is exact in int32 within a block of 32, then float32 over blocks. The rest
  // of x is a sum of its own over its blocks, added at the end. `scratch` has kScratchRows * K floats.
  // Requires: is_quantised(w.dtype).
  void (*gemm_q8)(const Mat& w, RowRange rows, const Q8Rows& x, int64_t T, float* y, int64_t ldy, float* scratch);

  // The same with activations and weights in bfloat16: products are exact, sums are float32, in an order and with a
  // rounding of the level's own (numbers below 2^-126 may count as zero). Null where the level has no unit for it:
  // gemm_f32 serves. Requires: w.dtype == kBF16, in rows.
  void (*gemm_bf16)(const Mat& w, RowRange rows, const Bf16Rows& x, int64_t T, float* y, int64_t ldy, float* panel);

  // y[t, k] += sum_{n in rows} x[t, n] W[n, k]: the transposed product (absorbed MLA, input gradients).
  // x is [T, N] with row stride ldx, indexed by the absolute n; y is [T, K]. Accumulates in ascending n.
  void (*gemm_nn_f32)(const Mat& w, RowRange rows, const float* x, int64_t ldx, int64_t T, float* y, int64_t ldy,
                      float* panel);

  // One row: out[0..n) = numbers of the row (codec.h, faster).
  void (*dequantise)(const Mat& w, int64_t row, float* out);

  // Rows [0, T) of x [T, K] (stride ldx) to int8 blocks. d = max|x| / 127 of each block of 32, round to nearest even.
  void (*quantise_q8)(const float* x, int64_t ldx, int64_t T, Q8Rows out);

  // Rows [0, T) of x [T, K] (stride ldx) to bfloat16, to nearest even, for gemm_bf16 of the same level. Null with it.
  void (*round_bf16)(const float* x, int64_t ldx, int64_t T, const Bf16Rows& out);

  // y[i] = x[i] * rsqrt(mean(x^2) + eps) * weight[i], one row of n. weight may be null (all ones). y may be x.
  void (*rms_norm)(const float* x, const float* weight, float eps, int64_t n, float* y);

  // y[i] = silu(gate[i]) * up[i], silu(x) = x / (1 + exp(-x)). y may be gate or up.
  void (*silu_mul)(const float* gate, const float* up, int64_t n, float* y);

  // y[i] += a * x[i]
  void (*axpy)(float a, const float* x, int64_t n, float* y);

  // sum_i a[i] b[i]
  float (*dot)(const float* a, const float* b, int64_t n);

  // x := softmax(x) in place, one row of n >= 1, maximum subtracted.
  void (*softmax)(float* x, int64_t n);

  // Rotates n/2 pairs by (cos, sin)[n/2]. Interleaved: pairs (x[2i], x[2i+1]); halves: (x[i], x[i + n/2]).
  void (*rope_interleaved)(float* x, const float* cos, const float* sin, int64_t n);
  void (*rope_halves)(float* x, const float* cos, const float* sin, int64_t n);

  // x := H x / sqrt(n), H the Hadamard matrix of Sylvester: its own inverse, and it spreads an outlier over all n.
  // Requires: n a power of two, at least 32.
  void (*hadamard)(float* x, int64_t n);

  void (*attend)(const AttendArgs& args);

  void (*attend_q8)(const AttendQ8Args& args);

  // Joins a piece of later keys to those before it; out has n numbers, a multiple of 32.
  void (*attend_q8_merge)(const AttendPart& later, const AttendPart& to, int64_t n);

  // Sixteen rows of K numbers (stride ldw) to int8 with a scale each, in the order that expand_q8 of this level reads.
  // out: 16 K bytes; scratch: as much. Requires: K % 64 == 0.
  void (*pack_q8)(const float* w, int64_t ldw, int64_t K, std::byte* out, float* scale, int8_t* scratch);

  // Operations 2 T K N in int8, which are the limit: weights are packed once for many calls.
  void (*expand_q8)(const ExpandQ8Args& args);

  // n numbers to int8: qs = round(x 127 / max|x|), ties to even; returns max|x| / 127. NaN when one is not finite.
  float (*quantise_row)(const float* x, int64_t n, int8_t* qs);
};

// The levels this machine can run, slowest first; ref is always there.
const std::vector<const KernelTable*>& available_kernels();

// The level of that name, or null when this build or this machine does not have it. Empty name: the fastest. Beside the
// available ones there is avx512_amx_emulated, for tests of avx512_amx where the machine has no matrix tiles.
const KernelTable* kernels_by_name(std::string_view name);

}  // namespace westlake
