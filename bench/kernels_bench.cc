// Kernels against the roofs of this machine. Every line is checked against ref before it is timed.
//
//   kernels_bench [--isa NAME] [--threads N] [--seconds S] [WORDS...]     only lines that contain all the words
//
// op, shape, dtype, isa, threads: median (fastest .. slowest) of the passes, GFLOP/s and GB/s of the median, its share
// of the roof that limits the case, and the ratio to ref on one thread.
#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "base/clock.h"
#include "base/cpu.h"
#include "base/thread_pool.h"
#include "flags.h"
#include "kernels/op_cases.h"
#include "kernels/roof.h"

namespace westlake {
namespace {

std::vector<OpCase> bench_cases() {
  std::vector<OpCase> cases;
  const DType formats[] = {DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1, DType::kQ8_0,   DType::kQ2_K,
                           DType::kQ3_K, DType::kQ4_K, DType::kQ5_K, DType::kQ6_K, DType::kIQ4_NL, DType::kIQ4_XS};
  // Decode: weights far beyond the last cache. Prefill: 256 tokens through a square weight.
  for (DType dtype : formats) {
    for (bool panels : {false, true}) {
      cases.push_back({.op = Op::kGemmQ8, .dtype = dtype, .rows = 65536, .cols = 4096, .T = 1, .panels = panels});
      cases.push_back({.op = Op::kGemmQ8, .dtype = dtype, .rows = 2048, .cols = 2048, .T = 256, .panels = panels});
    }
    cases.push_back({.op = Op::kGemmF32, .dtype = dtype, .rows = 2048, .cols = 2048, .T = 256});
    cases.push_back({.op = Op::kGemmNnF32, .dtype = dtype, .rows = 128, .cols = 512, .T = 1});
  }
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E4M3}) {
    cases.push_back({.op = Op::kGemmF32, .dtype = dtype, .rows = 32768, .cols = 4096, .T = 1});
    cases.push_back({.op = Op::kGemmF32, .dtype = dtype, .rows = 2048, .cols = 2048, .T = 256});
  }
  cases.push_back({.op = Op::kGemmBf16, .dtype = DType::kBF16, .rows = 32768, .cols = 4096, .T = 1});
  for (int64_t T : {8, 32, 256})
    cases.push_back({.op = Op::kGemmBf16, .dtype = DType::kBF16, .rows = 2048, .cols = 2048, .T = T});
  cases.push_back({.op = Op::kGemmBf16, .dtype = DType::kBF16, .rows = 1536, .cols = 576, .T = 256});
  // SmolLM2-135M: everything in the caches, the cost is in the parts.
  cases.push_back({.op = Op::kGemmQ8, .dtype = DType::kQ4_1, .rows = 1536, .cols = 576, .T = 1});
  cases.push_back({.op = Op::kGemmQ8, .dtype = DType::kQ4_1, .rows = 576, .cols = 1536, .T = 1});
  for (int64_t T : {2, 4, 8, 16, 32})
    cases.push_back({.op = Op::kGemmQ8, .dtype = DType::kQ4_0, .rows = 65536, .cols = 4096, .T = T, .panels = true});
  for (int64_t n_q : {1, 8, 16, 128})
    cases.push_back({.op = Op::kAttend, .rows = 2048, .cols = 576, .T = n_q, .v_dim = 512, .page_tokens = 64});
  cases.push_back({.op = Op::kAttend, .rows = 2048, .cols = 64, .T = 3, .v_dim = 64, .page_tokens = 64});
  cases.push_back({.op = Op::kQuantiseQ8, .cols = 4096, .T = 64});
  for (Op op : {Op::kRmsNorm, Op::kSiluMul, Op::kAxpy, Op::kDot, Op::kSoftmax, Op::kRopeInterleaved, Op::kRopeHalves})
    cases.push_back({.op = op, .cols = 4096});
  return cases;
}

constexpr double kLeastSample = 1e-5;  // seconds
constexpr int64_t kMostRepeats = 1 << 20;

double largest(Guarded& y, int64_t n) {
  double top = 0;
  for (int64_t i = 0; i < n; ++i) top = std::max(top, static_cast<double>(std::abs(y.data()[i])));
  return top;
}

// Seconds of ref for `rows` rows, or of everything; negative when the level does not agree with it.
double check(const OpCase& c, OpRun& op, const KernelTable& level, RowRange rows) {
  Guarded truth = op.output(), seen = op.output();
  op.run(level, rows, 0, c.T, seen);
  const int64_t start = now_ns();
  op.run(*kernels_by_name("ref"), rows, 0, c.T, truth);
  const double seconds = seconds_since(start);
  const double allowed = op.tolerance(largest(truth, truth.size()));
  for (int64_t i = 0; i < truth.size(); ++i) {
    const float a = truth.data()[i], b = seen.data()[i];
    if (std::bit_cast<uint32_t>(a) != std::bit_cast<uint32_t>(b) && !(std::abs(a - b) <= allowed)) return -1;
  }
  return seen.intact() && op.scratch_intact() ? seconds : -1;
}

bool line(const OpCase& c, const Options& options, const KernelTable& level, ThreadPool& pool, Roof roof,
          ReadRoof& read_roof) {
  OpRun op(c, pool.size());
  if (!op.runs_on(level)) return true;
  const bool cut = op.is_gemm() && c.op != Op::kGemmNnF32;  // over threads; the other operations are one thread's
  const RowRange checked = {0, cut ? std::min<int64_t>(c.rows, 32) : c.rows};
  const double ref_seconds = check(c, op, level, checked);
  if (ref_seconds < 0) {
    fmt::print("{} {}: DOES NOT AGREE WITH REF\n", c.name(), level.name);
    return false;
  }
  Guarded y = op.output();
  const auto pass = [&] {
    if (!cut) return op.run(level, y);
    pool.for_range(c.rows, kPanelRows, [&](int64_t begin, int64_t end, int thread) {
      op.run(level, {begin, end}, 0, c.T, y, thread);
    });
  };
  std::vector<double> seconds;
  roof.read_gb_s = read_roof.gb_s();
  int64_t repeats = 1;  // passes a sample: so many that the time of the clock itself does not show
  const auto sample = [&] {
    const int64_t from = now_ns();
    for (int64_t i = 0; i < repeats; ++i) pass();
    return seconds_since(from);
  };
  while (sample() < kLeastSample && repeats < kMostRepeats) repeats *= 2;
  for (const int64_t start = now_ns(); seconds_since(start) < options.seconds || seconds.size() < 3;)
    seconds.push_back(sample() / static_cast<double>(repeats));
  roof.read_gb_s = (roof.read_gb_s + read_roof.gb_s()) / 2;  // before and after
  std::sort(seconds.begin(), seconds.end());
  const double median = seconds[seconds.size() / 2];
  const double gflops = op.flops() / median * 1e-9, gbytes = op.bytes() / median * 1e-9;
  const double threads = cut ? 1.0 : 1.0 / pool.size();  // the roofs are of all threads
  const double compute = threads * (c.op == Op::kGemmQ8     ? roof.int8_gop_s
                                    : c.op == Op::kGemmBf16 ? roof.bf16_gflop_s
                                                            : roof.f32_gflop_s);
  const double limit = std::max(op.flops() * 1e-9 / compute, op.bytes() * 1e-9 / (roof.read_gb_s * threads));
  const double ref_all = ref_seconds * (cut ? static_cast<double>(c.rows) / static_cast<double>(checked.end) : 1);
  fmt::print(
      "{:<52} {} x{}: {:9.1f} us ({:.1f} .. {:.1f}) {:8.1f} GFLOP/s {:6.1f} GB/s {:5.1f}% of roof ({:.0f} GB/s) "
      "{:7.1f}x ref\n",
      c.name(), level.name, cut ? pool.size() : 1, median * 1e6, seconds.front() * 1e6, seconds.back() * 1e6, gflops,
      gbytes, 100 * limit / median, roof.read_gb_s, ref_all / median);
  std::fflush(stdout);
  return true;
}

int run(const Options& options) {
  const KernelTable* level = kernels_by_name(options.isa);
  if (level == nullptr) {
    fmt::print(stderr, "no level '{}' here\n", options.isa);
    return 1;
  }
  ThreadPool pool(options.threads);
  const Roof roof = measure_roof(pool);
  fmt::print("{}, {} threads: read {:.1f} GB/s, f32 {:.0f} GFLOP/s, int8 {:.0f} GOP/s, bf16 {:.0f} GFLOP/s\n",
             cpu_name(), pool.size(), roof.read_gb_s, roof.f32_gflop_s, roof.int8_gop_s, roof.bf16_gflop_s);
  ReadRoof read_roof(pool);
  bool all_agree = true;
  for (const OpCase& c : bench_cases()) {
    const std::string name = c.name();
    const auto has = [&](std::string_view word) { return name.find(word) != std::string::npos; };
    if (std::all_of(options.words.begin(), options.words.end(), has))
      all_agree = line(c, options, *level, pool, roof, read_roof) && all_agree;
  }
  return all_agree ? 0 : 1;
}

}  // namespace
}  // namespace westlake

int main(int argc, char** argv) {
  return westlake::run(westlake::parse_flags(argc, argv));
}
