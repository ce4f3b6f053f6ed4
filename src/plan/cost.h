// Cost: what a step of a model must read and compute at the least, how long the roofs of a machine make that, and how
// long it will really take. One count for everybody: the shares of the roof that are measured, and predictions.
//
// Idea: a step is many sequences with a few new tokens each. Weights are read once a step, experts only those that some
// token chose; cached positions once a sequence; multiply-adds count as two. At the roof all of it runs at the speed of
// memory or of arithmetic, whichever is slower. A prediction adds what the kernels leave: shares of the roofs that they
// reach (Efficiency, measured), work on activations between the products, and the start of parallel regions.
#pragma once

#include <cstdint>
#include <string_view>

#include "kernels/roof.h"
#include "model/model.h"

namespace westlake {

// One call of Model::forward.
struct Step {
  int64_t sequences = 1;
  int64_t tokens = 1;  // new, of each sequence
  int64_t start = 0;   // positions of each sequence that are cached already
  MlaForm form = MlaForm::kAbsorbed;
  int64_t logits_rows = 1;  // in all
};

struct StepCost {
  int64_t weight_bytes = 0, cache_bytes = 0;
  int64_t int8_ops = 0;          // quantised weights, unless exact
  int64_t float_ops = 0;         // products of float weights, or all of them where exact
  int64_t attention_ops = 0;     // scores and sums over values
  int64_t rebuild_ops = 0;       // MLA, expanded: keys and values made again of the positions that were cached before
  int64_t activation_bytes = 0;  // norms, rotations, residuals, gates, quantisation: between the products
  int64_t regions = 0;           // parallel regions started

  int64_t bytes() const { return weight_bytes + cache_bytes; }
  int64_t ops() const { return int8_ops + float_ops + attention_ops; }
  StepCost& operator+=(const StepCost& other);
};

// The experts that are read are an expectation: each token chooses evenly and independently of the others.
StepCost step_cost(const Model& model, const Step& step, bool exact);

// A prompt in chunks, beginning at position 0; logits of its last row.
StepCost prefill_cost(const Model& model, int64_t tokens, int64_t chunk, bool exact);

// Distinct experts that `tokens` tokens choose, expected.
double expected_experts(int64_t experts, int64_t chosen, int64_t tokens);

// Seconds at the roof: max(bytes / bandwidth, operations / peak), rebuilding not counted. Exact arithmetic is float32.
double roof_seconds(const StepCost& cost, const Roof& roof, bool exact);

// What is reached of the roofs, measured with `westlake bench --ops` (cost.cc says where).
struct Efficiency {
  double read = 1;             // of the read bandwidth, by products that wait for weights
  double int8 = 1;             // of int8 peak, by products of many rows
  double f32 = 1;              // of f32 peak, by products with float activations
  double attend = 1;           // of f32 peak, by attention
  double activation_gb_s = 1;  // a thread
  double region_us = 1;        // to start and end a parallel region, and what runs on one thread beside it
};
Efficiency efficiency_of(std::string_view kernels);

// Seconds that a step will take with these kernels on all `threads` that the roofs were measured with. `fine` doubles
// the products of quantised weights (Context::fine).
double predicted_seconds(const StepCost& cost, const Roof& roof, const Efficiency& efficiency, int threads, bool fine);

struct Prediction {
  double prefill_tok_s = 0, decode_tok_s = 0;
};
// Prefill of `prefill` tokens in chunks, then one token after another up to `decode` more.
Prediction predict(const Model& model, const Roof& roof, std::string_view kernels, int threads, bool exact,
                   int64_t prefill, int64_t chunk, int64_t decode);

}  // namespace westlake
