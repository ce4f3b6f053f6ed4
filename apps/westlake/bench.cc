// westlake bench: tokens a second of prefill and decode, beside what this machine's roofs allow.
// Roofs are measured in the same run: bytes a second that all threads read, operations a second of the matrix units.
// decode:  a token reads every chosen weight once        -> roof = read bandwidth / bytes a token
// prefill: a piece of text multiplies and reads          -> roof = tokens / max(operations / peak, bytes / bandwidth)
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include "base/clock.h"
#include "base/cpu.h"
#include "base/json.h"
#include "base/progress.h"
#include "base/rng.h"
#include "infer/kv_cache.h"
#include "kernels/roof.h"
#include "westlake/command.h"
#include "westlake/runtime.h"

namespace westlake {
namespace {

struct Options {
  RuntimeOptions runtime;
  int64_t prefill = 512, decode = 64, repeats = 5, chunk = 512;
  bool json = false;
};

struct Phase {
  double tok_s = 0, tok_s_min = 0, tok_s_max = 0;  // median and spread over the repeats
  int64_t bytes_per_token = 0, ops_per_token = 0;
  double roof_tok_s = 0, roof_fraction = 0;
};

void set_rates(std::vector<double> rates, Phase* phase) {
  std::sort(rates.begin(), rates.end());
  phase->tok_s = rates[rates.size() / 2];
  phase->tok_s_min = rates.front();
  phase->tok_s_max = rates.back();
  phase->roof_fraction = phase->tok_s / phase->roof_tok_s;
}

// Multiply-adds of attention for one token that sees `keys` positions, counted as two operations each.
int64_t attention_ops(const ModelConfig& c, int64_t keys, bool absorbed) {
  const int64_t dims =
      c.mla() ? absorbed ? 2 * c.kv_lora_rank + c.qk_rope_head_dim : c.qk_head_dim() + c.v_head_dim : 2 * c.head_dim;
  return 2 * c.num_hidden_layers * c.num_attention_heads * dims * keys;
}

class Bench {
 public:
  Bench(const Options& options, Runtime& runtime)
      : options_(options),
        runtime_(runtime),
        model_(*runtime.model),
        pool_(model_.cache_shape(kPageTokens)),
        cache_(pool_),
        logits_(model_.config().vocab_size) {
    Rng rng(1);
    for (int64_t i = 0; i < options.prefill + options.decode; ++i)
      tokens_.push_back(static_cast<int32_t>(rng.below(static_cast<uint64_t>(model_.config().vocab_size))));
  }

  Status run() {
    roof_ = measure_roof(*runtime_.pool);
    TRY(cache_.ensure(options_.prefill + options_.decode));
    plan_roofs();
    prefill();  // once to touch every page of the file
    std::vector<double> rates, decode_rates;
    for (int64_t i = 0; i < options_.repeats; ++i) {
      const int64_t start = now_ns();
      prefill();
      rates.push_back(static_cast<double>(options_.prefill) / seconds_since(start));
      const int64_t middle = now_ns();
      for (int64_t t = 0; t < options_.decode; ++t) step(options_.prefill + t);
      if (options_.decode > 0) decode_rates.push_back(static_cast<double>(options_.decode) / seconds_since(middle));
    }
    set_rates(rates, &prefill_);
    if (!decode_rates.empty()) set_rates(decode_rates, &decode_);
    return {};
  }

  void print_json() const {
    JsonWriter w;
    w.begin_object().key("model").value(runtime_.checkpoint->path()).key("cpu").value(cpu_name());
    w.key("isa").value(runtime_.context->kernels.name).key("threads").value(runtime_.pool->size());
    w.key("exact").value(runtime_.context->exact);
    put(w, "prefill", options_.prefill, prefill_);
    put(w, "decode", options_.decode, decode_);
    w.key("roof").begin_object().key("read_gb_s").value(roof_.read_gb_s).key("f32_gflop_s").value(roof_.f32_gflop_s);
    w.key("int8_gop_s").value(roof_.int8_gop_s).key("bf16_gflop_s").value(roof_.bf16_gflop_s).end_object();
    w.key("peak_rss_bytes").value(peak_rss_bytes()).key("file_bytes").value(runtime_.checkpoint->file_bytes());
    w.key("load_s").value(runtime_.load_s).end_object();
    fmt::print("{}\n", w.text());
  }

  void print_text() const {
    fmt::print("{}, {} threads, kernels {}{}\n", cpu_name(), runtime_.pool->size(), runtime_.context->kernels.name,
               runtime_.context->exact ? ", exact" : "");
    fmt::print("roof: read {:.1f} GB/s, f32 {:.0f} GFLOP/s, int8 {:.0f} GOP/s, bf16 {:.0f} GFLOP/s\n", roof_.read_gb_s,
               roof_.f32_gflop_s, roof_.int8_gop_s, roof_.bf16_gflop_s);
    line("prefill", options_.prefill, prefill_);
    line("decode", options_.decode, decode_);
    fmt::print("load {:.2f} s, peak RSS {}, file {}\n", runtime_.load_s, human_bytes(peak_rss_bytes()),
               human_bytes(static_cast<uint64_t>(runtime_.checkpoint->file_bytes())));
  }

 private:
  void prefill() {
    for (int64_t start = 0; start < options_.prefill; start += options_.chunk) {
      const int64_t n = std::min(options_.chunk, options_.prefill - start);
      Segment segment;
      segment.tokens = std::span<const int32_t>(tokens_).subspan(start, n);
      segment.start = start;
      segment.pages = cache_.pages();
      segment.logits_from = start + n == options_.prefill ? n - 1 : n;  // only the last row of all
      model_.forward(*runtime_.context, {&segment, 1}, kPageTokens, logits_.data());
    }
  }

  void step(int64_t position) {
    Segment segment;
    segment.tokens = std::span<const int32_t>(tokens_).subspan(position, 1);
    segment.start = position;
    segment.form = MlaForm::kAbsorbed;
    segment.pages = cache_.pages();
    model_.forward(*runtime_.context, {&segment, 1}, kPageTokens, logits_.data());
  }

  void plan_roofs() {
    const ModelConfig& c = model_.config();
    const int64_t head = 2 * c.vocab_size * c.hidden_size, weights = 2 * c.active_parameters();
    decode_.bytes_per_token = model_.decode_bytes();
    decode_.ops_per_token = weights + attention_ops(c, options_.prefill + options_.decode / 2, true);
    decode_.roof_tok_s = roof_.read_gb_s * 1e9 / static_cast<double>(decode_.bytes_per_token);
    // A chunk reads each weight once, experts only as far as tokens choose them.
    const int64_t chunk = std::min(options_.chunk, options_.prefill);
    prefill_.bytes_per_token = std::min(runtime_.checkpoint->file_bytes(), chunk * decode_.bytes_per_token) / chunk;
    prefill_.ops_per_token = weights - head + attention_ops(c, options_.prefill / 2, false);
    const bool quantised = is_quantised(matrix_dtype()) && !runtime_.context->exact;
    const double wide = std::max(roof_.f32_gflop_s, runtime_.context->exact ? 0.0 : roof_.bf16_gflop_s);
    const double peak = (quantised ? roof_.int8_gop_s : wide) * 1e9;
    const double seconds = std::max(static_cast<double>(prefill_.ops_per_token) / peak,
                                    static_cast<double>(prefill_.bytes_per_token) / (roof_.read_gb_s * 1e9));
    prefill_.roof_tok_s = 1 / seconds;
  }

  // The type of the bulk of the weights.
  DType matrix_dtype() const {
    const LayerWeights& layer = model_.weights().layers.back();
    return layer.moe.experts.empty() ? layer.mlp.up_proj.dtype : layer.moe.experts[0].up_proj.dtype;
  }

  static void put(JsonWriter& w, std::string_view name, int64_t tokens, const Phase& p) {
    w.key(name).begin_object().key("tokens").value(tokens).key("tok_s").value(p.tok_s);
    w.key("tok_s_min").value(p.tok_s_min).key("tok_s_max").value(p.tok_s_max);
    w.key("bytes_per_token").value(p.bytes_per_token).key("ops_per_token").value(p.ops_per_token);
    w.key("roof_tok_s").value(p.roof_tok_s).key("roof_fraction").value(p.roof_fraction).end_object();
  }

  static void line(std::string_view name, int64_t tokens, const Phase& p) {
    fmt::print(
        "{:<8}{:>6} tokens  {:>8.1f} tok/s ({:.1f} to {:.1f})  {:>9} and {:>6.2f} GOP a token  {:.0f} % of the "
        "roof of {:.1f}\n",
        name, tokens, p.tok_s, p.tok_s_min, p.tok_s_max, human_bytes(static_cast<uint64_t>(p.bytes_per_token)),
        static_cast<double>(p.ops_per_token) * 1e-9, 100 * p.roof_fraction, p.roof_tok_s);
  }

  const Options& options_;
  Runtime& runtime_;
  const Model& model_;
  PagePool pool_;
  SequenceCache cache_;
  std::vector<int32_t> tokens_;
  std::vector<float> logits_;
  Roof roof_;
  Phase prefill_, decode_;
};

Status run(const Options& options) {
  TRY_ASSIGN(Runtime runtime, open_runtime(options.runtime));
  Bench bench(options, runtime);
  TRY(bench.run());
  if (options.json) {
    bench.print_json();
  } else {
    bench.print_text();
  }
  return {};
}

}  // namespace

void add_bench(CLI::App& app, Action* action) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("bench", "measures prefill and decode beside this machine's roofs");
  add_runtime_options(*command, &options->runtime);
  command->add_option("--prefill", options->prefill, "tokens of the prompt")->check(CLI::Range(1, 1 << 20));
  command->add_option("--decode", options->decode, "tokens written after it")->check(CLI::Range(0, 1 << 20));
  command->add_option("--repeats", options->repeats, "counted runs")->check(CLI::Range(1, 1000));
  command->add_option("--chunk", options->chunk, "tokens computed at a time")->check(CLI::Range(1, 65536));
  command->add_flag("--json", options->json, "one JSON object on stdout");
  command->callback([action, options] { *action = [options] { return run(*options); }; });
}

}  // namespace westlake
