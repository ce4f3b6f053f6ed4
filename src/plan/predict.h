// Predictions: how many tokens a second a model will do on this machine, before it is run.
//
// Idea: the count of cost.h, divided by speeds. Memory: the read roof. Arithmetic: each kind of product that the model
// has (type of weights, layout, rows of activations) and its attention are timed once on a few megabytes that stay in
// the caches, some ten milliseconds each: the roof of that kernel. A product takes as long as the slower of the two; to
// that comes what runs between the products, at a measured speed, and the start of parallel regions.
#pragma once

#include <string>
#include <vector>

#include "kernels/context.h"
#include "kernels/roof.h"
#include "plan/cost.h"

namespace westlake {

// Roofs of the kernels of a Context, measured when they are first asked for. Not Thread-safe. Requires: outlived by
// what it is given.
class KernelRoofs {
 public:
  KernelRoofs(Context& ctx, const Model& model);

  // Seconds that a step takes beside a read roof of `read_gb_s`.
  double seconds(const StepCost& cost, double read_gb_s, MlaForm form);

 private:
  struct Product {
    DType dtype;
    MatLayout layout;
    int64_t rows;
    double gop_s;
  };
  Context& ctx_;
  const Model& model_;
  std::vector<Product> products_;
  double attend_gop_s_[2] = {0, 0};  // of a form
  double activation_gb_s_ = 0, region_s_ = 0;

  double product_gop_s(const ProductCost& product);
  double attend_gop_s(MlaForm form);
  double time_attend(bool absorbed, int64_t keys, double* ops) const;
  double time_attend_q8(MlaForm form, int64_t keys, double* ops) const;
};

struct Prediction {
  double prefill_tok_s = 0, decode_tok_s = 0;
  double prefill_roof_tok_s = 0, decode_roof_tok_s = 0;
};
// Prefill of `prefill` tokens in chunks, then one token after another, `decode` of them.
Prediction predict(Context& ctx, const Model& model, const Roof& roof, int64_t prefill, int64_t chunk, int64_t decode);

}  // namespace westlake
