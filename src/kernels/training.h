// The contract of training: products of matrices in three orientations, attention and the row kernels with their
// gradients, and the updates of the optimisers.
//
// Idea: a product is C (+)= A B with A and B packed beforehand: A by rows, B in panels, both in the operands' precision
// (bfloat16 pairs for the matrix units, or the number type itself). Forward, input gradient and weight gradient are
// the same product with other packings, so one tile kernel a level serves all three, and a packing is paid once for
// all products that read it:
//   y  [T, N] = x  [T, K] W^T      A = x by rows,            B = W^T (packed once a step)
//   dx [T, K] = dy [T, N] W        A = dy by rows,           B = W   (packed once a step)
//   dW [N, K] += dy^T [N, T] x     A = dy transposed,        B = x in panels (packed in the forward pass, kept)
// Real is float, at every level, or double at ref alone: with double the layers' gradients are held against finite
// differences, with float against ref.
//
// Order of arithmetic: an entry of C is summed over K in an order that depends on nothing but K, by one thread. Work is
// cut in pieces of fixed size. So results are bit for bit the same for any number of threads.
// Letters: T tokens, N output features, K input features. Strides are in elements.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/thread_pool.h"
#include "kernels/profile.h"

namespace westlake {

// Of a product's operands. Sums are in Real, weights and their gradients are kept in Real.
enum class Precision { kFull, kBf16 };

// K is padded with zeros to a multiple of this in both operands (AMX: 32 bfloat16 a tile row).
inline constexpr int64_t kOperandK = 32;

// Columns of a panel: two registers of sixteen, two tiles.
inline constexpr int64_t kPanelN = 32;

// A [M, K]: rows of numbers of the operands' precision, k after k.
struct LeftOperand {
  const std::byte* data = nullptr;
  int64_t M = 0, K = 0;
  int64_t row_bytes = 0;
  LeftOperand rows(int64_t begin, int64_t n) const { return {data + begin * row_bytes, n, K, row_bytes}; }
};

// B [K, N] in panels of kPanelN columns, panel after panel. How a panel lies inside is the level's matter, except that
// every kOperandK of k lie together and in order, so that a range of k is an operand as well.
struct RightOperand {
  const std::byte* data = nullptr;
  int64_t K = 0, N = 0;
  int64_t panel_bytes = 0;
};

template <typename Real>
constexpr int64_t operand_number_bytes(Precision p) {
  return p == Precision::kBf16 ? 2 : static_cast<int64_t>(sizeof(Real));
}
constexpr int64_t padded_k(int64_t K) {
  return (K + kOperandK - 1) / kOperandK * kOperandK;
}
// An odd number of cache lines: rows a power of two apart would fall into few sets of the first cache.
template <typename Real>
constexpr int64_t left_row_bytes(Precision p, int64_t K) {
  return (padded_k(K) * operand_number_bytes<Real>(p) + 63) / 64 * 64 / 128 * 128 + 64;
}
template <typename Real>
constexpr int64_t right_panel_bytes(Precision p, int64_t K) {
  return padded_k(K) * kPanelN * operand_number_bytes<Real>(p);
}

// k in [begin, begin + n) of an operand. Requires: both are multiples of kOperandK, or it ends where the operand does.
template <typename Real>
LeftOperand k_range(Precision p, const LeftOperand& a, int64_t begin, int64_t n) {
  return {a.data + begin * operand_number_bytes<Real>(p), a.M, n, a.row_bytes};
}
template <typename Real>
RightOperand k_range(Precision p, const RightOperand& b, int64_t begin, int64_t n) {
  return {b.data + begin * kPanelN * operand_number_bytes<Real>(p), n, b.N, b.panel_bytes};
}

// C [M, N] = A B, or += A B. Requires: a.K == b.K.
template <typename Real>
struct Product {
  LeftOperand a;
  RightOperand b;
  Real* c = nullptr;
  int64_t ldc = 0;
  bool add = false;
};

// Causal attention of one head of one row of tokens, within documents (doc_start[i] <= i):
//   p[i, j] = softmax_j(scale q[i] . k[j]), j in [doc_start[i], i];  out[i] = sum_j p[i, j] v[j]
template <typename Real>
struct TrainAttendArgs {
  int64_t T = 0;
  const Real* q = nullptr;  // [T, k_dim]
  const Real* k = nullptr;  // [T, k_dim]
  const Real* v = nullptr;  // [T, v_dim]
  int64_t q_stride = 0, k_stride = 0, v_stride = 0;
  int64_t k_dim = 0, v_dim = 0;
  const int32_t* doc_start = nullptr;  // [T], ascending; the first token of the document that token i belongs to
  Real scale = 1;                      // > 0
  Precision precision = Precision::kFull;
  Real* out = nullptr;  // [T, v_dim]
  int64_t out_stride = 0;
  Real* lse = nullptr;           // [T]: log sum exp of the scores, for the gradient
  std::byte* scratch = nullptr;  // scratch_bytes of the level
};

// With dout: dv[j] += sum_i p[i, j] dout[i];  ds[i, j] = p[i, j] (dout[i] . v[j] - dout[i] . out[i]);
// dq[i] = scale sum_j ds[i, j] k[j];  dk[j] += scale sum_i ds[i, j] q[i]. dk and dv add up: heads share keys.
template <typename Real>
struct TrainAttendGrad {
  const Real* dout = nullptr;  // [T, v_dim]
  int64_t dout_stride = 0;
  Real* dq = nullptr;
  Real* dk = nullptr;
  Real* dv = nullptr;
  int64_t dq_stride = 0, dk_stride = 0, dv_stride = 0;
};

struct AdamWArgs {
  double lr = 0, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0;
  int64_t step = 1;       // t, from 1
  double grad_scale = 1;  // of clipping: g is multiplied by it first
};

// One level's functions. Each runs on one thread and allocates nothing.
template <typename Real>
struct TrainKernels {
  std::string_view name;

  // Rows [row, row + n) of a left operand from x: plain, x[m, k] at x + m * ldx + k; transposed, at x + k * ldx + m.
  void (*pack_left)(Precision p, const Real* x, int64_t ldx, bool transposed, int64_t row, int64_t n, int64_t K,
                    std::byte* operand);
  // Panels [panel, panel + n) of a right operand from x: plain, x[k, n] at x + k * ldx + n; transposed, x + n * ldx +
  // k.
  void (*pack_right)(Precision p, const Real* x, int64_t ldx, bool transposed, int64_t panel, int64_t n, int64_t K,
                     int64_t N, std::byte* operand);
  // Both operands that a matrix of tokens [T, D] serves as, from one reading. x is at row `row` of it, n rows are
  // there: they become rows of `rows`, a plain left operand [T, D], and k of `columns`: for an input the right operand
  // [T, D] of dW, for a gradient (columns_left) its left operand [D, T]. Either may be null. Requires: row % kOperandK
  // == 0, and n % kOperandK == 0 or these are the last rows.
  void (*pack_both)(Precision p, const Real* x, int64_t ldx, int64_t row, int64_t n, int64_t T, int64_t D,
                    std::byte* rows, std::byte* columns, bool columns_left);
  // Rows [row, row + m) and panels [panel, panel + n) of one product.
  void (*multiply)(Precision p, const Product<Real>& product, int64_t row, int64_t m, int64_t panel, int64_t n);

  void (*attend)(const TrainAttendArgs<Real>& args);
  void (*attend_backward)(const TrainAttendArgs<Real>& args, const TrainAttendGrad<Real>& grad);
  int64_t (*attend_scratch_bytes)(int64_t T, int64_t k_dim, int64_t v_dim);

  // y = x / sqrt(mean(x^2) + eps) * weight over n numbers; returns 1 / sqrt(..), which the gradient needs.
  Real (*rms_norm)(const Real* x, const Real* weight, Real eps, int64_t n, Real* y);
  // dx += the gradient of x, dweight += that of weight. inv: what rms_norm returned.
  void (*rms_norm_backward)(const Real* x, const Real* weight, Real inv, const Real* dy, int64_t n, Real* dx,
                            Real* dweight);
  // y = silu(gate) * up; its gradients. dgate may be gate, dup may be up.
  void (*silu_mul)(const Real* gate, const Real* up, int64_t n, Real* y);
  void (*silu_mul_backward)(const Real* gate, const Real* up, const Real* dy, int64_t n, Real* dgate, Real* dup);
  // Rotates n/2 pairs by (cos, sin)[n/2], or back (the gradient) when `back`. Pairs: (2i, 2i+1), or (i, i + n/2).
  void (*rope)(Real* x, const Real* cos, const Real* sin, int64_t n, bool halves, bool back);
  // Cross-entropy of one row of logits [n] with a target, in nats; logits become (softmax - onehot) * scale.
  double (*cross_entropy)(Real* logits, int64_t n, int64_t target, Real scale);

  void (*axpy)(Real a, const Real* x, int64_t n, Real* y);  // y += a x
  Real (*dot)(const Real* a, const Real* b, int64_t n);
  double (*sum_squares)(const Real* x, int64_t n);

  // p *= 1 - lr decay; m, v, p as Loshchilov & Hutter 2019 (AdamW), bias corrected.
  void (*adamw)(const AdamWArgs& args, const Real* g, int64_t n, Real* p, Real* m, Real* v);
};

// Float levels this machine can run, slowest first; ref is always there. By name: null when it is not here; empty: the
// fastest. Double has ref alone.
std::span<const TrainKernels<float>* const> available_train_kernels();
const TrainKernels<float>* train_kernels_by_name(std::string_view name);
const TrainKernels<double>& ref_train_kernels_double();

// Memory of a step: a stack whose size is found by a dry run, then allocated once. Tapes are taken in the forward pass
// and released in reverse by the backward pass; scratch in between by ArenaScope. While planning it only counts; what
// it hands out then are no addresses, but not null either.
class Arena {
 public:
  Arena() = default;
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  template <typename T>
  T* take(int64_t count) {
    return reinterpret_cast<T*>(take_bytes(count * static_cast<int64_t>(sizeof(T))));
  }
  int64_t mark() const { return used_; }
  void release(int64_t mark) { used_ = mark; }
  int64_t peak_bytes() const { return peak_; }
  void reserve(int64_t bytes);  // Requires: nothing is taken

 private:
  std::byte* take_bytes(int64_t bytes);  // 64-byte aligned. Requires: planning (nothing reserved), or it fits
  std::byte* data_ = nullptr;
  int64_t capacity_ = 0, used_ = 0, peak_ = 0;
};

class ArenaScope {
 public:
  explicit ArenaScope(Arena& arena) : arena_(arena), mark_(arena.mark()) {}
  ~ArenaScope() { arena_.release(mark_); }
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

 private:
  Arena& arena_;
  int64_t mark_;
};

// What every training computation is given. Passed, never global.
template <typename Real>
struct TrainContext {
  const TrainKernels<Real>& kernels;
  ThreadPool& pool;
  Arena& arena;
  Precision precision = Precision::kFull;
  bool planning = false;  // a dry run: memory is counted, nothing is computed, no pointer may be read
  Profile* profile = nullptr;

  // f(begin, end, piece, thread) over [0, n) in pieces of a fixed size, each by whoever is free. Not called when
  // planning.
  template <typename F>
  void for_pieces(int64_t n, int64_t piece, F&& f) {
    if (planning) return;
    pool.for_each_chunk((n + piece - 1) / piece, 1, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t i = begin; i < end; ++i) f(i * piece, std::min(n, (i + 1) * piece), i, thread);
    });
  }
};

// Bytes of an operand at a precision.
template <typename Real>
int64_t left_bytes(Precision p, int64_t M, int64_t K);
template <typename Real>
int64_t right_bytes(Precision p, int64_t K, int64_t N);

// Operands from a matrix, into `to` (left_bytes, right_bytes of them; null: taken from the arena).
template <typename Real>
LeftOperand pack_left(TrainContext<Real>& ctx, const Real* x, int64_t ldx, int64_t M, int64_t K, bool transposed,
                      std::byte* to = nullptr);
template <typename Real>
RightOperand pack_right(TrainContext<Real>& ctx, const Real* x, int64_t ldx, int64_t K, int64_t N, bool transposed,
                        std::byte* to = nullptr);

// What products read of an input x [T, D] of a layer, and of a gradient dy [T, D] of its output.
struct InputOperands {
  LeftOperand rows;      // [T, D]: y = x W^T
  RightOperand columns;  // [T, D]: dW = dy^T x
};
struct GradOperands {
  LeftOperand rows;     // [T, D]: dx = dy W
  LeftOperand columns;  // [D, T]: dW = dy^T x
};
// Into `rows` and `columns`; null: taken from the arena, columns first.
template <typename Real>
InputOperands pack_input(TrainContext<Real>& ctx, const Real* x, int64_t ldx, int64_t T, int64_t D,
                         std::byte* rows = nullptr, std::byte* columns = nullptr);
template <typename Real>
GradOperands pack_grad(TrainContext<Real>& ctx, const Real* dy, int64_t ldy, int64_t T, int64_t D,
                       std::byte* rows = nullptr, std::byte* columns = nullptr);

// All products in one parallel region; the work of all is cut over the threads together.
template <typename Real>
void multiply(TrainContext<Real>& ctx, std::span<const Product<Real>> products);

// A weight under training. Vectors have rows == 1.
template <typename Real>
struct Param {
  int64_t rows = 0, cols = 0;
  Real* value = nullptr;
  Real* grad = nullptr;
  RightOperand forward;   // W^T [cols, rows], packed after every update; empty for vectors and embeddings
  RightOperand backward;  // W [rows, cols]
};

}  // namespace westlake
