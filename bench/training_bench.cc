// Training's kernels against the roofs of this machine. Every line is checked before it is timed.
//
//   training_bench [--isa NAME] [--threads N] [--seconds S] [WORDS...]     only lines that contain all the words
//
// op, shape, precision, isa, threads: median (fastest .. slowest) of the passes, GFLOP/s of the median and its share of
// the arithmetic roof of the precision, or GB/s and the share of the read roof where memory is the limit. A product is
// timed with packed operands, and once more with its left operand packed every time ("+pack": the right one, a weight,
// is packed once a step) or both ("+pack2": gradients of weights).
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "base/clock.h"
#include "base/cpu.h"
#include "flags.h"
#include "kernels/roof.h"
#include "kernels/train_cases.h"

namespace westlake {
namespace {

class Bench {
 public:
  Bench(const Options& options, const TrainKernels<float>& level, ThreadPool& pool)
      : options_(options), level_(level), pool_(pool), roof_(measure_roof(pool)), read_roof_(pool) {
    fmt::print("{}, {} threads: read {:.1f} GB/s, f32 {:.0f} GFLOP/s, bf16 {:.0f} GFLOP/s\n", cpu_name(), pool.size(),
               roof_.read_gb_s, roof_.f32_gflop_s, roof_.bf16_gflop_s);
  }

  bool wanted(const std::string& name) const {
    return std::all_of(options_.words.begin(), options_.words.end(),
                       [&](std::string_view word) { return name.find(word) != std::string::npos; });
  }

  // A line: `flops` and `bytes` of a pass, the greater share of its roof counts.
  template <typename F>
  void line(const std::string& name, Precision precision, int threads, double flops, double bytes, F&& pass) {
    if (!wanted(name)) return;
    std::vector<double> seconds;
    pass();
    for (const int64_t start = now_ns(); seconds_since(start) < options_.seconds || seconds.size() < 3;) {
      const int64_t from = now_ns();
      pass();
      seconds.push_back(seconds_since(from));
    }
    std::sort(seconds.begin(), seconds.end());
    const double median = seconds[seconds.size() / 2], share = static_cast<double>(threads) / pool_.size();
    const bool pairs = precision == Precision::kBf16 && roof_.bf16_gflop_s > 0;
    const double compute = (pairs ? roof_.bf16_gflop_s : roof_.f32_gflop_s) * share;
    const double limit = std::max(flops * 1e-9 / compute, bytes * 1e-9 / (read_roof_.gb_s() * share));
    fmt::print("{:<52} {} x{}: {:9.1f} us ({:.1f} .. {:.1f}) {:8.1f} GFLOP/s {:6.1f} GB/s {:5.1f}% of roof\n", name,
               level_.name, threads, median * 1e6, seconds.front() * 1e6, seconds.back() * 1e6, flops / median * 1e-9,
               bytes / median * 1e-9, 100 * limit / median);
    std::fflush(stdout);
  }

  // M rows times N columns, in `groups` products of M / groups rows, each with its own right operand (experts).
  bool products(const ProductCase& c, int64_t groups = 1);

  const TrainKernels<float>& level() const { return level_; }
  ThreadPool& pool() { return pool_; }

 private:
  const Options& options_;
  const TrainKernels<float>& level_;
  ThreadPool& pool_;
  Roof roof_;
  ReadRoof read_roof_;
};

bool agrees(ProductRun& run, const ProductCase& c, const float* out) {
  Rng rng(1);
  for (int i = 0; i < 200; ++i) {
    const int64_t m = static_cast<int64_t>(rng.next() >> 33) % c.M, n = static_cast<int64_t>(rng.next() >> 33) % c.N;
    double size = 0;
    const double truth = run.truth(m, n, &size);
    const double allowed = 0x1p-23 * (2 + std::sqrt(static_cast<double>(c.K))) * size;
    if (!(std::abs(out[m * c.N + n] - truth) <= allowed)) return false;
  }
  return true;
}

bool Bench::products(const ProductCase& c, int64_t groups) {
  std::string name = c.name();
  if (groups > 1) name = fmt::format("{} x {} experts", name, groups);
  if (!wanted(name) && !wanted(name + " +pack") && !wanted(name + " +pack2")) return true;
  ProductRun run(c);
  Arena arena;
  TrainContext<float> ctx{.kernels = level_, .pool = pool_, .arena = arena, .precision = c.precision};
  const int64_t left = left_bytes<float>(c.precision, c.M, c.K), right = right_bytes<float>(c.precision, c.K, c.N);
  const int64_t x_floats = (c.left_transposed ? c.K : c.M) * run.lda();
  arena.reserve(left + groups * (right + 64) + 4 * c.M * c.N + 4 * x_floats + 256);
  auto* x = arena.take<float>(x_floats);  // as in a step: in large pages
  std::copy_n(run.x(), x_floats, x);
  auto* left_at = arena.take<std::byte>(left);
  std::vector<Product<float>> all;
  auto* out = arena.take<float>(c.M * c.N);
  const auto pack_left_again = [&] { return pack_left(ctx, x, run.lda(), c.M, c.K, c.left_transposed, left_at); };
  const LeftOperand a = pack_left_again();
  std::byte* right_at = nullptr;
  for (int64_t g = 0; g < groups; ++g) {
    right_at = arena.take<std::byte>(right);
    const RightOperand b = pack_right(ctx, run.w(), run.ldb(), c.K, c.N, c.right_transposed, right_at);
    const int64_t begin = c.M * g / groups, rows = c.M * (g + 1) / groups - begin;
    all.push_back({a.rows(begin, rows), b, out + begin * c.N, c.N, false});
  }
  multiply<float>(ctx, all);
  if (!agrees(run, c, out)) {
    fmt::print("{} {}: DOES NOT AGREE\n", name, level_.name);
    return false;
  }
  const double bytes = static_cast<double>(left + groups * right + 4 * c.M * c.N);
  line(name, c.precision, pool_.size(), run.flops(), bytes, [&] { multiply<float>(ctx, all); });
  line(name + (groups == 1 && c.left_transposed ? " +pack2" : " +pack"), c.precision, pool_.size(), run.flops(), bytes,
       [&] {
         pack_left_again();
         if (groups == 1 && c.left_transposed)
           pack_right(ctx, run.w(), run.ldb(), c.K, c.N, c.right_transposed, right_at);
         multiply<float>(ctx, all);
       });
  return true;
}

bool all_products(Bench& bench) {
  bool agree = true;
  struct Shape {
    int64_t T, K, N;
  };
  // GPT-2-124M, then small models; forward, gradient of the input, gradient of the weight.
  for (const Shape& s : {Shape{4096, 768, 768},
                         {4096, 768, 3072},
                         {4096, 3072, 768},
                         {8192, 512, 512},
                         {8192, 512, 1408},
                         {8192, 256, 256},
                         {8192, 256, 768},
                         {8192, 256, 8192}}) {
    for (Precision p : {Precision::kBf16, Precision::kFull}) {
      agree &= bench.products({.M = s.T, .N = s.N, .K = s.K, .precision = p, .right_transposed = true});
      agree &= bench.products({.M = s.T, .N = s.K, .K = s.N, .precision = p});
      agree &= bench.products({.M = s.N, .N = s.K, .K = s.T, .precision = p, .left_transposed = true});
    }
  }
  for (int64_t rows : {500, 1000}) {
    agree &= bench.products({.M = 16 * rows, .N = 256, .K = 512, .right_transposed = true}, 16);
    agree &= bench.products({.M = 16 * rows, .N = 512, .K = 256}, 16);
  }
  // Newton-Schulz: X X^T and A X.
  for (const auto& [m, n] : {std::pair<int64_t, int64_t>{64, 256}, {256, 256}, {256, 768}, {512, 512}, {1024, 1024}}) {
    agree &= bench.products({.M = m, .N = m, .K = n, .right_transposed = true});
    agree &= bench.products({.M = m, .N = n, .K = m});
  }
  return agree;
}

// Heads of rows of T tokens, each on one thread: forward, and the gradient of forward's results.
void attention(Bench& bench, int64_t T, int64_t k_dim, int64_t v_dim, Precision p) {
  const int64_t heads = std::max<int64_t>(4, 16384 / T);
  const std::string shape = fmt::format("T={} k={} v={} {}", T, k_dim, v_dim, p == Precision::kBf16 ? "bf16" : "f32");
  if (!bench.wanted("attend " + shape) && !bench.wanted("attend_backward " + shape)) return;
  const TrainKernels<float>& level = bench.level();
  const int64_t scratch = level.attend_scratch_bytes(T, k_dim, v_dim);
  Arena arena;
  arena.reserve(heads * T * (4 * k_dim + 4 * v_dim + 1) * 4 + bench.pool().size() * scratch + heads * 4096);
  Rng rng(3);
  const auto random = [&](int64_t n) {
    auto* x = arena.take<float>(n);
    for (int64_t i = 0; i < n; ++i) x[i] = static_cast<float>(rng.normal());
    return x;
  };
  float *q = random(heads * T * k_dim), *k = random(heads * T * k_dim), *v = random(heads * T * v_dim);
  float *dq = random(heads * T * k_dim), *dk = random(heads * T * k_dim), *dv = random(heads * T * v_dim);
  float *out = random(heads * T * v_dim), *dout = random(heads * T * v_dim), *lse = random(heads * T);
  auto* memory = arena.take<std::byte>(bench.pool().size() * scratch);
  const std::vector<int32_t> doc_start(static_cast<size_t>(T), 0);
  const auto args = [&](int64_t h, int thread) {
    return TrainAttendArgs<float>{.T = T,
                                  .q = q + h * k_dim,
                                  .k = k + h * k_dim,
                                  .v = v + h * v_dim,
                                  .q_stride = heads * k_dim,
                                  .k_stride = heads * k_dim,
                                  .v_stride = heads * v_dim,
                                  .k_dim = k_dim,
                                  .v_dim = v_dim,
                                  .doc_start = doc_start.data(),
                                  .scale = 1 / std::sqrt(static_cast<float>(k_dim)),
                                  .precision = p,
                                  .out = out + h * v_dim,
                                  .out_stride = heads * v_dim,
                                  .lse = lse + h * T,
                                  .scratch = memory + thread * scratch};
  };
  const double pairs = static_cast<double>(heads * T) * static_cast<double>(T + 1) / 2;
  const auto all_heads = [&](auto&& f) {
    bench.pool().for_each_chunk(heads, 1, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t h = begin; h < end; ++h) f(h, thread);
    });
  };
  bench.line("attend " + shape, p, bench.pool().size(), 2 * pairs * static_cast<double>(k_dim + v_dim), 0,
             [&] { all_heads([&](int64_t h, int thread) { level.attend(args(h, thread)); }); });
  bench.line("attend_backward " + shape, p, bench.pool().size(), 2 * pairs * static_cast<double>(3 * k_dim + 2 * v_dim),
             0, [&] {
               all_heads([&](int64_t h, int thread) {
                 level.attend_backward(args(h, thread), {.dout = dout + h * v_dim,
                                                         .dout_stride = heads * v_dim,
                                                         .dq = dq + h * k_dim,
                                                         .dk = dk + h * k_dim,
                                                         .dv = dv + h * v_dim,
                                                         .dq_stride = heads * k_dim,
                                                         .dk_stride = heads * k_dim,
                                                         .dv_stride = heads * v_dim});
               });
             });
}

// Row kernels over many rows, cut over the threads; bytes: every array once, written ones twice.
void rows(Bench& bench, int64_t T, int64_t D) {
  Arena arena;
  float* x[5];
  arena.reserve(5 * T * D * 4 + 3 * D * 4 + 4096);
  Rng rng(3);
  for (float*& each : x) {
    each = arena.take<float>(T * D);
    for (int64_t i = 0; i < T * D; ++i) each[i] = static_cast<float>(std::abs(rng.normal()));
  }
  auto *w = arena.take<float>(D), *dw = arena.take<float>(D);
  for (int64_t i = 0; i < D; ++i) w[i] = 1;
  const TrainKernels<float>& k = bench.level();
  const auto line = [&](const char* name, int64_t numbers, auto&& row) {
    bench.line(fmt::format("{} [{}, {}]", name, T, D), Precision::kFull, bench.pool().size(), 0,
               static_cast<double>(4 * T * D * numbers), [&] {
                 bench.pool().for_range(T, 8, [&](int64_t begin, int64_t end, int) {
                   for (int64_t t = begin; t < end; ++t) row(t, t * D);
                 });
               });
  };
  line("rms_norm", 3, [&](int64_t, int64_t i) { k.rms_norm(x[0] + i, w, 1e-5f, D, x[1] + i); });
  if (bench.pool().size() == 1)
    line("rms_norm_backward", 4,
         [&](int64_t, int64_t i) { k.rms_norm_backward(x[0] + i, w, 1, x[1] + i, D, x[2] + i, dw); });
  line("silu_mul", 4, [&](int64_t, int64_t i) { k.silu_mul(x[0] + i, x[1] + i, D, x[2] + i); });
  line("silu_mul_backward", 7,
       [&](int64_t, int64_t i) { k.silu_mul_backward(x[0] + i, x[1] + i, x[2] + i, D, x[3] + i, x[4] + i); });
  line("rope", 2, [&](int64_t, int64_t i) { k.rope(x[0] + i, x[3], x[4], D, false, false); });
  line("cross_entropy", 2, [&](int64_t, int64_t i) { k.cross_entropy(x[2] + i, D, 3, 1); });
  line("axpy", 3, [&](int64_t, int64_t i) { k.axpy(1e-9f, x[0] + i, D, x[1] + i); });
  line("sum_squares", 1, [&](int64_t, int64_t i) { k.sum_squares(x[0] + i, D); });
  line("adamw", 7, [&](int64_t, int64_t i) { k.adamw({.lr = 1e-9}, x[0] + i, D, x[1] + i, x[2] + i, x[3] + i); });
}

// Packing alone; bytes: read once, written once.
void packing(Bench& bench, int64_t T, int64_t D) {
  Arena arena;
  const Precision p = Precision::kBf16;
  TrainContext<float> ctx{.kernels = bench.level(), .pool = bench.pool(), .arena = arena, .precision = p};
  const int64_t bytes = std::max(std::max(left_bytes<float>(p, T, D), left_bytes<float>(p, D, T)),
                                 std::max(right_bytes<float>(p, T, D), right_bytes<float>(p, D, T)));
  arena.reserve(4 * T * D + 3 * bytes + 256);
  auto* x = arena.take<float>(T * D);
  auto* to = arena.take<std::byte>(bytes);
  for (int64_t i = 0; i < T * D; ++i) x[i] = static_cast<float>(i % 101);
  const auto line = [&](const char* name, auto&& pass) {
    bench.line(fmt::format("{} [{}, {}] bf16", name, T, D), p, bench.pool().size(), 0, 6.0 * static_cast<double>(T * D),
               pass);
  };
  line("pack_left", [&] { pack_left(ctx, x, D, T, D, false, to); });
  line("pack_left^T", [&] { pack_left(ctx, x, D, D, T, true, to); });
  line("pack_right", [&] { pack_right(ctx, x, D, T, D, false, to); });
  const auto both = [&](const char* name, bool columns_left) {
    const double more = 2.0 * static_cast<double>(T * D);
    bench.line(fmt::format("{} [{}, {}] bf16", name, T, D), p, bench.pool().size(), 0,
               6.0 * static_cast<double>(T * D) + more, [&] {
                 const int64_t mark = arena.mark();
                 columns_left ? void(pack_grad(ctx, x, D, T, D)) : void(pack_input(ctx, x, D, T, D));
                 arena.release(mark);
               });
  };
  both("pack_input", false);
  both("pack_grad", true);
  line("pack_right^T", [&] { pack_right(ctx, x, D, D, T, true, to); });
}

int run(const Options& options) {
  const TrainKernels<float>* level = train_kernels_by_name(options.isa);
  if (level == nullptr) {
    fmt::print(stderr, "no level '{}' here\n", options.isa);
    return 1;
  }
  ThreadPool pool(options.threads);
  Bench bench(options, *level, pool);
  const bool agree = all_products(bench);
  for (Precision p : {Precision::kBf16, Precision::kFull}) {
    attention(bench, 512, 64, 64, p);
    attention(bench, 512, 48, 32, p);
    attention(bench, 1024, 128, 128, p);
    attention(bench, 4096, 192, 128, p);
  }
  for (int64_t T : {256, 1024}) packing(bench, T, 256);
  for (int64_t D : {256, 768, 3072}) packing(bench, 8192, D);
  rows(bench, 4096, 768);
  rows(bench, 512, 8192);
  rows(bench, 128, 50304);
  return agree ? 0 : 1;
}

}  // namespace
}  // namespace westlake

int main(int argc, char** argv) {
  return westlake::run(westlake::parse_flags(argc, argv));
}
