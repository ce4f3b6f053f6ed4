#include "kernels/ref/attend_q8.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

namespace westlake::ref {
namespace {

// A query row as int8, one scale a part.
struct Query {
  std::vector<int8_t> qs;
  float scale[2] = {};
};

Query quantise_query(const AttendQ8Args& a, int64_t i) {
  Query query;
  query.qs.resize(static_cast<size_t>(a.k_dim()));
  int64_t at = 0;
  for (int p = 0; p < a.k_parts; at += a.k_dims[p++])
    query.scale[p] = a.scale * quantise_row(a.q + i * a.q_stride + at, a.k_dims[p], query.qs.data() + at);
  return query;
}

// One row against the keys [b, b + n) of one block.
void attend_block(const AttendQ8Args& a, const Query& query, int64_t i, int64_t b, int64_t n) {
  const auto* page = reinterpret_cast<const int8_t*>(a.pages[b / a.page_tokens] + a.layer_offset + a.page_offset);
  const int8_t* rows = page + b % a.page_tokens * a.row_bytes;
  const auto* scales = reinterpret_cast<const float*>(page + a.page_tokens * a.row_bytes);
  float x[kKvBlock];
  for (int64_t s = 0; s < n; ++s) {
    x[s] = 0;
    int64_t at = 0;
    for (int p = 0; p < a.k_parts; at += a.k_dims[p++]) {
      int32_t dot = 0;
      for (int64_t k = 0; k < a.k_dims[p]; ++k) dot += query.qs[at + k] * rows[s * a.row_bytes + a.k_offset + at + k];
      x[s] = std::fmaf(query.scale[p] * scales[a.k_scale[p] * kKvBlock + s], static_cast<float>(dot), x[s]);
    }
  }
  const float before = a.max[i], now = std::max(before, *std::max_element(x, x + n));
  float total = 0, largest = 0;
  for (int64_t s = 0; s < n; ++s) {
    const float e = std::exp2(x[s] - now);
    total += e;
    x[s] = e * scales[a.v_scale * kKvBlock + s];
    largest = std::max(largest, x[s]);
  }
  const float steps = largest > 0x1p-100f ? kQ8WeightSteps / largest : 0.0f;
  const float fade = before == now ? 1.0f : std::exp2(before - now),
              factor = steps > 0 ? largest / kQ8WeightSteps : 0.0f;
  a.max[i] = now;
  a.sum[i] = std::fmaf(a.sum[i], fade, total);
  for (int64_t d = 0; d < a.v_dim; ++d) {
    int32_t weighted = 0;
    for (int64_t s = 0; s < n; ++s) {
      const int32_t weight = std::isnan(x[s]) ? 0 : static_cast<int32_t>(std::nearbyintf(x[s] * steps));
      weighted += weight * rows[s * a.row_bytes + a.v_offset + d];
    }
    float& out = a.out[i * a.v_dim + d];
    out = std::fmaf(factor, static_cast<float>(weighted), fade * out);
  }
}

}  // namespace

float quantise_row(const float* x, int64_t n, int8_t* qs) {
  uint32_t bits = 0;  // of the largest magnitude; the order of magnitudes is the order of their bits, NaN last
  for (int64_t i = 0; i < n; ++i) bits = std::max(bits, std::bit_cast<uint32_t>(x[i]) & 0x7fffffff);
  const float largest = std::bit_cast<float>(bits);
  if (!(largest >= 0x1p-100f) || !std::isfinite(largest)) {
    std::fill(qs, qs + n, int8_t{0});
    return std::isfinite(largest) ? 0 : std::numeric_limits<float>::quiet_NaN();
  }
  const float inverse = 127.0f / largest;
  for (int64_t i = 0; i < n; ++i) qs[i] = static_cast<int8_t>(std::nearbyintf(x[i] * inverse));
  return largest / 127.0f;
}

void attend_q8(const AttendQ8Args& a) {
  for (int64_t i = 0; i < a.n_q; ++i) {
    const Query query = quantise_query(a, i);
    a.max[i] = -std::numeric_limits<float>::infinity();
    a.sum[i] = 0;
    std::fill(a.out + i * a.v_dim, a.out + (i + 1) * a.v_dim, 0.0f);
    const int64_t end = std::min(a.end, a.keys_of(i));
    for (int64_t b = a.begin; b < end; b += kKvBlock) attend_block(a, query, i, b, std::min(kKvBlock, end - b));
  }
}

void attend_q8_merge(const AttendPart& later, const AttendPart& to, int64_t n) {
  if (*later.sum == 0) return;
  const float now = std::max(*to.max, *later.max);
  const float a = *to.max == now ? 1.0f : std::exp2(*to.max - now);
  const float b = *later.max == now ? 1.0f : std::exp2(*later.max - now);
  *to.max = now;
  *to.sum = std::fmaf(*to.sum, a, *later.sum * b);
  for (int64_t k = 0; k < n; ++k) to.out[k] = std::fmaf(to.out[k], a, later.out[k] * b);
}

// The rows as they are.
void pack_q8(const float* w, int64_t ldw, int64_t K, std::byte* out, float* scale, int8_t*) {
  for (int64_t n = 0; n < 16; ++n) scale[n] = quantise_row(w + n * ldw, K, reinterpret_cast<int8_t*>(out) + n * K);
}

void expand_q8(const ExpandQ8Args& a) {
  int64_t first = 0;
  for (const ExpandQ8Args::Part& part : a.parts) {
    for (int64_t i = 0; i < a.T; ++i) {
      for (int64_t n = 0; n < part.N; ++n) {
        const auto* w = reinterpret_cast<const int8_t*>(a.w) + (first + n) * a.K;
        int32_t dot = 0;
        for (int64_t k = 0; k < a.K; ++k) dot += a.x[i * a.x_stride + k] * w[k];
        a.scratch[n] = a.w_scale[first + n] * static_cast<float>(dot);
      }
      part.y_scale[i] = a.x_scale[i] * quantise_row(a.scratch, part.N, part.y + i * a.y_stride);
    }
    first += part.N;
  }
}

}  // namespace westlake::ref
