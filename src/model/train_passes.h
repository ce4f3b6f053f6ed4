// The passes of a model under training: a decoder layer forward and backward, the main model, the MTP module.
// Idea: the layers are called in the order of the paper's figure; the residual stream before every layer is kept, what
// else backward needs lies in the layers' tapes on the arena, a stack that backward takes down from the top.
// Source: DeepSeek-V3 (arXiv 2412.19437) 2.1, 2.2.
#pragma once

#include <vector>

#include "layers/gqa_train.h"
#include "layers/mla_train.h"
#include "layers/moe_train.h"
#include "layers/mtp_train.h"
#include "layers/swiglu_train.h"
#include "model/train_model.h"

namespace westlake {

template <typename Real>
struct TrainLayer {
  bool moe = false;
  Param<Real>* input_layernorm = nullptr;           // [D]
  Param<Real>* post_attention_layernorm = nullptr;  // [D]
  GqaTrainParams<Real> gqa;                         // or
  MlaTrainParams<Real> mla;
  SwigluTrainParams<Real> mlp;      // dense layers
  MoeTrainParams<Real> moe_params;  // layers with experts
};

template <typename Real>
struct TrainMtp {
  MtpTrainParams<Real> input;
  TrainLayer<Real> layer;
  Param<Real>* shared_head_norm = nullptr;  // [D]
};

// All parameters by their use. lm_head is the embedding where they are tied.
template <typename Real>
struct TrainLayers {
  Param<Real>* embed_tokens = nullptr;  // [V, D]
  Param<Real>* lm_head = nullptr;       // [V, D]
  Param<Real>* norm = nullptr;          // [D]
  std::vector<TrainLayer<Real>> layers;
  std::vector<TrainMtp<Real>> mtp;
};

// One pass over a batch. backward: gradients too; else the main loss alone.
template <typename Real>
TrainLoss run_train_pass(TrainContext<Real>& ctx, const ModelConfig& config, const Rope& rope,
                         TrainLayers<Real>& layers, const TrainBatch& batch, const TrainOptions& options, bool backward,
                         float* token_loss);

}  // namespace westlake
