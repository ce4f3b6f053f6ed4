// Cases of training's products: inputs from the case alone, packed by the level that multiplies, canaries around C. For
// train_products_test.cc and bench/training_bench.cc.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "base/rng.h"
#include "kernels/op_cases.h"
#include "kernels/training.h"

namespace westlake {

struct ProductCase {
  int64_t M = 1, N = 1, K = 1;
  Precision precision = Precision::kBf16;
  bool left_transposed = false, right_transposed = false;
  bool add = false;
  int64_t gap = 0;       // floats between the rows of x, w and C
  int64_t misalign = 0;  // floats by which they are off their alignment

  std::string name() const {
    std::string s = fmt::format("multiply [{}, {}] K={} {}", M, N, K, precision == Precision::kBf16 ? "bf16" : "f32");
    if (left_transposed) s += " A^T";
    if (right_transposed) s += " B^T";
    if (add) s += " add";
    if (gap) s += fmt::format(" gap={}", gap);
    if (misalign) s += fmt::format(" off={}", misalign);
    return s;
  }
};

// Bytes on a cache line, with canaries around them.
class OperandMemory {
 public:
  explicit OperandMemory(int64_t bytes) : bytes_(bytes), v_(static_cast<size_t>(bytes + 3 * kGuard), kCanary) {}
  std::byte* data() { return v_.data() + begin(); }
  bool intact() const {
    for (int64_t i = 0; i < static_cast<int64_t>(v_.size()); ++i) {
      if ((i < begin() || i >= begin() + bytes_) && v_[static_cast<size_t>(i)] != kCanary) return false;
    }
    return true;
  }

 private:
  static constexpr int64_t kGuard = 64;
  static constexpr std::byte kCanary{0xa5};
  int64_t begin() const {
    const auto at = static_cast<int64_t>(reinterpret_cast<uintptr_t>(v_.data()) % kGuard);
    return kGuard + (kGuard - at) % kGuard;
  }
  int64_t bytes_;
  std::vector<std::byte> v_;
};

class ProductRun {
 public:
  explicit ProductRun(const ProductCase& c)
      : c_(c),
        lda_((c.left_transposed ? c.M : c.K) + c.gap),
        ldb_((c.right_transposed ? c.K : c.N) + c.gap),
        ldc_(c.N + c.gap),
        x_((c.left_transposed ? c.K : c.M) * lda_, c.misalign),
        w_((c.right_transposed ? c.N : c.K) * ldb_, c.misalign),
        left_(left_bytes<float>(c.precision, c.M, c.K)),
        right_(right_bytes<float>(c.precision, c.K, c.N)) {
    Rng rng(static_cast<uint64_t>(31 + c.M * 7 + c.N * 131 + c.K * 1009));
    for (int64_t i = 0; i < x_.size(); ++i) x_.data()[i] = static_cast<float>(rng.normal());
    for (int64_t i = 0; i < w_.size(); ++i) w_.data()[i] = static_cast<float>(rng.normal());
  }

  // Packs rows and panels in pieces of the given sizes.
  void pack(const TrainKernels<float>& k, int64_t rows, int64_t panels) {
    for (int64_t r = 0; r < c_.M; r += rows)
      k.pack_left(c_.precision, x_.data(), lda_, c_.left_transposed, r, std::min(rows, c_.M - r), c_.K, left_.data());
    const int64_t all = this->panels();
    for (int64_t i = 0; i < all; i += panels)
      k.pack_right(c_.precision, w_.data(), ldb_, c_.right_transposed, i, std::min(panels, all - i), c_.K, c_.N,
                   right_.data());
  }
  Product<float> product(Guarded& c) {
    return {.a = {left_.data(), c_.M, c_.K, left_row_bytes<float>(c_.precision, c_.K)},
            .b = {right_.data(), c_.K, c_.N, right_panel_bytes<float>(c_.precision, c_.K)},
            .c = c.data(),
            .ldc = ldc_,
            .add = c_.add};
  }
  // C before a run: what is added to, canaries between rows.
  Guarded output() {
    Guarded c((c_.M - 1) * ldc_ + c_.N, c_.misalign);
    for (int64_t i = 0; c_.add && i < c.size(); ++i) {
      if (is_output(i)) c.data()[i] = static_cast<float>(i % 17 - 8);
    }
    return c;
  }
  bool is_output(int64_t i) const { return i % ldc_ < c_.N; }
  bool intact() const { return left_.intact() && right_.intact(); }
  int64_t panels() const { return (c_.N + kPanelN - 1) / kPanelN; }
  // The entry in double, from operands rounded as they should be; its size: the sum of magnitudes.
  double truth(int64_t m, int64_t n, double* size) {
    double sum = *size = 0;
    for (int64_t k = 0; k < c_.K; ++k) {
      const double term = rounded(x_.data()[c_.left_transposed ? k * lda_ + m : m * lda_ + k]) *
                          rounded(w_.data()[c_.right_transposed ? n * ldb_ + k : k * ldb_ + n]);
      sum += term;
      *size += std::abs(term);
    }
    return sum;
  }
  float* x() { return x_.data(); }
  float* w() { return w_.data(); }
  int64_t lda() const { return lda_; }
  int64_t ldb() const { return ldb_; }
  int64_t ldc() const { return ldc_; }
  double flops() const { return 2.0 * static_cast<double>(c_.M) * static_cast<double>(c_.N * c_.K); }

 private:
  double rounded(float x) const { return c_.precision == Precision::kBf16 ? bf16_to_float(float_to_bf16(x)) : x; }
  ProductCase c_;
  int64_t lda_, ldb_, ldc_;
  Guarded x_, w_;
  OperandMemory left_, right_;
};

}  // namespace westlake
