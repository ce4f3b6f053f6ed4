// The op cases: one table for the tests of every level against ref, for bit-identity, and for the bench.
//
// Idea: a case is an operation, its shape and its dtype. OpRun makes inputs from the case alone (the same every time),
// lays canaries around everything a kernel may write, runs any table of kernels on it, and knows the tolerance, the
// FLOPs and the bytes. Used by kernels_test.cc and bench/kernels_bench.cc only.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/rng.h"
#include "kernels/kernels.h"
#include "tensor/blocks.h"
#include "tensor/scalar.h"

namespace westlake {

enum class Op {
  kGemmF32,
  kGemmQ8,
  kGemmBf16,
  kGemmNnF32,
  kDequantise,
  kQuantiseQ8,
  kRmsNorm,
  kSiluMul,
  kAxpy,
  kDot,
  kSoftmax,
  kRopeInterleaved,
  kRopeHalves,
  kHadamard,
  kAttend,
};
inline constexpr const char* kOpNames[] = {
    "gemm_f32", "gemm_q8", "gemm_bf16", "gemm_nn_f32",      "dequantise",  "quantise_q8", "rms_norm", "silu_mul",
    "axpy",     "dot",     "softmax",   "rope_interleaved", "rope_halves", "hadamard",    "attend"};

struct OpCase {
  Op op = Op::kGemmF32;
  DType dtype = DType::kF32;
  int64_t rows = 0;                    // N of a weight; n_keys of attend
  int64_t cols = 0;                    // K of a weight; n of a row; k_dim of attend
  int64_t T = 1;                       // tokens; n_q of attend
  int64_t v_dim = 0, page_tokens = 0;  // attend
  bool causal = false;                 // attend: the last row sees all keys, each before it one less
  bool fp8_scales = false;             // F8_E4M3 with scales of scale_dtype
  DType scale_dtype = DType::kF32;
  bool panels = false;   // the weight in panels instead of rows
  int64_t gap = 0;       // floats between the end of a row and the next: strides
  int64_t misalign = 0;  // floats by which every buffer is off its alignment

  std::string name() const {
    std::string s =
        fmt::format("{} [{}, {}] T={} {}", kOpNames[static_cast<int>(op)], rows, cols, T, dtype_name(dtype));
    if (panels) s += " panels";
    if (fp8_scales) s += fmt::format(" x {}", dtype_name(scale_dtype));
    if (op == Op::kAttend) s += fmt::format(" v={} page={}", v_dim, page_tokens);
    if (causal) s += " causal";
    if (gap) s += fmt::format(" gap={}", gap);
    if (misalign) s += fmt::format(" off={}", misalign);
    return s;
  }
};

// Random bytes that are a valid weight: every stored integer may occur, scales are of sane size and either sign.
inline std::vector<std::byte> random_weight(DType dtype, int64_t rows, int64_t cols, Rng& rng) {
  std::vector<std::byte> bytes(static_cast<size_t>(rows * dtype_bytes(dtype, cols)));
  for (std::byte& b : bytes) b = static_cast<std::byte>(rng.next() >> 33);
  auto* raw = reinterpret_cast<uint8_t*>(bytes.data());
  const auto put = [&](size_t offset, uint16_t bits) { std::memcpy(raw + offset, &bits, 2); };
  const int64_t count = rows * cols / dtype_info(dtype).block_elements;
  const auto scales_at = [&](std::initializer_list<size_t> offsets) {
    for (int64_t i = 0; i < count; ++i) {
      for (size_t offset : offsets)
        put(static_cast<size_t>(i * dtype_info(dtype).block_bytes) + offset,
            float_to_f16(static_cast<float>(rng.normal() * 0.01)));
    }
  };
  switch (dtype) {
    case DType::kF32:
      for (int64_t i = 0; i < count; ++i) {
        const float x = static_cast<float>(rng.normal());
        std::memcpy(raw + 4 * i, &x, 4);
      }
      break;
    case DType::kBF16:
      for (int64_t i = 0; i < count; ++i)
        put(static_cast<size_t>(2 * i), float_to_bf16(static_cast<float>(rng.normal())));
      break;
    case DType::kF16:
      for (int64_t i = 0; i < count; ++i)
        put(static_cast<size_t>(2 * i), float_to_f16(static_cast<float>(rng.normal())));
      break;
    case DType::kF8E4M3:
      for (int64_t i = 0; i < count; ++i) {
        if ((raw[i] & 0x7f) == 0x7f) raw[i] = 0x3c;  // not a NaN
      }
      break;
    case DType::kQ4_0:
    case DType::kQ5_0:
    case DType::kQ8_0:
    case DType::kIQ4_NL:
    case DType::kIQ4_XS:
      scales_at({0});
      break;
    case DType::kQ4_1:
    case DType::kQ5_1:
    case DType::kQ4_K:
    case DType::kQ5_K:
      scales_at({0, 2});
      break;
    case DType::kQ2_K:
      scales_at({offsetof(BlockQ2_K, d), offsetof(BlockQ2_K, dmin)});
      break;
    case DType::kQ3_K:
      scales_at({offsetof(BlockQ3_K, d)});
      break;
    case DType::kQ6_K:
      scales_at({offsetof(BlockQ6_K, d)});
      break;
    default:
      CHECK(false, "{}", dtype_name(dtype));
  }
  return bytes;
}

// Floats with canaries before and after, and off their alignment when asked.
class Guarded {
 public:
  Guarded(int64_t n, int64_t misalign)
      : begin_(kGuard + misalign), n_(n), v_(static_cast<size_t>(n + 2 * kGuard + 16)) {
    for (uint32_t& word : v_) word = kCanary;
  }
  float* data() { return reinterpret_cast<float*>(v_.data()) + begin_; }
  int64_t size() const { return n_; }
  bool intact() const {
    for (int64_t i = 0; i < static_cast<int64_t>(v_.size()); ++i) {
      if ((i < begin_ || i >= begin_ + n_) && v_[static_cast<size_t>(i)] != kCanary) return false;
    }
    return true;
  }
  static constexpr uint32_t kCanary = 0x7fc0dead;  // a NaN: reading it shows as well

 private:
  static constexpr int64_t kGuard = 64;
  int64_t begin_, n_;
  std::vector<uint32_t> v_;
};

class OpRun {
 public:
  explicit OpRun(const OpCase& c, int threads = 1)
      : c_(c), threads_(threads), rng_(17 + static_cast<uint64_t>(c.rows * 131 + c.cols * 7 + c.T)) {
    const int64_t x_cols = c.op == Op::kGemmNnF32 ? c.rows : c.cols;
    ldx_ = x_cols + c.gap;
    ldy_ = (is_gemm() && c.op != Op::kGemmNnF32 ? c.rows : c.op == Op::kAttend ? c.v_dim : c.cols) + c.gap;
    x_ = floats(c.T * ldx_);
    other_ = floats(c.op == Op::kAttend ? 0 : c.cols + 1);
    third_ = floats(c.cols + 1);
    if (is_gemm() || c.op == Op::kDequantise) make_weight();
    if (c.op == Op::kGemmQ8 || c.op == Op::kQuantiseQ8) make_q8(&q8_);
    if (c.op == Op::kGemmQ8) kernels_by_name("ref")->quantise_q8(x(), ldx_, c.T, q8_.rows);
    if (c.op == Op::kGemmBf16) bf16_.resize(static_cast<size_t>(threads * Bf16Rows::numbers(c.T, c.cols)));
    if (c.op == Op::kAttend) make_pages();
  }

  // False for the operations that a level may leave to another.
  bool runs_on(const KernelTable& k) const { return c_.op != Op::kGemmBf16 || k.gemm_bf16 != nullptr; }

  // Runs rows [begin, end) and tokens [t0, t1) of a gemm; everything of another op.
  // `thread` chooses its scratch.
  void run(const KernelTable& k, RowRange rows, int64_t t0, int64_t t1, Guarded& y, int thread = 0);
  void run(const KernelTable& k, Guarded& y) { run(k, {0, c_.rows}, 0, c_.T, y); }

  // An output of this case before a run: canaries everywhere, and what in-place operations start from.
  Guarded output();
  bool scratch_intact() const { return !panel_ || panel_->intact(); }

  double flops() const;
  double bytes() const;
  // |difference to ref| that is allowed: factor * eps * sqrt(terms) * largest magnitude of the output. 0: the same
  // bits.
  double tolerance(double magnitude) const;
  int64_t ldy() const { return ldy_; }
  Mat& weight() { return w_; }
  float* x() { return x_.data() + c_.misalign; }
  Q8Rows q8() { return q8_.rows; }
  bool is_gemm() const {
    return c_.op == Op::kGemmF32 || c_.op == Op::kGemmQ8 || c_.op == Op::kGemmBf16 || c_.op == Op::kGemmNnF32;
  }
  // True for outputs of the case (and not gaps between rows).
  bool is_output(int64_t i) const { return i % ldy_ < ldy_ - c_.gap; }

 private:
  struct Q8Memory {
    std::vector<int8_t> qs;
    std::vector<float> d;
    std::vector<int16_t> sums;
    Q8Rows rows;
  };
  std::vector<float> floats(int64_t n) {
    std::vector<float> v(static_cast<size_t>(n + 16));
    for (float& each : v) each = static_cast<float>(rng_.normal());
    return v;
  }
  void make_weight();
  void make_q8(Q8Memory* q);
  void make_pages();
  void attend(const KernelTable& k, float* y);

  OpCase c_;
  int threads_;
  Rng rng_;
  int64_t ldx_, ldy_;
  std::vector<float> x_, other_, third_;
  std::vector<std::byte> weight_, panels_, scales_;
  Mat w_;
  Q8Memory q8_;
  std::vector<uint16_t> bf16_;
  std::vector<std::vector<float>> pages_;
  std::vector<const float*> page_pointers_;
  int64_t row_stride_ = 0, v_offset_ = 0;
  std::shared_ptr<Guarded> panel_;
};

// -------------------------------------------------------------------------------------------------------------- inputs

inline void OpRun::make_weight() {
  weight_ = random_weight(c_.dtype, c_.rows, c_.cols, rng_);
  w_ = {c_.dtype, c_.rows, c_.cols, weight_.data(), dtype_bytes(c_.dtype, c_.cols)};
  if (c_.panels) {
    panels_.resize(weight_.size() + 64);
    std::byte* aligned = panels_.data() + (64 - reinterpret_cast<uintptr_t>(panels_.data()) % 64) % 64;
    for (int64_t p = 0; p < c_.rows / kPanelRows; ++p) write_panel(w_, p, aligned + p * kPanelRows * w_.row_bytes);
    w_.data = aligned;
    w_.layout = MatLayout::kPanels;
  }
  if (c_.fp8_scales) {
    const int64_t n = (c_.rows + 127) / 128 * w_.scale_cols();
    scales_.resize(static_cast<size_t>(4 * n));
    for (int64_t i = 0; i < n; ++i) {
      if (c_.scale_dtype == DType::kF8E8M0) {
        scales_[static_cast<size_t>(i)] = static_cast<std::byte>(120 + rng_.below(10));
      } else {
        const float scale = static_cast<float>(0.5 + rng_.uniform());
        std::memcpy(&scales_[static_cast<size_t>(4 * i)], &scale, 4);
      }
    }
    w_.scales = scales_.data();
    w_.scale_dtype = c_.scale_dtype;
  }
  panel_ = std::make_shared<Guarded>(threads_ * kScratchRows * c_.cols, 0);
}

inline void OpRun::make_q8(Q8Memory* q) {
  q->qs.resize(static_cast<size_t>(c_.T * c_.cols));
  q->d.resize(static_cast<size_t>(c_.T * c_.cols / 32));
  q->sums.resize(static_cast<size_t>(c_.T * c_.cols / 16));
  q->rows = {q->qs.data(), q->d.data(), q->sums.data(), c_.cols};
}

// Keys are the first k_dim floats of a cached row; values overlap them when they fit (as MLA's), else follow.
inline void OpRun::make_pages() {
  v_offset_ = c_.v_dim < c_.cols ? 0 : c_.cols;
  row_stride_ = std::max(c_.cols, v_offset_ + c_.v_dim) + c_.gap;
  for (int64_t s = 0; s < c_.rows; s += c_.page_tokens) {
    pages_.push_back(floats(c_.page_tokens * row_stride_));
    page_pointers_.push_back(pages_.back().data() + c_.misalign);
  }
  panel_ = std::make_shared<Guarded>(c_.T * c_.rows, c_.misalign);
}

inline Guarded OpRun::output() {
  int64_t n = c_.op == Op::kDot ? 1 : c_.op == Op::kDequantise ? c_.rows * ldy_ : c_.T * ldy_;
  if (c_.op == Op::kQuantiseQ8) n = c_.T * (c_.cols + c_.cols / 32 + c_.cols / 16);
  if (c_.op == Op::kDot) ldy_ = 1;
  if (c_.op == Op::kQuantiseQ8) ldy_ = std::max<int64_t>(n, 1);
  Guarded y(n, c_.misalign);
  const bool in_place = c_.op == Op::kAxpy || c_.op == Op::kSoftmax || c_.op == Op::kRopeInterleaved ||
                        c_.op == Op::kRopeHalves || c_.op == Op::kHadamard || c_.op == Op::kGemmNnF32;
  for (int64_t i = 0; in_place && i < n; ++i) {
    if (is_output(i)) y.data()[i] = static_cast<float>((i * 37 % 101 - 50) * 0.04);
  }
  return y;
}

// ----------------------------------------------------------------------------------------------------------------- run

inline void OpRun::run(const KernelTable& k, RowRange rows, int64_t t0, int64_t t1, Guarded& out, int thread) {
  float* panel = panel_ ? panel_->data() + thread * kScratchRows * c_.cols : nullptr;
  const int64_t n = c_.cols;
  float* y = out.data();
  const float* a = other_.data() + (c_.misalign ? 1 : 0);
  const float* b = third_.data() + (c_.misalign ? 1 : 0);
  switch (c_.op) {
    case Op::kGemmF32:
      return k.gemm_f32(w_, rows, x() + t0 * ldx_, ldx_, t1 - t0, y + t0 * ldy_, ldy_, panel);
    case Op::kGemmQ8: {
      const Q8Rows part = {q8_.rows.qs_row(t0), q8_.rows.d_row(t0), q8_.rows.sums_row(t0), n};
      return k.gemm_q8(w_, rows, part, t1 - t0, y + t0 * ldy_, ldy_, panel);
    }
    case Op::kGemmBf16: {
      const Bf16Rows part = {bf16_.data() + thread * Bf16Rows::numbers(c_.T, n), n};
      k.round_bf16(x() + t0 * ldx_, ldx_, t1 - t0, part);
      return k.gemm_bf16(w_, rows, part, t1 - t0, y + t0 * ldy_, ldy_, panel);
    }
    case Op::kGemmNnF32:
      return k.gemm_nn_f32(w_, rows, x() + t0 * ldx_, ldx_, t1 - t0, y + t0 * ldy_, ldy_, panel);
    case Op::kDequantise:
      for (int64_t r = 0; r < c_.rows; ++r) k.dequantise(w_, r, y + r * ldy_);
      return;
    case Op::kQuantiseQ8:
      k.quantise_q8(x(), ldx_, c_.T, q8_.rows);
      for (float d : q8_.d) *y++ = d;
      for (int8_t q : q8_.qs) *y++ = q;
      for (int16_t s : q8_.sums) *y++ = s;
      return;
    case Op::kRmsNorm:
      return k.rms_norm(x(), c_.gap ? nullptr : a, 1e-5f, n, y);
    case Op::kSiluMul:
      return k.silu_mul(x(), a, n, y);
    case Op::kAxpy:
      return k.axpy(0.7f, x(), n, y);
    case Op::kDot:
      y[0] = k.dot(x(), a, n);
      return;
    case Op::kSoftmax:
      return k.softmax(y, n);
    case Op::kRopeInterleaved:
      return k.rope_interleaved(y, a, b, n);
    case Op::kRopeHalves:
      return k.rope_halves(y, a, b, n);
    case Op::kHadamard:
      return k.hadamard(y, n);
    case Op::kAttend:
      return attend(k, y);
  }
}

inline void OpRun::attend(const KernelTable& k, float* y) {
  AttendArgs args;
  args.q = x();
  args.q_stride = ldx_;
  args.n_q = static_cast<int>(c_.T);
  args.pages = page_pointers_.data();
  args.page_tokens = c_.page_tokens;
  args.row_stride = row_stride_;
  args.k_dim = c_.cols;
  args.v_offset = v_offset_;
  args.v_dim = c_.v_dim;
  args.keys_step = c_.causal ? 1 : 0;
  args.n_keys = c_.rows - (c_.T - 1) * args.keys_step;
  args.scale = 1 / std::sqrt(static_cast<float>(c_.cols));
  args.out = y;
  args.out_stride = ldy_;
  args.scratch = panel_->data();
  k.attend(args);
}

// --------------------------------------------------------------------------------------------------------------- costs

inline double OpRun::flops() const {
  const double rows = static_cast<double>(c_.rows), cols = static_cast<double>(c_.cols);
  if (is_gemm()) return 2 * rows * cols * static_cast<double>(c_.T);
  if (c_.op == Op::kAttend) return 2 * rows * static_cast<double>((c_.cols + c_.v_dim) * c_.T);
  return 2 * cols;
}

inline double OpRun::bytes() const {
  const double cols = static_cast<double>(c_.cols), T = static_cast<double>(c_.T);
  if (is_gemm()) return static_cast<double>(w_.bytes()) + 4 * T * (cols + static_cast<double>(c_.rows));
  if (c_.op == Op::kDequantise) return static_cast<double>(w_.bytes() + 4 * c_.rows * c_.cols);
  if (c_.op == Op::kAttend) return 4 * static_cast<double>(c_.rows * row_stride_);
  return (c_.op == Op::kDot || c_.op == Op::kSoftmax ? 8 : 12) * cols;
}

inline double OpRun::tolerance(double magnitude) const {
  constexpr double kEps = 0x1p-24;
  switch (c_.op) {
    case Op::kGemmQ8:
    case Op::kDequantise:
    case Op::kQuantiseQ8:
      return 0;
    case Op::kSiluMul:
    case Op::kRopeInterleaved:
    case Op::kRopeHalves:
    case Op::kAxpy:
      return 6 * kEps * magnitude;
    case Op::kGemmNnF32:
      return 4 * kEps * std::sqrt(static_cast<double>(c_.rows)) * magnitude;
    case Op::kAttend:
      return 8 * kEps * std::sqrt(static_cast<double>(c_.rows + c_.cols)) * magnitude;
    case Op::kDot:
      return 4 * kEps * static_cast<double>(c_.cols);  // its one output may be small by chance
    default:
      return 4 * kEps * std::sqrt(static_cast<double>(c_.cols)) * std::max(magnitude, 1e-30);
  }
}

}  // namespace westlake
