// Trainer: the loop. Batches in, updates out, checkpoints on the way; one that is resumed goes on bit for bit.
//
// Idea: a step is a pure function of (weights, optimiser state, position in the data, step number, settings), and all
// of these are in a checkpoint. Time decides nothing but when a checkpoint is written; --minutes becomes a number of
// tokens once, after the first steps, and is written down. Order of a step: gradients of all parts of the batch; norm;
// clipping, decay, update; biases of the routers.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/thread_pool.h"
#include "model/train_model.h"
#include "train/batches.h"
#include "train/optimiser.h"
#include "train/run_folder.h"
#include "train/settings.h"

namespace westlake {

struct StepReport {
  int64_t step = 0, steps = 0;  // finished; of the run (0: not known yet)
  int64_t tokens = 0;           // seen in the whole run
  double loss = 0, main = 0, mtp = 0;
  double bits_per_byte = 0;  // of the step's text
  double grad_norm = 0, lr_factor = 0;
  double tokens_per_s = 0;              // lately
  double flop_s = 0;                    // lately
  double seconds = 0, cpu_seconds = 0;  // of the whole run
  double largest_load = 0;              // tokens of the busiest expert over the mean, worst layer; 0: no experts
  double left_s = 0;                    // until the end; 0: not known
  double valid_bits_per_byte = 0;       // 0: no evaluation at this step
  double valid_loss = 0;
};

struct TrainMemory {
  int64_t weights_bytes = 0;  // values, gradients and packed operands
  int64_t optimiser_bytes = 0;
  int64_t activations_bytes = 0;
  int64_t total() const { return weights_bytes + optimiser_bytes + activations_bytes; }
};

// What a run is made of. All outlive the trainer.
struct TrainInputs {
  ModelConfig config;
  const TokenStore* data = nullptr;
  const TokenStore* valid = nullptr;  // null: no evaluation
  bool whole_documents = false;       // conversations: rows of whole documents, filled up with padding_id
  int32_t padding_id = 0;
  std::vector<int32_t> token_bytes;  // [V]: bytes of text that a token stands for
  std::string notes;                 // a JSON object of the caller's, kept in every checkpoint (paths, commands)
};

struct TrainCallbacks {
  std::function<void(const StepReport&)> step;   // after every step
  std::function<void(int64_t step)> checkpoint;  // after a checkpoint is whole
};

class Trainer {
 public:
  // Errors: settings, memory, what cannot be trained.
  static Result<std::unique_ptr<Trainer>> create(ThreadPool& pool, const TrainKernels<float>& kernels,
                                                 TrainInputs inputs, const TrainSettings& settings, RunFolder folder);

  // Starts from random weights, or from a checkpoint's (fine-tuning): a first checkpoint is written at once.
  Status begin();
  Status begin_from(const Checkpoint& checkpoint);
  // Goes on from the newest checkpoint of the folder. Errors: kCorrupt, kInvalidArgument (other data, other tokenizer).
  Status resume();

  // What the state file of a run says, to open its inputs again.
  static Result<TrainSettings> settings_of(const RunFolder& folder, std::string* notes);

  // Until the end of the run or until `stop` is raised; either way a checkpoint is the last thing done. Errors:
  // kCancelled when stopped; kCorrupt for NaN or a spike of the loss, before the update that would carry it into the
  // weights; kIo.
  Status run(const std::atomic<bool>* stop, const TrainCallbacks& callbacks);

  TrainMemory memory() const;
  // Where the time of the steps goes, from now on; null: nobody counts. Requires: outlives the trainer.
  void set_profile(Profile* profile) { ctx_.profile = profile; }
  const TrainSettings& settings() const { return settings_; }
  int64_t step() const { return step_; }
  bool finished() const { return settings_.tokens > 0 && step_ >= settings_.steps(); }
  TrainModel<float>& model() { return model_; }

  // Bits per byte and nats per token over the validation text, as far as eval_tokens.
  Result<StepReport> evaluate();

 private:
  Trainer(ThreadPool& pool, const TrainKernels<float>& kernels, TrainInputs inputs, const TrainSettings& settings,
          RunFolder folder, TrainModel<float> model, Optimiser<float> optimiser, BatchStream batches);
  Status one_step(StepReport* report);
  Status check_loss(double loss, double norm) const;
  Status save();
  static BatchOptions stream_options(const TrainInputs& inputs, const TrainSettings& settings);
  TrainOptions options_at(int64_t step) const;
  int64_t micro_rows() const;
  void find_length();
  std::vector<RunTensor> weight_tensors();
  std::vector<RunTensor> optimiser_tensors();
  std::string state_json() const;
  Status read_state(const std::string& text, const std::string& place);

  TrainInputs inputs_;
  TrainSettings settings_;
  RunFolder folder_;
  TrainModel<float> model_;
  Optimiser<float> optimiser_;
  Arena arena_;
  TrainContext<float> ctx_;
  BatchStream batches_;
  TrainMemory memory_;
  int64_t step_ = 0, tokens_ = 0, saved_step_ = -1;
  double seconds_ = 0, cpu_seconds_ = 0;  // of earlier sittings of this run, and of this one up to the last step
  double mean_loss_ = 0;                  // moving, to tell a spike
  std::vector<std::pair<double, int64_t>> recent_;  // (seconds of a step, tokens), for the rate
};

// Operations of the matrix units a token, forward and backward: 6 a multiplied weight, and attention's.
double train_flop_per_token(const ModelConfig& config, int64_t sequence_length);

// Processor time of this process, seconds.
double process_cpu_seconds();

}  // namespace westlake
