// westlake inspect: what a model is, before anything is run.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <optional>

#include "base/cpu.h"
#include "base/json.h"
#include "base/progress.h"
#include "infer/kv_cache.h"
#include "kernels/roof.h"
#include "plan/cost.h"
#include "plan/predict.h"
#include "westlake/command.h"
#include "westlake/runtime.h"

namespace westlake {
namespace {

struct Options {
  RuntimeOptions runtime;
  bool json = false, tensors = false, no_predict = false;
};

struct Tally {
  int64_t tensors = 0, bytes = 0;
};

struct Facts {
  std::map<std::string, Tally> dtypes;
  int64_t kv_bytes_per_token = 0;  // as the cache keeps them now
  int64_t decode_bytes = 0;
  uint64_t available = 0;
  // Positions of cache that fit beside the whole file in memory that is free now, at most the model's own limit.
  int64_t context_that_fits = 0;
  std::optional<Prediction> speed;
  Roof roof;
};

// What speeds are predicted for.
constexpr int64_t kPrefill = 512, kDecode = 64;

Facts gather(const Runtime& runtime, const std::vector<NamedTensor>& tensors) {
  const ModelConfig& config = runtime.model->config();
  Facts facts;
  for (const NamedTensor& tensor : tensors) {
    Tally& tally = facts.dtypes[std::string(dtype_name(tensor.view.dtype))];
    ++tally.tensors;
    tally.bytes += tensor.view.size_bytes;
  }
  const CacheShape cache = runtime.model->cache_shape(kPageTokens);
  facts.kv_bytes_per_token = cache.layers * cache.width * static_cast<int64_t>(sizeof(float));
  facts.decode_bytes = step_cost(*runtime.model, {}, runtime.context->exact).weight_bytes;
  facts.available = available_memory_bytes();
  const int64_t left = static_cast<int64_t>(facts.available) - runtime.weights().file_bytes();
  facts.context_that_fits = std::clamp<int64_t>(left / facts.kv_bytes_per_token, 0, config.max_position_embeddings);
  return facts;
}

void print_text(const Options& options, const Runtime& runtime, const Facts& facts,
                const std::vector<NamedTensor>& tensors) {
  const ModelConfig& c = runtime.model->config();
  auto row = [](std::string_view label, const std::string& text) { fmt::print("{:<22}{}\n", label, text); };
  row("model", runtime.checkpoint->path());
  row("architecture", c.model_type);
  row("parameters", fmt::format("{:.3f} B, {:.3f} B active a token", static_cast<double>(c.parameters()) * 1e-9,
                                static_cast<double>(c.active_parameters()) * 1e-9));
  row("layers", fmt::format("{} of width {}, vocabulary {}", c.num_hidden_layers, c.hidden_size, c.vocab_size));
  if (c.mla()) {
    row("attention", fmt::format("MLA, {} heads, latent {} + rope key {}", c.num_attention_heads, c.kv_lora_rank,
                                 c.qk_rope_head_dim));
  } else {
    row("attention", fmt::format("GQA, {} heads of {} on {} key-value heads", c.num_attention_heads, c.head_dim,
                                 c.num_key_value_heads));
  }
  if (c.n_routed_experts > 0) {
    row("experts", fmt::format("{} routed, {} chosen, {} shared, width {}", c.n_routed_experts, c.num_experts_per_tok,
                               c.n_shared_experts, c.moe_intermediate_size));
  }
  if (!runtime.model->weights().mtp.empty())
    row("multi-token prediction", fmt::format("{} module", runtime.model->weights().mtp.size()));
  row("context", fmt::format("{} positions", c.max_position_embeddings));
  row("file", human_bytes(static_cast<uint64_t>(runtime.weights().file_bytes())));
  for (const auto& [name, tally] : facts.dtypes)
    row("  " + name, fmt::format("{} in {} tensors", human_bytes(static_cast<uint64_t>(tally.bytes)), tally.tensors));
  row("read a token", human_bytes(static_cast<uint64_t>(facts.decode_bytes)));
  row("cache a token", human_bytes(static_cast<uint64_t>(facts.kv_bytes_per_token)));
  row("memory free now", human_bytes(facts.available));
  if (static_cast<int64_t>(facts.available) < runtime.weights().file_bytes()) {
    row("fits", "no: the file is larger than free memory; it would be read from disk again and again");
  } else {
    row("fits", fmt::format("yes, with a context of {}", facts.context_that_fits));
  }
  if (facts.speed) {
    row("reads memory", fmt::format("{:.1f} GB/s, {} threads", facts.roof.read_gb_s, runtime.pool->size()));
    row("will prefill", fmt::format("about {:.0f} tokens a second (at the roof {:.0f}), a prompt of {}",
                                    facts.speed->prefill_tok_s, facts.speed->prefill_roof_tok_s, kPrefill));
    row("will write", fmt::format("about {:.1f} tokens a second (at the roof {:.1f}), after it",
                                  facts.speed->decode_tok_s, facts.speed->decode_roof_tok_s));
  }
  if (!options.tensors) return;
  fmt::print("\n");
  for (const NamedTensor& t : tensors)
    fmt::print("{:<60} {:<8} {}\n", t.name, dtype_name(t.view.dtype), shape_text(t.view.shape));
}

void print_json(const Runtime& runtime, const Facts& facts, const std::vector<NamedTensor>& tensors) {
  const ModelConfig& c = runtime.model->config();
  JsonWriter w;
  w.begin_object();
  w.key("path").value(runtime.checkpoint->path()).key("model_type").value(c.model_type);
  w.key("parameters").value(c.parameters()).key("active_parameters").value(c.active_parameters());
  w.key("num_hidden_layers").value(c.num_hidden_layers).key("hidden_size").value(c.hidden_size);
  w.key("vocab_size").value(c.vocab_size).key("max_position_embeddings").value(c.max_position_embeddings);
  w.key("mtp_modules").value(static_cast<int64_t>(runtime.model->weights().mtp.size()));
  w.key("file_bytes").value(runtime.weights().file_bytes());
  w.key("bytes_per_token").value(facts.decode_bytes).key("kv_bytes_per_token").value(facts.kv_bytes_per_token);
  w.key("available_bytes").value(facts.available);
  w.key("fits").value(static_cast<int64_t>(facts.available) >= runtime.weights().file_bytes());
  w.key("context_that_fits").value(facts.context_that_fits);
  if (facts.speed) {
    w.key("predicted").begin_object().key("prefill_tokens").value(kPrefill).key("decode_tokens").value(kDecode);
    w.key("prefill_tok_s").value(facts.speed->prefill_tok_s).key("decode_tok_s").value(facts.speed->decode_tok_s);
    w.key("prefill_roof_tok_s").value(facts.speed->prefill_roof_tok_s);
    w.key("decode_roof_tok_s").value(facts.speed->decode_roof_tok_s);
    w.key("read_gb_s").value(facts.roof.read_gb_s).key("threads").value(runtime.pool->size()).end_object();
  }
  w.key("dtypes").begin_object();
  for (const auto& [name, tally] : facts.dtypes) {
    w.key(name).begin_object().key("tensors").value(tally.tensors).key("bytes").value(tally.bytes).end_object();
  }
  w.end_object().key("tensors").begin_array();
  for (const NamedTensor& t : tensors) {
    w.begin_object().key("name").value(t.name).key("dtype").value(dtype_name(t.view.dtype)).key("shape").begin_array();
    for (int64_t extent : t.view.shape) w.value(extent);
    w.end_array().end_object();
  }
  w.end_array().end_object();
  fmt::print("{}\n", w.text());
}

Status run(const Options& options) {
  TRY_ASSIGN(const Runtime runtime, open_runtime(options.runtime));
  const std::vector<NamedTensor>& tensors = runtime.weights().tensors();
  Facts facts = gather(runtime, tensors);
  if (!options.no_predict) {
    facts.roof = measure_roof(*runtime.pool);
    facts.speed = predict(*runtime.context, *runtime.model, facts.roof, kPrefill, kPrefill, kDecode);
  }
  if (options.json) {
    print_json(runtime, facts, tensors);
  } else {
    print_text(options, runtime, facts, tensors);
  }
  return {};
}

}  // namespace

void add_inspect(CLI::App& app, Action* action) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("inspect", "says what a model is, what fits into memory and how fast it will be");
  add_runtime_options(*command, &options->runtime);
  command->add_flag("--json", options->json, "one JSON object on stdout");
  command->add_flag("--tensors", options->tensors, "lists every tensor");
  command->add_flag("--no-predict", options->no_predict, "does not measure how fast this machine is (a second)");
  command->callback([action, options] { *action = [options] { return run(*options); }; });
}

}  // namespace westlake
