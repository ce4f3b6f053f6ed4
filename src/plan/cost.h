// Cost: what a step of a model must read and compute at the least, and how long the roofs of a machine make that.
// One count for everybody: for the shares of the roof that are measured, and for predictions.
//
// Idea: a step is many sequences with a few new tokens each. Weights are read once a step, experts only those that some
// token chose; cached positions once a sequence; multiply-adds count as two. At the roof all of it runs at the speed of
// memory or of arithmetic, whichever is slower. How fast the kernels at hand really are is the business of predict.h.
#pragma once

#include <cstdint>
#include <vector>

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

// Products that run at one speed: weights of one type, in one layout, with as many rows of activations.
struct ProductCost {
  const Mat* sample = nullptr;  // one of them
  int64_t rows = 0;
  int64_t bytes = 0, ops = 0;
};

struct StepCost {
  int64_t weight_bytes = 0, cache_bytes = 0;
  int64_t int8_ops = 0;          // quantised weights, unless exact
  int64_t float_ops = 0;         // products of float weights, or all of them where exact
  int64_t attention_ops = 0;     // scores and sums over values
  bool q8_attention = false;     // they are int8 operations: the cache is int8
  int64_t rebuild_ops = 0;       // MLA, expanded: keys and values made again of the positions that were cached before
  int64_t activation_bytes = 0;  // norms, rotations, residuals, gates, quantisation: between the products
  int64_t regions = 0;           // parallel regions started
  std::vector<ProductCost> products;

  int64_t bytes() const { return weight_bytes + cache_bytes; }
  int64_t ops() const { return int8_ops + float_ops + attention_ops; }
  StepCost& operator+=(const StepCost& other);
  void add(const ProductCost& product);  // to `products` alone
};

// The experts that are read are an expectation: each token chooses evenly and independently of the others.
StepCost step_cost(const Model& model, const Step& step, bool exact);

// A prompt in chunks, beginning at position 0; logits of its last row.
StepCost prefill_cost(const Model& model, int64_t tokens, int64_t chunk, bool exact);

// Distinct experts that `tokens` tokens choose, expected.
double expected_experts(int64_t experts, int64_t chosen, int64_t tokens);

// Seconds at the roof: max(bytes / bandwidth, operations / peak), rebuilding not counted. Exact arithmetic is float32.
double roof_seconds(const StepCost& cost, const Roof& roof, bool exact);

}  // namespace westlake
