// What `westlake bench` measures: phases of a model, each beside the roof of its own moment.
//
// Idea: on a machine that shares its memory with others the bandwidth moves by a factor of two within seconds. The read
// roof is therefore measured before and after every repeat; a repeat's rate is held against the mean of the two, and
// the median of these shares is the phase's.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/result.h"
#include "infer/kv_cache.h"
#include "kernels/profile.h"
#include "kernels/roof.h"
#include "plan/cost.h"
#include "plan/predict.h"
#include "westlake/runtime.h"

namespace westlake {

struct BenchOptions {
  RuntimeOptions runtime;
  int64_t prefill = 512, decode = 64, repeats = 5, chunk = 1024;
  std::vector<int64_t> batch;    // sequences at once
  int64_t batch_prompt = 64;     // tokens of each before they are decoded together
  int64_t batch_steps = 16;      // of decode, counted, a repeat
  std::vector<int64_t> context;  // positions before decode
  bool ops = false, roof_only = false, json = false;
};

// One phase: its rate over the repeats, and the least it must read and compute.
struct BenchPhase {
  int64_t tokens = 0;                              // a repeat
  double tok_s = 0, tok_s_min = 0, tok_s_max = 0;  // median and spread
  StepCost cost;                                   // of a repeat
  double roof_tok_s = 0, roof_fraction = 0;        // medians
  double read_gb_s = 0;                            // median of the roofs beside it
  double predicted_tok_s = 0;                      // by plan/predict.h from the roofs of the repeats, median
  double bytes_per_token() const { return static_cast<double>(cost.bytes()) / static_cast<double>(tokens); }
  double ops_per_token() const { return static_cast<double>(cost.ops()) / static_cast<double>(tokens); }
};

struct BatchResult {
  int64_t sequences = 0;
  BenchPhase decode;
  double expected_experts = 0;  // read a layer a step, under even routing; 0: the model has none
};

struct ContextResult {
  int64_t positions = 0;
  BenchPhase prefill, decode;
  double loss_percent = 0;  // of decode against a context of kShortContext, repeats in turn; median
};
inline constexpr int64_t kShortContext = 128;

struct OpsResult {
  std::vector<Profile::Entry> prefill, decode;
  double prefill_s = 0, decode_s = 0;  // all of it, timers and what no timer stands around
  Roof roof;                           // of that moment
};

struct BenchResult {
  Roof roof;  // read: the median over all repeats of prefill and decode
  BenchPhase prefill;
  std::optional<BenchPhase> decode;
  std::vector<BatchResult> batches;
  std::vector<ContextResult> contexts;
  std::optional<OpsResult> ops;
  uint64_t peak_rss_bytes = 0;  // after prefill and decode, before the buffers of the roofs exist
};

// Errors: kExhausted, no memory for the cache.
Result<BenchResult> run_bench(const BenchOptions& options, Runtime& runtime);

// bench_print.cc
void print_bench_json(const BenchResult& result, const Runtime& runtime);
void print_bench_text(const BenchResult& result, const Runtime& runtime);
void print_roof(const Roof& roof, int threads, bool json);

}  // namespace westlake
