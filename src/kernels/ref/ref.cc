// The plain truth: every entry of the contract, one equation after the other, float32 in plain order.
//
// Idea: readable first. Other levels are held against these functions, so nothing here is fast, and nothing is clever:
// no vector flags, no reordering. gemm_q8 is the exception that matters: its fused multiply-adds are part of the
// definition, and every level gives the same bits.
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "kernels/levels.h"
#include "kernels/ref/attend_q8.h"
#include "kernels/ref/unpack.h"
#include "tensor/codec.h"
#include "tensor/scalar.h"

namespace westlake {
namespace {

// ----------------------------------------------------------------------------------------------------------- products

// y[t, n] = sum_k x[t, k] W[n, k]
void gemm_f32(const Mat& w, RowRange rows, const float* x, int64_t ldx, int64_t T, float* y, int64_t ldy,
              float* panel) {
  for (int64_t n = rows.begin; n < rows.end; ++n) {
    dequantise_row(w, n, panel);
    for (int64_t t = 0; t < T; ++t) {
      float sum = 0;
      for (int64_t k = 0; k < w.cols; ++k) sum += x[t * ldx + k] * panel[k];
      y[t * ldy + n] = sum;
    }
  }
}

// With W[n, k] = scale q + min and x[t, k] = d qs in each block of 32 (or half of one):
//   y[t, n] = sum_blocks  (scale d) sum_k q qs  +  min (d sum_k qs)
// The inner sums are integers; the outer one is a chain of fused multiply-adds in ascending order of blocks. The rest
// of the activations is a second chain, added to the first.
float add_block(const IntBlock& block, bool with_min, const int8_t* qs, float d, float sum) {
  const int width = 32 / block.halves;
  for (int h = 0; h < block.halves; ++h) {
    int32_t products = 0, ones = 0;
    for (int i = h * width; i < (h + 1) * width; ++i) {
      products += block.q[i] * qs[i];
      ones += qs[i];
    }
    sum = std::fmaf(block.scale[h] * d, static_cast<float>(products), sum);
    if (with_min) sum = std::fmaf(block.min[h], static_cast<float>(ones) * d, sum);
  }
  return sum;
}

float rest_of(const Mat& w, const std::byte* row, const Q8Rows& x, int64_t t) {
  const int64_t blocks = w.cols / 32, group = t / kRestTokens;
  float sum = 0;
  for (int64_t b = 0; b < blocks; ++b) {
    for (int64_t p = x.rest->begin(group, b, blocks); p < x.rest->begin(group, b + 1, blocks); ++p) {
      if (x.rest->token[p] == t % kRestTokens)
        sum = add_block(unpack_block(w.dtype, row, b), has_min(w.dtype), x.rest->blocks.qs_row(p),
                        *x.rest->blocks.d_row(p), sum);
    }
  }
  return sum;
}

void gemm_q8(const Mat& w, RowRange rows, const Q8Rows& x, int64_t T, float* y, int64_t ldy, float* panel) {
  const bool with_min = has_min(w.dtype);
  for (int64_t n = rows.begin; n < rows.end; ++n) {
    const std::byte* row = w.row(n);
    if (w.layout == MatLayout::kPanels) {
      auto* copy = reinterpret_cast<std::byte*>(panel);
      read_panel_row(w, n, copy);
      row = copy;
    }
    for (int64_t t = 0; t < T; ++t) y[t * ldy + n] = 0;
    for (int64_t b = 0; b < w.cols / 32; ++b) {
      const IntBlock block = unpack_block(w.dtype, row, b);
      for (int64_t t = 0; t < T; ++t) {
        float& sum = y[t * ldy + n];
        sum = add_block(block, with_min, x.qs_row(t) + 32 * b, x.d_row(t)[b], sum);
      }
    }
    for (int64_t t = 0; x.rest != nullptr && t < T; ++t) y[t * ldy + n] += rest_of(w, row, x, t);
  }
}

// y[t, n] = sum_k x[t, k] W[n, k], all of it bfloat16 but the sum
void gemm_bf16(const Mat& w, RowRange rows, const Bf16Rows& x, int64_t T, float* y, int64_t ldy, float* panel) {
  for (int64_t n = rows.begin; n < rows.end; ++n) {
    dequantise_row(w, n, panel);
    for (int64_t t = 0; t < T; ++t) {
      float sum = 0;
      for (int64_t k = 0; k < w.cols; ++k) sum += bf16_to_float(x.data[t * x.cols + k]) * panel[k];
      y[t * ldy + n] = sum;
    }
  }
}

// y[t, k] += sum_n x[t, n] W[n, k]
void gemm_nn_f32(const Mat& w, RowRange rows, const float* x, int64_t ldx, int64_t T, float* y, int64_t ldy,
                 float* panel) {
  for (int64_t n = rows.begin; n < rows.end; ++n) {
    dequantise_row(w, n, panel);
    for (int64_t t = 0; t < T; ++t) {
      for (int64_t k = 0; k < w.cols; ++k) y[t * ldy + k] += x[t * ldx + n] * panel[k];
    }
  }
}

// --------------------------------------------------------------------------------------------------------------- rows

void dequantise(const Mat& w, int64_t row, float* out) {
  dequantise_row(w, row, out);
}

// d = max|x| / 127, qs = round(x * 127 / max|x|), ties to even. A block whose largest magnitude is below 2^-100 becomes
// zeros (127 / max must stay finite). A block with an infinity or a NaN gets d = NaN and qs = 0: whatever it is
// multiplied with is NaN.
void quantise_q8(const float* x, int64_t ldx, int64_t T, Q8Rows out) {
  constexpr uint32_t kInfinity = 0x7f800000;
  for (int64_t t = 0; t < T; ++t) {
    for (int64_t b = 0; b < out.cols / 32; ++b) {
      const float* in = x + t * ldx + 32 * b;
      uint32_t bits = 0;  // of the largest magnitude; the order of magnitudes is the order of their bits, NaN last
      for (int i = 0; i < 32; ++i) bits = std::max(bits, std::bit_cast<uint32_t>(in[i]) & 0x7fffffff);
      const float largest = std::bit_cast<float>(bits);
      const bool finite = bits < kInfinity, zero = bits < std::bit_cast<uint32_t>(0x1p-100f);
      const float inverse = !finite || zero ? 0 : 127.0f / largest;
      out.d_row(t)[b] = !finite ? std::numeric_limits<float>::quiet_NaN() : zero ? 0 : largest / 127.0f;
      for (int half = 0; half < 2; ++half) {
        int sum = 0;
        for (int i = 16 * half; i < 16 * half + 16; ++i) {
          const int q = finite ? static_cast<int>(std::nearbyintf(in[i] * inverse)) : 0;
          out.qs_row(t)[32 * b + i] = static_cast<int8_t>(q);
          sum += q;
        }
        out.sums_row(t)[2 * b + half] = static_cast<int16_t>(sum);
      }
    }
  }
}

// Row after row.
void round_bf16(const float* x, int64_t ldx, int64_t T, const Bf16Rows& out) {
  for (int64_t t = 0; t < T; ++t) {
    for (int64_t k = 0; k < out.cols; ++k) out.data[t * out.cols + k] = float_to_bf16(x[t * ldx + k]);
  }
}

// y[i] = x[i] / sqrt(mean(x^2) + eps) * weight[i]
void rms_norm(const float* x, const float* weight, float eps, int64_t n, float* y) {
  float squares = 0;
  for (int64_t i = 0; i < n; ++i) squares += x[i] * x[i];
  const float scale = 1.0f / std::sqrt(squares / static_cast<float>(n) + eps);
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] * scale * (weight ? weight[i] : 1.0f);
}

// y[i] = gate[i] / (1 + exp(-gate[i])) * up[i]
void silu_mul(const float* gate, const float* up, int64_t n, float* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
}

void axpy(float a, const float* x, int64_t n, float* y) {
  for (int64_t i = 0; i < n; ++i) y[i] += a * x[i];
}

float dot(const float* a, const float* b, int64_t n) {
  float sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// x[i] = exp(x[i] - max) / sum_j exp(x[j] - max). A NaN anywhere, or +inf, or -inf everywhere, makes the row NaN.
void softmax(float* x, int64_t n) {
  float largest = x[0];
  for (int64_t i = 1; i < n; ++i) largest = std::max(largest, x[i]);
  float sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += x[i] = std::exp(x[i] - largest);
  const float scale = 1.0f / sum;
  for (int64_t i = 0; i < n; ++i) x[i] *= scale;
}

// (a, b) -> (a cos - b sin, a sin + b cos)
void rotate(float& a, float& b, float cos, float sin) {
  const float first = a * cos - b * sin;
  b = a * sin + b * cos;
  a = first;
}

void rope_interleaved(float* x, const float* cos, const float* sin, int64_t n) {
  for (int64_t i = 0; i < n / 2; ++i) rotate(x[2 * i], x[2 * i + 1], cos[i], sin[i]);
}

void rope_halves(float* x, const float* cos, const float* sin, int64_t n) {
  for (int64_t i = 0; i < n / 2; ++i) rotate(x[i], x[i + n / 2], cos[i], sin[i]);
}

// x[i] = sum_j (-1)^(bits that i and j share) x[j] / sqrt(n)
void hadamard(float* x, int64_t n) {
  for (int64_t h = 1; h < n; h *= 2) {
    for (int64_t i = 0; i < n; ++i) {
      if ((i & h) != 0) continue;
      const float a = x[i], b = x[i + h];
      x[i] = a + b;
      x[i + h] = a - b;
    }
  }
  for (int64_t i = 0; i < n; ++i) x[i] /= std::sqrt(static_cast<float>(n));
}

// ---------------------------------------------------------------------------------------------------------- attention

// scores[s] = scale q . k[s];  p = softmax(scores);  out = sum_s p[s] v[s]
void attend(const AttendArgs& a) {
  const auto cached = [&](int64_t s) { return a.pages[s / a.page_tokens] + (s % a.page_tokens) * a.row_stride; };
  for (int i = 0; i < a.n_q; ++i) {
    const int64_t keys = a.keys_of(i);
    float* scores = a.scratch + i * a.most_keys();
    for (int64_t s = 0; s < keys; ++s) scores[s] = a.scale * dot(a.q + i * a.q_stride, cached(s) + a.k_offset, a.k_dim);
    softmax(scores, keys);
    float* out = a.out + i * a.out_stride;
    std::fill(out, out + a.v_dim, 0.0f);
    for (int64_t s = 0; s < keys; ++s) axpy(scores[s], cached(s) + a.v_offset, a.v_dim, out);
  }
}

using ref::attend_q8;
using ref::attend_q8_merge;
using ref::expand_q8;
using ref::pack_q8;
using ref::quantise_row;

#include "kernels/table.h"

constexpr KernelTable table_with_bf16() {
  KernelTable table = table_named("ref");
  table.gemm_bf16 = gemm_bf16;
  table.round_bf16 = round_bf16;
  return table;
}

}  // namespace

const KernelTable kRefKernels = table_with_bf16();

}  // namespace westlake
