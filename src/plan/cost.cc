#include "plan/cost.h"

#include <algorithm>
#include <cmath>

namespace westlake {
namespace {

constexpr int64_t kFloatBytes = sizeof(float);
constexpr int64_t kSampleBytes = 8 << 20;  // samples are large, but not so large that they leave the caches

// Gathers the products of one step.
class Counter {
 public:
  Counter(StepCost* cost, bool exact) : cost_(cost), exact_(exact) {}

  // `rows` tokens, shared by `copies` matrices of this shape, each read once (experts: an expectation).
  void product(const Mat& w, int64_t rows, double copies = 1) {
    if (!w || rows == 0) return;
    ProductCost p = {&w, std::max<int64_t>(1, std::llround(static_cast<double>(rows) / copies)),
                     std::llround(static_cast<double>(w.bytes()) * copies), 2 * w.rows * w.cols * rows};
    cost_->weight_bytes += p.bytes;
    (is_quantised(w.dtype) && !exact_ ? cost_->int8_ops : cost_->float_ops) += p.ops;
    cost_->add(p);
  }
  void mlp(const SwigluParams& p, int64_t rows, double copies = 1) {
    product(p.gate_proj, rows, copies);
    product(p.up_proj, rows, copies);
    product(p.down_proj, rows, copies);
    // Input and hidden rows quantised, silu(gate) * up.
    activation(rows * (2 * p.gate_proj.cols + 5 * p.gate_proj.rows));
  }
  void activation(int64_t floats) { cost_->activation_bytes += floats * kFloatBytes; }
  void regions(int64_t n) { cost_->regions += n; }

 private:
  StepCost* cost_;
  bool exact_;
};

// Sum over the new tokens of one sequence of the keys that they see.
int64_t keys_seen(const Step& step) {
  return step.tokens * step.start + step.tokens * (step.tokens + 1) / 2;
}

void count_mla(const ModelConfig& c, const MlaParams& p, const Step& step, Counter* counter, StepCost* cost) {
  const int64_t T = step.sequences * step.tokens, H = c.num_attention_heads, lora = c.kv_lora_rank;
  const int64_t keys = step.sequences * keys_seen(step);
  for (const Mat* w :
       {&p.q_proj, &p.q_a_proj, &p.q_b_proj, &p.kv_a_proj_with_mqa, &p.kv_b_proj, &p.v_b_proj, &p.o_proj})
    counter->product(*w, T);
  // Split files hold W_UK transposed and a head apart: [H * lora, nope], the same numbers.
  counter->product(p.k_b_proj, T);
  const int64_t up_ops = 2 * H * (c.qk_nope_head_dim + c.v_head_dim) * lora;  // a position
  if (step.form == MlaForm::kAbsorbed) {
    cost->attention_ops += 2 * keys * H * (2 * lora + c.qk_rope_head_dim);
    counter->regions(9);
  } else {
    cost->attention_ops += 2 * keys * H * (c.qk_head_dim() + c.v_head_dim);
    cost->rebuild_ops += step.sequences * step.start * up_ops;
    counter->regions(9);
  }
  counter->activation(T * (H * (c.qk_head_dim() + 2 * c.v_head_dim) + 4 * c.kv_width() + c.hidden_size));
}

void count_gqa(const ModelConfig& c, const GqaParams& p, const Step& step, Counter* counter, StepCost* cost) {
  const int64_t T = step.sequences * step.tokens, H = c.num_attention_heads, KVH = c.num_key_value_heads;
  for (const Mat* w : {&p.q_proj, &p.k_proj, &p.v_proj, &p.o_proj}) counter->product(*w, T);
  cost->attention_ops += 2 * step.sequences * keys_seen(step) * H * 2 * c.head_dim;
  counter->activation(T * c.head_dim * (4 * H + 4 * KVH));
  counter->regions(4);
}

void count_moe(const ModelConfig& c, const MoeParams& p, int64_t T, Counter* counter) {
  const int64_t E = c.n_routed_experts, K = c.num_experts_per_tok, D = c.hidden_size;
  counter->product(p.gate, T);
  // All experts are of one shape: the pairs go through one of them, as many are read as are chosen.
  counter->mlp(p.experts[0], T * K, expected_experts(E, K, T));
  if (p.shared_experts.gate_proj) counter->mlp(p.shared_experts, T);
  counter->activation(T * D * (T > 1 ? 5 * K : 3 * K));
  counter->regions(3);
}

}  // namespace

void StepCost::add(const ProductCost& p) {
  for (ProductCost& q : products) {
    if (q.rows != p.rows || q.sample->dtype != p.sample->dtype || q.sample->layout != p.sample->layout) continue;
    if (p.sample->bytes() > q.sample->bytes() && p.sample->bytes() < kSampleBytes) q.sample = p.sample;
    q.bytes += p.bytes;
    q.ops += p.ops;
    return;
  }
  products.push_back(p);
}

StepCost& StepCost::operator+=(const StepCost& o) {
  weight_bytes += o.weight_bytes;
  cache_bytes += o.cache_bytes;
  int8_ops += o.int8_ops;
  float_ops += o.float_ops;
  attention_ops += o.attention_ops;
  rebuild_ops += o.rebuild_ops;
  q8_attention = o.q8_attention;
  activation_bytes += o.activation_bytes;
  regions += o.regions;
  for (const ProductCost& p : o.products) add(p);
  return *this;
}

double expected_experts(int64_t experts, int64_t chosen, int64_t tokens) {
  const double missed = 1 - static_cast<double>(chosen) / static_cast<double>(experts);
  return static_cast<double>(experts) * (1 - std::pow(missed, static_cast<double>(tokens)));
}

StepCost step_cost(const Model& model, const Step& step, bool exact) {
  const ModelConfig& c = model.config();
  const Weights& weights = model.weights();
  const int64_t T = step.sequences * step.tokens, D = c.hidden_size, L = c.num_hidden_layers;
  StepCost cost;
  cost.q8_attention = model.q8_cache();
  Counter counter(&cost, exact);
  cost.weight_bytes += T * weights.embed_tokens.row_bytes;
  for (int64_t i = 0; i < L; ++i) {
    const LayerWeights& w = weights.layers[i];
    if (c.mla()) {
      count_mla(c, w.mla, step, &counter, &cost);
    } else {
      count_gqa(c, w.gqa, step, &counter, &cost);
    }
    if (c.is_moe_layer(i)) {
      count_moe(c, w.moe, T, &counter);
    } else {
      counter.mlp(w.mlp, T);
    }
    counter.activation(10 * T * D);  // two norms, two additions
    counter.regions(2);
  }
  counter.product(weights.lm_head, step.logits_rows);
  cost.cache_bytes += step.sequences * (step.start + step.tokens) * L * model.cache_shape(kKvBlock).width * kFloatBytes;
  return cost;
}

StepCost prefill_cost(const Model& model, int64_t tokens, int64_t chunk, bool exact) {
  StepCost sum;
  for (int64_t start = 0, n; start < tokens; start += n) {
    n = prompt_piece(tokens - start, chunk);
    sum += step_cost(model, {1, n, start, model.prompt_form(tokens), start + n == tokens ? 1 : 0}, exact);
  }
  return sum;
}

double roof_seconds(const StepCost& cost, const Roof& roof, bool exact) {
  const double wide = std::max(roof.f32_gflop_s, exact ? 0.0 : roof.bf16_gflop_s);
  const int64_t q8_ops = cost.q8_attention ? cost.attention_ops : 0;
  const double compute = static_cast<double>(cost.int8_ops + q8_ops) / std::max(roof.int8_gop_s, wide) +
                         static_cast<double>(cost.float_ops + cost.attention_ops - q8_ops) / wide;
  return 1e-9 * std::max(compute, static_cast<double>(cost.bytes()) / roof.read_gb_s);
}

}  // namespace westlake
