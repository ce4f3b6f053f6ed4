// Where a training step's time goes: forward and backward of a shape with random weights, by operation.
//
//   train_step_bench [--shape NAME] [--rows B] [--tokens T] [--threads N] [--isa NAME] [--steps N] [--full]
//   [--recompute]
//
// A line of tokens/s and of the products' and attention's GFLOP/s with its share of the measured roof of the operands'
// precision; then the operations with their time of a step.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "base/clock.h"
#include "base/cpu.h"
#include "base/rng.h"
#include "kernels/roof.h"
#include "model/train_model.h"

namespace westlake {
namespace {

struct Shape {
  std::string_view name, config;
};
constexpr Shape kShapes[] = {
    // GPT-2 124M: 12 d^2 parameters a layer, here with SwiGLU of the same size.
    {"gpt2-124m", R"({"model_type": "llama", "vocab_size": 50257, "hidden_size": 768, "intermediate_size": 2048,
      "num_hidden_layers": 12, "num_attention_heads": 12, "tie_word_embeddings": true})"},
    {"dense-30m", R"({"model_type": "llama", "vocab_size": 8192, "hidden_size": 512, "intermediate_size": 1376,
      "num_hidden_layers": 8, "num_attention_heads": 8, "tie_word_embeddings": true})"},
    {"v3-110m", R"({"model_type": "deepseek_v3", "vocab_size": 8192, "hidden_size": 512, "intermediate_size": 1376,
      "moe_intermediate_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "q_lora_rank": 192,
      "kv_lora_rank": 128, "qk_nope_head_dim": 32, "qk_rope_head_dim": 32, "v_head_dim": 64, "n_routed_experts": 16,
      "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "norm_topk_prob": true,
      "routed_scaling_factor": 2.5, "first_k_dense_replace": 1, "tie_word_embeddings": true})"},
};

struct Flags {
  std::string_view shape = "dense-30m", isa;
  int64_t rows = 8, tokens = 512;
  int threads = hardware_threads(), steps = 3;
  bool full = false, recompute = false;
};

// Multiply-adds of attention, forward and backward, causal: two products forward, five backward over half the square.
double attention_flops(const ModelConfig& c, int64_t rows, int64_t tokens) {
  const double pairs = 0.5 * static_cast<double>(tokens) * static_cast<double>(tokens) * static_cast<double>(rows);
  const double qk = static_cast<double>(c.qk_head_dim()), v = static_cast<double>(c.mla() ? c.v_head_dim : c.head_dim);
  return 2 * pairs * (4 * qk + 3 * v) * static_cast<double>(c.num_attention_heads * c.num_hidden_layers);
}

int run(const Flags& flags) {
  const Shape* shape =
      std::find_if(std::begin(kShapes), std::end(kShapes), [&](const Shape& s) { return s.name == flags.shape; });
  const TrainKernels<float>* kernels = train_kernels_by_name(flags.isa);
  if (shape == std::end(kShapes) || kernels == nullptr) {
    fmt::print(stderr, "no such shape or level\n");
    return 1;
  }
  auto config = ModelConfig::from_json(shape->config, shape->name);
  auto model = config.ok() ? TrainModel<float>::create(*config) : Result<TrainModel<float>>(config.error());
  if (!model.ok()) {
    fmt::print(stderr, "{}\n", model.error().message);
    return 1;
  }
  model->initialise(1, 0.02);
  ThreadPool pool(flags.threads);
  const Roof roof = measure_roof(pool);
  Arena arena;
  Profile profile;
  TrainContext<float> ctx{*kernels, pool, arena, flags.full ? Precision::kFull : Precision::kBf16};
  TrainOptions options;
  options.recompute = flags.recompute;
  const int64_t N = flags.rows * flags.tokens;
  arena.reserve(model->plan(ctx, flags.rows, flags.tokens, options));
  Rng rng(1);
  std::vector<int32_t> tokens(N + 1);
  for (int32_t& t : tokens) t = static_cast<int32_t>(rng.below(config->vocab_size));
  const TrainBatch batch = {flags.rows, flags.tokens, tokens.data(), tokens.data() + 1, nullptr};

  std::vector<double> seconds;
  TrainLoss loss;
  for (int step = 0; step <= flags.steps; ++step) {
    if (step == 1) ctx.profile = &profile;  // the first touches the memory
    const int64_t start = now_ns();
    model->zero_grads(ctx);
    model->pack_weights(ctx);
    loss = model->loss_and_gradients(ctx, batch, options);
    if (step > 0) seconds.push_back(seconds_since(start));
  }
  const double median = [&] {
    std::vector<double> sorted = seconds;
    std::sort(sorted.begin(), sorted.end());
    return sorted[sorted.size() / 2];
  }();
  double flops = attention_flops(*config, flags.rows, flags.tokens);
  for (const Profile::Entry& e : profile.entries()) flops += static_cast<double>(e.work.float_ops) / flags.steps;
  const bool pairs = !flags.full && roof.bf16_gflop_s > 0;
  const double limit = pairs ? roof.bf16_gflop_s : roof.f32_gflop_s;
  fmt::print(
      "{} {} x {} {} {} x{}: {:.0f} ms, {:.0f} tokens/s, {:.0f} GFLOP/s, {:.1f}% of roof {:.0f}; arena {:.2f} GB, "
      "{:.1f}M parameters, loss {:.4f}\n",
      shape->name, flags.rows, flags.tokens, kernels->name, flags.full ? "f32" : "bf16", flags.threads, median * 1e3,
      static_cast<double>(N) / median, flops * 1e-9 / median, flops * 1e-9 / median / limit * 100, limit,
      static_cast<double>(arena.peak_bytes()) * 1e-9, static_cast<double>(model->parameter_count()) * 1e-6, loss.loss);
  std::vector<Profile::Entry> entries = profile.entries();
  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.ns > b.ns; });
  for (const Profile::Entry& e : entries) {
    const double ms = static_cast<double>(e.ns) * 1e-6 / flags.steps;
    fmt::print("  {:<32} {:8.1f} ms {:5.1f}% {:8.0f} GFLOP/s\n", e.name, ms, ms * 0.1 / median,
               static_cast<double>(e.work.float_ops) / static_cast<double>(e.ns));
  }
  return 0;
}

}  // namespace
}  // namespace westlake

int main(int argc, char** argv) {
  westlake::Flags flags;
  for (int i = 1; i < argc; ++i) {
    const std::string_view flag = argv[i], value = i + 1 < argc ? argv[i + 1] : "";
    const bool last = i + 1 == argc;
    if (flag == "--full") {
      flags.full = true;
    } else if (flag == "--recompute") {
      flags.recompute = true;
    } else if (last) {
      fmt::print(stderr, "{} wants a value\n", flag);
      return 2;
    } else {
      ++i;
      const int64_t number = std::atoll(value.data());
      if (flag == "--shape") flags.shape = value;
      if (flag == "--isa") flags.isa = value;
      if (flag == "--rows") flags.rows = number;
      if (flag == "--tokens") flags.tokens = number;
      if (flag == "--threads") flags.threads = static_cast<int>(number);
      if (flag == "--steps") flags.steps = static_cast<int>(number);
    }
  }
  return westlake::run(flags);
}
