// Engine: many sequences on one model, a step at a time.
//
// Idea: continuous batching. A step is one pass of the model over whatever there is to do: the next token of every
// answer (and its drafts), and pieces of prompts within a budget, so that a long prompt makes nobody wait for more than
// its piece. Weights are read once for all of them. A sequence joins when its prompt is there and leaves with its last
// token; what else is in the batch does not change its text by a bit, since within one level of kernels a row's result
// does not depend on its neighbours, and the form of MLA that a prompt runs in is said by its length alone.
//
// Pages of the cache come from one pool. A request is admitted when the pages that it may need at the worst can be set
// aside, so that nothing that has begun runs out of them; until then it waits its turn.
//
// No thread but those of the context's pool: the caller drives step() until idle(). Not Thread-safe, except that
// GenerateOptions::cancel may be raised from anywhere; it is heard at the next step.
// Source: Yu et al., "Orca", 2022; Agrawal et al., "Sarathi-Serve", 2024 (prompts in pieces among decodes).
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "infer/answer.h"
#include "infer/schedule.h"
#include "infer/sequence.h"
#include "infer/speculation.h"
#include "kernels/context.h"
#include "model/model.h"
#include "text/tokenizer.h"

namespace westlake {

using SequenceId = uint64_t;

// Sees the logits [V] from which each token of an answer was sampled, and the position of the token before it.
using LogitsObserver = std::function<void(SequenceId id, int64_t position, std::span<const float> logits)>;

struct EngineOptions {
  int64_t context = 0;            // positions of a sequence at most; 0: default_context()
  int64_t cache_limit_bytes = 0;  // of all sequences; 0: no limit
  int64_t max_sequences = 64;     // that run at once; further ones wait
  // Tokens of prompts in a step. Where answers are being written, each of their tokens waits for the prompts' pieces.
  int64_t prompt_tokens = 1024;
  int64_t prompt_tokens_beside_answers = 64;
  SpeculationOptions speculation;
  LogitsObserver on_logits;
};

// Something that a step brought for a sequence: a token, text that had been held back, or the end.
struct SequenceEvent {
  SequenceId id = 0;
  int32_t token = -1;  // -1: none
  std::string text;    // whole characters that are certain now
  // Of the last event of a sequence one of these is set; after it the engine knows the id no more.
  std::optional<FinishReason> finish;
  std::optional<Error> error;
  GenerateStats stats;  // with `finish`
};

// What a step was about, and what it cost.
struct StepCost {
  int64_t prompt_tokens = 0;  // rows of prompts
  int64_t decode_tokens = 0;  // rows of answers, drafts among them
  int64_t drafted_tokens = 0, accepted_tokens = 0;
  int64_t running = 0;  // sequences that took part or sat it out
  int64_t waiting = 0;  // sequences that are not admitted yet, after the step
  double seconds = 0;
  int64_t used_pages = 0;  // after the step, of kPageTokens positions
  int64_t free_pages = 0;  // up to the limit; -1: no limit
  int64_t kv_bytes = 0;    // of the pages in use
};

struct StepResult {
  std::vector<SequenceEvent> events;  // each sequence's in order
  StepCost cost;
};

class Engine {
 public:
  // Requires: context and model outlive the engine. scheduler: null for FairScheduler.
  // Errors: kInvalidArgument for an option that cannot be, kUnsupported for drafts that the model does not make.
  static Result<Engine> create(Context& context, const Model& model, EngineOptions options,
                               std::unique_ptr<Scheduler> scheduler = nullptr);

  // Requires: tokenizer, which may be null, outlives the sequence. tag: for the scheduler.
  // Errors: kInvalidArgument for a prompt or an option that cannot be; kExhausted for a request that cannot ever fit,
  // with what it needs and what there is.
  Result<SequenceId> submit(std::span<const int32_t> prompt, const GenerateOptions& options,
                            const Tokenizer* tokenizer = nullptr, int64_t tag = 0);

  // One pass of the model, or nothing when idle(). What goes wrong with a sequence ends that sequence alone.
  StepResult step();

  // Ends a sequence at once; its pages are free when this returns. No event tells of it. False: there is none such.
  bool cancel(SequenceId id);

  bool idle() const { return running_.empty() && waiting_.empty(); }
  int64_t context() const { return options_.context; }
  const CachePools& pools() const { return *pools_; }

 private:
  // A sequence from submit to its last event.
  struct Request {
    Request(SequenceId i, int64_t t, std::span<const int32_t> p, Answer a)
        : id(i), tag(t), prompt(p.begin(), p.end()), answer(std::move(a)) {}
    SequenceId id;
    int64_t tag;
    std::vector<int32_t> prompt;
    Answer answer;
    int64_t pages = 0;                   // set aside
    std::unique_ptr<Sequence> sequence;  // once admitted
    DraftGovernor governor;
    int64_t begin_ns = 0;  // of the prompt, then of the answer
    // Of this step:
    int64_t share = 0;
    std::vector<int32_t> drafts;
    std::optional<Error> error;
    std::vector<SequenceEvent> events;

    int64_t prompt_left() const;
    SequenceLoad load() const { return {id, tag, sequence ? prompt_left() : static_cast<int64_t>(prompt.size())}; }
  };
  // Rows of a request in this step's batch.
  struct Part {
    Request* request = nullptr;
    int64_t rows = 0, first_row = 0;
    int64_t logits = 0, first_logits = 0;  // rows of logits
    int64_t right = 0;                     // drafts that were
  };

  Engine(Context& context, const Model& model, EngineOptions options, std::unique_ptr<Scheduler> scheduler);
  void hear_cancels(StepResult* result);
  void admit(StepResult* result);
  void plan();
  void draft();
  void add_part(Request& request, std::vector<Segment>* segments);
  std::vector<Segment> lay_out();
  void settle(StepResult* result);
  void verify(Part& part);
  void keep(Part& part, StepCost* cost);
  void retire(StepResult* result);
  static void end(Request& request, StepResult* result);

  Context* ctx_;
  const Model* model_;
  EngineOptions options_;
  std::unique_ptr<Scheduler> scheduler_;
  std::unique_ptr<CachePools> pools_;
  SequenceId last_id_ = 0;
  std::deque<std::unique_ptr<Request>> waiting_;   // in the order of arrival
  std::vector<std::unique_ptr<Request>> running_;  // in the order of admission
  int64_t pages_set_aside_ = 0;
  StepTimes times_;
  std::vector<Part> parts_;
  std::vector<float> logits_;  // [rows with logits, V]
  std::vector<float> normed_;  // [T, D], where an MTP module asks for it
};

}  // namespace westlake
