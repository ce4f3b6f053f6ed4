// Training's kernels in plain C++, for float and for double: the truth. Sums run in ascending order, those of
// products in double, whatever Real is: the steps of an optimiser that follows signs magnify rounding.
#include "kernels/training.h"

#include <cmath>
#include <cstring>

#include "kernels/levels.h"
#include "tensor/scalar.h"

namespace westlake {
namespace {

template <typename Real>
void store_number(Precision p, Real x, std::byte* row, int64_t i) {
  if (p == Precision::kBf16) {
    reinterpret_cast<uint16_t*>(row)[i] = float_to_bf16(static_cast<float>(x));
  } else {
    reinterpret_cast<Real*>(row)[i] = x;
  }
}

template <typename Real>
Real load_number(Precision p, const std::byte* row, int64_t i) {
  return p == Precision::kBf16 ? static_cast<Real>(bf16_to_float(reinterpret_cast<const uint16_t*>(row)[i]))
                               : reinterpret_cast<const Real*>(row)[i];
}

template <typename Real>
void pack_left(Precision p, const Real* x, int64_t ldx, bool transposed, int64_t row, int64_t n, int64_t K,
               std::byte* operand) {
  const int64_t bytes = left_row_bytes<Real>(p, K);
  for (int64_t m = row; m < row + n; ++m) {
    for (int64_t k = 0; k < padded_k(K); ++k) {
      store_number(p, k >= K ? Real(0) : transposed ? x[k * ldx + m] : x[m * ldx + k], operand + m * bytes, k);
    }
  }
}

// A panel: kPanelN numbers of a k after those of the other.
template <typename Real>
void pack_right(Precision p, const Real* x, int64_t ldx, bool transposed, int64_t panel, int64_t n, int64_t K,
                int64_t N, std::byte* operand) {
  const int64_t bytes = right_panel_bytes<Real>(p, K);
  for (int64_t i = panel; i < panel + n; ++i) {
    for (int64_t k = 0; k < padded_k(K); ++k) {
      for (int64_t j = 0; j < kPanelN; ++j) {
        const int64_t c = i * kPanelN + j;
        const Real number = k >= K || c >= N ? Real(0) : transposed ? x[c * ldx + k] : x[k * ldx + c];
        store_number(p, number, operand + i * bytes, k * kPanelN + j);
      }
    }
  }
}

template <typename Real>
void pack_both(Precision p, const Real* x, int64_t ldx, int64_t row, int64_t n, int64_t T, int64_t D, std::byte* rows,
               std::byte* columns, bool columns_left) {
  if (rows != nullptr) pack_left(p, x, ldx, false, 0, n, D, rows + row * left_row_bytes<Real>(p, D));
  if (columns == nullptr) return;
  const int64_t bytes = columns_left ? left_row_bytes<Real>(p, T) : right_panel_bytes<Real>(p, T);
  for (int64_t c = 0; c < (columns_left ? D : (D + kPanelN - 1) / kPanelN * kPanelN); ++c) {
    for (int64_t k = row; k < row + padded_k(n); ++k) {
      const Real number = c < D && k < row + n ? x[(k - row) * ldx + c] : Real(0);
      if (columns_left) {
        store_number(p, number, columns + c * bytes, k);
      } else {
        store_number(p, number, columns + c / kPanelN * bytes, k * kPanelN + c % kPanelN);
      }
    }
  }
}

template <typename Real>
void multiply(Precision p, const Product<Real>& product, int64_t row, int64_t m, int64_t panel, int64_t n) {
  const int64_t end = std::min((panel + n) * kPanelN, product.b.N);
  for (int64_t i = row; i < row + m; ++i) {
    for (int64_t c = panel * kPanelN; c < end; ++c) {
      double sum = 0;
      for (int64_t k = 0; k < product.a.K; ++k) {
        sum += static_cast<double>(load_number<Real>(p, product.a.data + i * product.a.row_bytes, k)) *
               load_number<Real>(p, product.b.data + c / kPanelN * product.b.panel_bytes, k * kPanelN + c % kPanelN);
      }
      Real& out = product.c[i * product.ldc + c];
      out = static_cast<Real>(product.add ? static_cast<double>(out) + sum : sum);
    }
  }
}

template <typename Real>
Real dot(const Real* a, const Real* b, int64_t n) {
  Real sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

template <typename Real>
void axpy(Real a, const Real* x, int64_t n, Real* y) {
  for (int64_t i = 0; i < n; ++i) y[i] += a * x[i];
}

template <typename Real>
void attend(const TrainAttendArgs<Real>& a) {
  Real* p = reinterpret_cast<Real*>(a.scratch);
  for (int64_t i = 0; i < a.T; ++i) {
    Real most = -INFINITY, sum = 0;
    for (int64_t j = a.doc_start[i]; j <= i; ++j) {
      p[j] = a.scale * dot(a.q + i * a.q_stride, a.k + j * a.k_stride, a.k_dim);
      most = std::max(most, p[j]);
    }
    Real* out = a.out + i * a.out_stride;
    std::fill(out, out + a.v_dim, Real(0));
    for (int64_t j = a.doc_start[i]; j <= i; ++j) {
      const Real e = std::exp(p[j] - most);
      sum += e;
      axpy(e, a.v + j * a.v_stride, a.v_dim, out);
    }
    for (int64_t c = 0; c < a.v_dim; ++c) out[c] /= sum;
    a.lse[i] = most + std::log(sum);
  }
}

template <typename Real>
void attend_backward(const TrainAttendArgs<Real>& a, const TrainAttendGrad<Real>& g) {
  for (int64_t i = 0; i < a.T; ++i) {
    const Real* dout = g.dout + i * g.dout_stride;
    const Real delta = dot(dout, a.out + i * a.out_stride, a.v_dim);
    Real* dq = g.dq + i * g.dq_stride;
    std::fill(dq, dq + a.k_dim, Real(0));
    for (int64_t j = a.doc_start[i]; j <= i; ++j) {
      const Real* k = a.k + j * a.k_stride;
      const Real p = std::exp(a.scale * dot(a.q + i * a.q_stride, k, a.k_dim) - a.lse[i]);
      axpy(p, dout, a.v_dim, g.dv + j * g.dv_stride);
      const Real ds = a.scale * p * (dot(dout, a.v + j * a.v_stride, a.v_dim) - delta);
      axpy(ds, k, a.k_dim, dq);
      axpy(ds, a.q + i * a.q_stride, a.k_dim, g.dk + j * g.dk_stride);
    }
  }
}

template <typename Real>
int64_t attend_scratch_bytes(int64_t T, int64_t, int64_t) {
  return T * static_cast<int64_t>(sizeof(Real));
}

template <typename Real>
Real rms_norm(const Real* x, const Real* weight, Real eps, int64_t n, Real* y) {
  const Real inv = 1 / std::sqrt(dot(x, x, n) / n + eps);
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] * inv * weight[i];
  return inv;
}

// y = x inv w, inv = (x.x/n + eps)^-1/2:  dx = inv (w dy) - x inv^3 / n (x . w dy),  dw = x inv dy
template <typename Real>
void rms_norm_backward(const Real* x, const Real* weight, Real inv, const Real* dy, int64_t n, Real* dx,
                       Real* dweight) {
  Real sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += x[i] * weight[i] * dy[i];
  const Real along = sum * inv * inv * inv / n;
  for (int64_t i = 0; i < n; ++i) {
    dx[i] += inv * weight[i] * dy[i] - x[i] * along;
    dweight[i] += x[i] * inv * dy[i];
  }
}

template <typename Real>
void silu_mul(const Real* gate, const Real* up, int64_t n, Real* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
}

// silu'(g) = s (1 + g (1 - s)), s = sigmoid(g)
template <typename Real>
void silu_mul_backward(const Real* gate, const Real* up, const Real* dy, int64_t n, Real* dgate, Real* dup) {
  for (int64_t i = 0; i < n; ++i) {
    const Real g = gate[i], u = up[i], s = 1 / (1 + std::exp(-g));
    dgate[i] = dy[i] * u * s * (1 + g * (1 - s));
    dup[i] = dy[i] * g * s;
  }
}

template <typename Real>
void rope(Real* x, const Real* cos, const Real* sin, int64_t n, bool halves, bool back) {
  for (int64_t i = 0; i < n / 2; ++i) {
    Real& a = halves ? x[i] : x[2 * i];
    Real& b = halves ? x[i + n / 2] : x[2 * i + 1];
    const Real s = back ? -sin[i] : sin[i], u = a, v = b;
    a = u * cos[i] - v * s;
    b = u * s + v * cos[i];
  }
}

template <typename Real>
double cross_entropy(Real* logits, int64_t n, int64_t target, Real scale) {
  const Real most = *std::max_element(logits, logits + n), at_target = logits[target];
  Real sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += logits[i] = std::exp(logits[i] - most);
  for (int64_t i = 0; i < n; ++i) logits[i] *= scale / sum;
  logits[target] -= scale;
  return static_cast<double>(std::log(sum)) + static_cast<double>(most - at_target);
}

template <typename Real>
double sum_squares(const Real* x, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return sum;
}

template <typename Real>
void adamw(const AdamWArgs& args, const Real* g, int64_t n, Real* p, Real* m, Real* v) {
  const Real b1 = static_cast<Real>(args.beta1), b2 = static_cast<Real>(args.beta2);
  const Real decay = static_cast<Real>(1 - args.lr * args.weight_decay);
  const Real rate = static_cast<Real>(args.lr / (1 - std::pow(args.beta1, static_cast<double>(args.step))));
  const Real second = static_cast<Real>(1 / std::sqrt(1 - std::pow(args.beta2, static_cast<double>(args.step))));
  const Real eps = static_cast<Real>(args.eps), scale = static_cast<Real>(args.grad_scale);
  for (int64_t i = 0; i < n; ++i) {
    const Real x = g[i] * scale;
    m[i] = b1 * m[i] + (1 - b1) * x;
    v[i] = b2 * v[i] + (1 - b2) * x * x;
    p[i] = p[i] * decay - rate * m[i] / (std::sqrt(v[i]) * second + eps);
  }
}

template <typename Real>
constexpr TrainKernels<Real> ref_table() {
  return {
      .name = "ref",
      .pack_left = pack_left<Real>,
      .pack_right = pack_right<Real>,
      .pack_both = pack_both<Real>,
      .multiply = multiply<Real>,
      .attend = attend<Real>,
      .attend_backward = attend_backward<Real>,
      .attend_scratch_bytes = attend_scratch_bytes<Real>,
      .rms_norm = rms_norm<Real>,
      .rms_norm_backward = rms_norm_backward<Real>,
      .silu_mul = silu_mul<Real>,
      .silu_mul_backward = silu_mul_backward<Real>,
      .rope = rope<Real>,
      .cross_entropy = cross_entropy<Real>,
      .axpy = axpy<Real>,
      .dot = dot<Real>,
      .sum_squares = sum_squares<Real>,
      .adamw = adamw<Real>,
  };
}

constexpr TrainKernels<double> kDouble = ref_table<double>();

}  // namespace

constinit const TrainKernels<float> kRefTrainKernels = ref_table<float>();

const TrainKernels<double>& ref_train_kernels_double() {
  return kDouble;
}

}  // namespace westlake
