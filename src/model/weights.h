// Weights: every tensor of a model, bound to the member that the layers read, through one table.
// Idea: the table names each tensor once (published name, GGUF name, shape, member); opening, converting, making
// random models and counting all walk the same table, so a tensor cannot be forgotten in one of them.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.h"
#include "base/thread_pool.h"
#include "layers/gqa.h"
#include "layers/mla.h"
#include "layers/moe.h"
#include "layers/swiglu.h"
#include "model/config.h"
#include "tensor/view.h"

namespace westlake {

struct LayerWeights {
  const float* input_layernorm = nullptr;           // [D]
  const float* post_attention_layernorm = nullptr;  // [D]
  GqaParams gqa;
  MlaParams mla;
  SwigluParams mlp;  // dense layers
  MoeParams moe;     // layers with experts
};

// One multi-token-prediction module, a layer behind the last (DeepSeek-V3 report 2.2).
struct MtpWeights {
  const float* enorm = nullptr;  // [D]
  const float* hnorm = nullptr;  // [D]
  Mat eh_proj;                   // [D, 2D]
  LayerWeights layer;
  const float* shared_head_norm = nullptr;  // [D]
  Mat embed_tokens;                         // [V, D]; empty: the main model's
  Mat shared_head;                          // [V, D]; empty: the main model's
};

struct Weights {
  Mat embed_tokens;             // [V, D]
  Mat lm_head;                  // [V, D]; the embedding where tied
  const float* norm = nullptr;  // [D]
  std::vector<LayerWeights> layers;
  std::vector<MtpWeights> mtp;
  std::deque<std::vector<float>> owned;  // vectors and small matrices that were widened to float32
};

enum class WeightFormat { kPublished, kGguf };

// How a tensor's bytes in a GGUF differ from the published ones.
enum class GgufLayout {
  kSame,
  kRopePairs,  // rows of each head reordered so that rotary pairs are neighbours (llama's q and k)
  kKeyUp,      // W_UK of kv_b_proj, transposed a head: [H, lora, nope]
  kValueUp,    // W_UV of kv_b_proj: [H, v, lora]
};

struct WeightSpec {
  std::string name;            // published; empty: only GGUF files have this tensor
  std::string gguf_name;       // empty: only published checkpoints have it
  int64_t expert = -1;         // >= 0: slice of the stacked GGUF tensor [E, ...]
  std::vector<int64_t> shape;  // of the published tensor, and of the slice in GGUF
  GgufLayout layout = GgufLayout::kSame;
  int64_t heads = 0;  // kRopePairs: heads in the rows
  bool optional = false;
  int64_t layer = -1;   // -1: outside the layers
  bool router = false;  // kept in float32 by converters: rounding would change the choice of experts
  std::variant<Mat*, const float**> target;  // matrix, or vector widened to float32
};

// All tensors of a model of that config in file order. `weights` is resized to hold the targets.
// Requires: weights outlives the use of the targets. Lists MTP modules only when `mtp`.
std::vector<WeightSpec> weight_table(const ModelConfig& config, WeightFormat format, bool mtp, Weights* weights);

// Calls f for every matrix that is multiplied with, layer after layer in the order of use, lm_head last: neither the
// embedding, of which rows are looked up, nor the routers.
void for_each_matrix(Weights* weights, FunctionRef<void(Mat&)> f);

// What binding needs of a file: lookup and the list of names.
struct TensorSource {
  std::function<const TensorView*(std::string_view)> find;
  std::vector<std::string_view> names;
  std::string place;
  WeightFormat format = WeightFormat::kPublished;
};

struct BindOptions {
  // Layers read the heads of MLA's up-projection one by one, which FP8 with its block scales does not allow; converters
  // read rows and leave it mapped.
  bool widen_fp8_up_projections = true;
};

// Fills `weights` from the file. Matrices stay where they are mapped; vectors, and FP8 up-projections of MLA, are
// widened. Errors: kNotFound (missing tensor), kCorrupt (shape, scales), kUnsupported (dtype, a tensor that this
// architecture does not know).
Status bind_weights(const ModelConfig& config, const TensorSource& source, Weights* weights,
                    const BindOptions& options = {});

}  // namespace westlake
