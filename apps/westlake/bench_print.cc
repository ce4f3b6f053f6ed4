// The figures of `westlake bench` as text and as JSON.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <string>

#include "base/cpu.h"
#include "base/json.h"
#include "base/progress.h"
#include "westlake/bench_runs.h"

namespace westlake {
namespace {

// One line of the table of operations.
struct OpLine {
  std::string name;
  int64_t calls = 0;
  double seconds = 0, share = 0;
  double bytes = 0, ops = 0, gb_s = 0, gop_s = 0;
  double roof_fraction = 0;  // 0: nothing is known of what it must do
};

std::vector<OpLine> op_lines(const std::vector<Profile::Entry>& entries, double wall_s, const Roof& roof, bool exact) {
  std::vector<OpLine> lines;
  double rest = wall_s;
  for (const Profile::Entry& e : entries) {
    OpLine line;
    line.name = e.name;
    line.calls = e.calls;
    line.seconds = static_cast<double>(e.ns) * 1e-9;
    line.share = line.seconds / wall_s;
    line.bytes = static_cast<double>(e.work.bytes);
    line.ops = static_cast<double>(e.work.int8_ops + e.work.float_ops);
    line.gb_s = line.bytes / line.seconds * 1e-9;
    line.gop_s = line.ops / line.seconds * 1e-9;
    StepCost cost;
    cost.weight_bytes = e.work.bytes;
    cost.int8_ops = e.work.int8_ops;
    cost.float_ops = e.work.float_ops;
    line.roof_fraction = roof_seconds(cost, roof, exact) / line.seconds;
    rest -= line.seconds;
    lines.push_back(line);
  }
  std::sort(lines.begin(), lines.end(), [](const OpLine& a, const OpLine& b) { return a.seconds > b.seconds; });
  OpLine other;
  other.name = "between them";
  other.seconds = rest;
  other.share = rest / wall_s;
  lines.push_back(other);
  return lines;
}

void put_roof(JsonWriter& w, const Roof& roof) {
  w.key("roof").begin_object().key("read_gb_s").value(roof.read_gb_s).key("f32_gflop_s").value(roof.f32_gflop_s);
  w.key("int8_gop_s").value(roof.int8_gop_s).key("bf16_gflop_s").value(roof.bf16_gflop_s).end_object();
}

void put_phase(JsonWriter& w, const BenchPhase& p) {
  const auto tokens = static_cast<double>(p.tokens);
  w.begin_object().key("tokens").value(p.tokens).key("tok_s").value(p.tok_s);
  w.key("tok_s_min").value(p.tok_s_min).key("tok_s_max").value(p.tok_s_max);
  w.key("bytes_per_token").value(p.bytes_per_token()).key("ops_per_token").value(p.ops_per_token());
  w.key("weight_bytes_per_token").value(static_cast<double>(p.cost.weight_bytes) / tokens);
  w.key("cache_bytes_per_token").value(static_cast<double>(p.cost.cache_bytes) / tokens);
  w.key("read_gb_s").value(p.read_gb_s).key("roof_tok_s").value(p.roof_tok_s);
  w.key("roof_fraction").value(p.roof_fraction).key("predicted_tok_s").value(p.predicted_tok_s).end_object();
}

void put_ops(JsonWriter& w, const std::vector<OpLine>& lines) {
  w.begin_array();
  for (const OpLine& l : lines) {
    w.begin_object().key("op").value(l.name).key("calls").value(l.calls).key("seconds").value(l.seconds);
    w.key("share").value(l.share).key("bytes").value(l.bytes).key("ops").value(l.ops).key("gb_s").value(l.gb_s);
    w.key("gop_s").value(l.gop_s).key("roof_fraction").value(l.roof_fraction).end_object();
  }
  w.end_array();
}

std::string roof_text(const Roof& roof) {
  return fmt::format("read {:.1f} GB/s, f32 {:.0f} GFLOP/s, int8 {:.0f} GOP/s, bf16 {:.0f} GFLOP/s", roof.read_gb_s,
                     roof.f32_gflop_s, roof.int8_gop_s, roof.bf16_gflop_s);
}

void print_phase(std::string_view name, const BenchPhase& p) {
  fmt::print(
      "{:<20}{:>6} tokens {:>8.1f} tok/s ({:.1f} to {:.1f}) {:>9} and {:>6.2f} GOP a token, {:.0f} % of the roof of "
      "{:.1f}; predicted {:.1f}\n",
      name, p.tokens, p.tok_s, p.tok_s_min, p.tok_s_max, human_bytes(static_cast<uint64_t>(p.bytes_per_token())),
      p.ops_per_token() * 1e-9, 100 * p.roof_fraction, p.roof_tok_s, p.predicted_tok_s);
}

void print_ops(std::string_view phase, const std::vector<OpLine>& lines, double wall_s, const Roof& roof) {
  fmt::print("\n{}: {:.1f} ms, read roof {:.1f} GB/s\n", phase, wall_s * 1e3, roof.read_gb_s);
  fmt::print("  {:<22}{:>7}{:>11}{:>8}{:>11}{:>9}{:>10}{:>8}\n", "operation", "calls", "ms", "share", "bytes", "GB/s",
             "GOP/s", "roof");
  for (const OpLine& l : lines) {
    fmt::print("  {:<22}{:>7}{:>11.2f}{:>7.1f}%", l.name, l.calls, l.seconds * 1e3, 100 * l.share);
    if (l.bytes + l.ops > 0) {
      fmt::print("{:>11}{:>9.1f}{:>10.1f}{:>7.0f}%", human_bytes(static_cast<uint64_t>(l.bytes)), l.gb_s, l.gop_s,
                 100 * l.roof_fraction);
    }
    fmt::print("\n");
  }
}

}  // namespace

void print_roof(const Roof& roof, int threads, bool json) {
  if (!json) {
    fmt::print("{}, {} threads\n{}\n", cpu_name(), threads, roof_text(roof));
    return;
  }
  JsonWriter w;
  w.begin_object().key("cpu").value(cpu_name()).key("threads").value(threads);
  put_roof(w, roof);
  fmt::print("{}\n", w.end_object().text());
}

void print_bench_json(const BenchResult& r, const Runtime& runtime) {
  const bool exact = runtime.context->exact;
  JsonWriter w;
  w.begin_object().key("model").value(runtime.checkpoint->path()).key("cpu").value(cpu_name());
  w.key("isa").value(runtime.context->kernels.name).key("threads").value(runtime.pool->size());
  w.key("exact").value(exact).key("prefill");
  put_phase(w, r.prefill);
  if (r.decode) put_phase(w.key("decode"), *r.decode);
  if (!r.batches.empty()) {
    w.key("batch").begin_object();
    for (const BatchResult& b : r.batches) put_phase(w.key(std::to_string(b.sequences)), b.decode);
    w.end_object().key("batch_expected_experts").begin_object();
    for (const BatchResult& b : r.batches) w.key(std::to_string(b.sequences)).value(b.expected_experts);
    w.end_object();
  }
  if (!r.contexts.empty()) {
    w.key("context").begin_object();
    for (const ContextResult& c : r.contexts) {
      put_phase(w.key(std::to_string(c.positions)).begin_object().key("prefill"), c.prefill);
      put_phase(w.key("decode"), c.decode);
      w.key("loss_percent").value(c.loss_percent).end_object();
    }
    w.end_object();
  }
  if (r.ops) {
    put_ops(w.key("ops").begin_object().key("prefill"), op_lines(r.ops->prefill, r.ops->prefill_s, r.ops->roof, exact));
    put_ops(w.key("decode"), op_lines(r.ops->decode, r.ops->decode_s, r.ops->roof, exact));
    w.key("read_gb_s").value(r.ops->roof.read_gb_s).end_object();
  }
  put_roof(w, r.roof);
  w.key("peak_rss_bytes").value(r.peak_rss_bytes).key("file_bytes").value(runtime.weights().file_bytes());
  w.key("load_s").value(runtime.load_s).end_object();
  fmt::print("{}\n", w.text());
}

void print_bench_text(const BenchResult& r, const Runtime& runtime) {
  const bool exact = runtime.context->exact;
  fmt::print("{}, {} threads, kernels {}{}\n", cpu_name(), runtime.pool->size(), runtime.context->kernels.name,
             exact ? ", exact" : "");
  fmt::print("roof: {}\n", roof_text(r.roof));
  print_phase("prefill", r.prefill);
  if (r.decode) print_phase("decode", *r.decode);
  for (const BatchResult& b : r.batches) {
    print_phase(fmt::format("batch of {}", b.sequences), b.decode);
    if (b.expected_experts > 0)
      fmt::print("{:<20}bytes of {:.1f} experts a layer, as even routing would choose\n", "", b.expected_experts);
  }
  for (const ContextResult& c : r.contexts) {
    print_phase(fmt::format("prefill of {}", c.positions), c.prefill);
    print_phase(fmt::format("decode at {}", c.positions), c.decode);
    fmt::print("{:<20}{:.1f} % less than at {}\n", "", c.loss_percent, kShortContext);
  }
  fmt::print("load {:.2f} s, peak RSS {}, file {}\n", runtime.load_s, human_bytes(r.peak_rss_bytes),
             human_bytes(static_cast<uint64_t>(runtime.weights().file_bytes())));
  if (!r.ops) return;
  const OpsResult& o = *r.ops;
  print_ops("prefill", op_lines(o.prefill, o.prefill_s, o.roof, exact), o.prefill_s, o.roof);
  if (!o.decode.empty()) print_ops("decode", op_lines(o.decode, o.decode_s, o.roof, exact), o.decode_s, o.roof);
}

}  // namespace westlake
