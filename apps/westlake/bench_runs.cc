#include "westlake/bench_runs.h"

#include <algorithm>
#include <cstring>

#include "base/clock.h"
#include "base/cpu.h"
#include "base/rng.h"

namespace westlake {
namespace {

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Sequences of random tokens on one model.
class Sequences {
 public:
  Sequences(Runtime& runtime, int64_t chunk)
      : context_(*runtime.context), model_(*runtime.model), chunk_(chunk), pool_(model_.cache_shape(kPageTokens)) {}

  // Room for `count` sequences of `positions`.
  Status make(int64_t count, int64_t positions) {
    const auto vocab = static_cast<uint64_t>(model_.config().vocab_size);
    logits_.resize(count * model_.config().vocab_size);
    for (int64_t s = 0; s < count; ++s) {
      caches_.push_back(std::make_unique<SequenceCache>(pool_));
      TRY(caches_.back()->ensure(positions));
      Rng rng(static_cast<uint64_t>(s) + 1);
      std::vector<int32_t>& tokens = tokens_.emplace_back(positions);
      for (int32_t& token : tokens) token = static_cast<int32_t>(rng.below(vocab));
    }
    return {};
  }

  // The first `tokens` of sequence 0, logits of the last.
  void prefill(int64_t tokens) {
    for (int64_t start = 0, n; start < tokens; start += n) {
      n = prompt_piece(tokens - start, chunk_);
      Segment segment;
      segment.tokens = std::span<const int32_t>(tokens_[0]).subspan(start, n);
      segment.start = start;
      segment.form = model_.prompt_form(tokens);
      segment.pages = caches_[0]->pages();
      segment.logits_from = start + n == tokens ? n - 1 : n;
      model_.forward(context_, {&segment, 1}, kPageTokens, logits_.data());
    }
  }

  // Every sequence begins with what sequence 0 has computed: the pages of `tokens` positions are copied.
  void share_prompt(int64_t tokens) {
    const int64_t pages = (tokens + kPageTokens - 1) / kPageTokens;
    for (size_t s = 1; s < caches_.size(); ++s) {
      for (int64_t p = 0; p < pages; ++p)
        std::memcpy(caches_[s]->pages()[p], caches_[0]->pages()[p], static_cast<size_t>(pool_.page_bytes()));
    }
  }

  // One token of each sequence, at that position.
  void step(int64_t position) {
    std::vector<Segment> segments(caches_.size());
    for (size_t s = 0; s < segments.size(); ++s) {
      segments[s].tokens = std::span<const int32_t>(tokens_[s]).subspan(position, 1);
      segments[s].start = position;
      segments[s].form = MlaForm::kAbsorbed;
      segments[s].pages = caches_[s]->pages();
    }
    model_.forward(context_, segments, kPageTokens, logits_.data());
  }

 private:
  Context& context_;
  const Model& model_;
  int64_t chunk_;
  PagePool pool_;
  std::vector<std::unique_ptr<SequenceCache>> caches_;
  std::vector<std::vector<int32_t>> tokens_;
  std::vector<float> logits_;
};

// Repeats of one phase, each between two measures of the read roof.
class Repeats {
 public:
  Repeats(const Runtime& runtime, Roof roof, ReadRoof& read_roof, KernelRoofs& kernels, MlaForm form)
      : runtime_(runtime), roof_(roof), read_(read_roof), kernels_(kernels), form_(form) {}

  // Returns tokens a second.
  double run(int64_t tokens, const StepCost& cost, FunctionRef<void()> body) {
    const Context& ctx = *runtime_.context;
    const double before = read_.gb_s();
    const int64_t start = now_ns();
    body();
    const double seconds = seconds_since(start), rate = static_cast<double>(tokens) / seconds;
    Roof roof = roof_;
    if (const double after = read_.gb_s(); before > 0) roof.read_gb_s = (before + after) / 2;
    const double least = roof_seconds(cost, roof, ctx.exact);
    const double predicted = kernels_.seconds(cost, roof.read_gb_s, form_);
    rates_.push_back(rate);
    fractions_.push_back(least / seconds);
    roofs_.push_back(static_cast<double>(tokens) / least);
    reads_.push_back(roof.read_gb_s);
    predictions_.push_back(static_cast<double>(tokens) / predicted);
    phase_.tokens = tokens;
    phase_.cost = cost;
    return rate;
  }

  BenchPhase phase() const {
    BenchPhase p = phase_;
    p.tok_s = median(rates_);
    p.tok_s_min = *std::min_element(rates_.begin(), rates_.end());
    p.tok_s_max = *std::max_element(rates_.begin(), rates_.end());
    p.roof_tok_s = median(roofs_);
    p.roof_fraction = median(fractions_);
    p.read_gb_s = median(reads_);
    p.predicted_tok_s = median(predictions_);
    return p;
  }
  const std::vector<double>& reads() const { return reads_; }

 private:
  const Runtime& runtime_;
  Roof roof_;
  ReadRoof& read_;
  KernelRoofs& kernels_;
  MlaForm form_;
  BenchPhase phase_;
  std::vector<double> rates_, fractions_, roofs_, reads_, predictions_;
};

class Bench {
 public:
  Bench(const BenchOptions& options, Runtime& runtime)
      : options_(options), runtime_(runtime), model_(*runtime.model), exact_(runtime.context->exact) {}

  Result<BenchResult> run() {
    Sequences single(runtime_, options_.chunk);
    TRY(single.make(1, options_.prefill + options_.decode));
    // Once to touch every page of the file; and the peak of memory is the model's, not that of the roofs' buffers.
    single.prefill(options_.prefill);
    if (options_.decode > 0) single.step(options_.prefill);
    result_.peak_rss_bytes = peak_rss_bytes();
    result_.roof = measure_roof(*runtime_.pool);
    read_roof_ = std::make_unique<ReadRoof>(*runtime_.pool);
    kernel_roofs_ = std::make_unique<KernelRoofs>(*runtime_.context, model_);
    phases(single);
    for (int64_t sequences : options_.batch) TRY(batch(sequences));
    for (int64_t positions : options_.context) TRY(context(positions));
    if (options_.ops) ops(single);
    return std::move(result_);
  }

 private:
  Repeats repeats(MlaForm form) { return Repeats(runtime_, result_.roof, *read_roof_, *kernel_roofs_, form); }

  StepCost decode_cost(int64_t sequences, int64_t from, int64_t steps) const {
    StepCost sum;
    for (int64_t t = 0; t < steps; ++t)
      sum += step_cost(model_, {sequences, 1, from + t, MlaForm::kAbsorbed, sequences}, exact_);
    return sum;
  }

  void phases(Sequences& single) {
    const StepCost prompt = prefill_cost(model_, options_.prefill, options_.chunk, exact_);
    const StepCost steps = decode_cost(1, options_.prefill, options_.decode);
    Repeats prefill = repeats(MlaForm::kExpanded), decode = repeats(MlaForm::kAbsorbed);
    for (int64_t i = 0; i < options_.repeats; ++i) {
      prefill.run(options_.prefill, prompt, [&] { single.prefill(options_.prefill); });
      if (options_.decode == 0) continue;
      decode.run(options_.decode, steps, [&] {
        for (int64_t t = 0; t < options_.decode; ++t) single.step(options_.prefill + t);
      });
    }
    result_.prefill = prefill.phase();
    std::vector<double> reads = prefill.reads();
    if (options_.decode > 0) {
      result_.decode = decode.phase();
      reads.insert(reads.end(), decode.reads().begin(), decode.reads().end());
    }
    result_.roof.read_gb_s = median(reads);
  }

  Status batch(int64_t sequences) {
    const int64_t prompt = options_.batch_prompt, steps = options_.batch_steps;
    Sequences many(runtime_, options_.chunk);
    TRY(many.make(sequences, prompt + steps));
    many.prefill(prompt);
    many.share_prompt(prompt);
    many.step(prompt);
    const StepCost cost = decode_cost(sequences, prompt, steps);
    Repeats decode = repeats(MlaForm::kAbsorbed);
    for (int64_t i = 0; i < options_.repeats; ++i) {
      decode.run(sequences * steps, cost, [&] {
        for (int64_t t = 0; t < steps; ++t) many.step(prompt + t);
      });
    }
    const ModelConfig& c = model_.config();
    const double experts =
        c.n_routed_experts > 0 ? expected_experts(c.n_routed_experts, c.num_experts_per_tok, sequences) : 0;
    result_.batches.push_back({sequences, decode.phase(), experts});
    return {};
  }

  Status context(int64_t positions) {
    const int64_t steps = std::max<int64_t>(1, options_.decode);
    Sequences near(runtime_, options_.chunk), deep(runtime_, options_.chunk);
    TRY(near.make(1, kShortContext + steps));
    TRY(deep.make(1, positions + steps));
    ContextResult result;
    result.positions = positions;
    Repeats prefill = repeats(MlaForm::kExpanded);
    Repeats decode = repeats(MlaForm::kAbsorbed), near_decode = repeats(MlaForm::kAbsorbed);
    prefill.run(positions, prefill_cost(model_, positions, options_.chunk, exact_), [&] { deep.prefill(positions); });
    near.prefill(kShortContext);
    const StepCost near_cost = decode_cost(1, kShortContext, steps), deep_cost = decode_cost(1, positions, steps);
    std::vector<double> losses;
    for (int64_t i = 0; i < options_.repeats; ++i) {
      const double near_rate = near_decode.run(steps, near_cost, [&] {
        for (int64_t t = 0; t < steps; ++t) near.step(kShortContext + t);
      });
      const double deep_rate = decode.run(steps, deep_cost, [&] {
        for (int64_t t = 0; t < steps; ++t) deep.step(positions + t);
      });
      losses.push_back(100 * (1 - deep_rate / near_rate));
    }
    result.prefill = prefill.phase();
    result.decode = decode.phase();
    result.loss_percent = median(losses);
    result_.contexts.push_back(result);
    return {};
  }

  void ops(Sequences& single) {
    Profile profile;
    OpsResult result;
    runtime_.context->profile = &profile;
    result.roof = result_.roof;
    const double before = read_roof_->gb_s();
    const int64_t start = now_ns();
    single.prefill(options_.prefill);
    result.prefill_s = seconds_since(start);
    result.prefill = profile.entries();
    profile.clear();
    const int64_t middle = now_ns();
    for (int64_t t = 0; t < options_.decode; ++t) single.step(options_.prefill + t);
    result.decode_s = seconds_since(middle);
    result.decode = profile.entries();
    if (before > 0) result.roof.read_gb_s = (before + read_roof_->gb_s()) / 2;
    runtime_.context->profile = nullptr;
    result_.ops = std::move(result);
  }

  const BenchOptions& options_;
  Runtime& runtime_;
  const Model& model_;
  const bool exact_;
  std::unique_ptr<ReadRoof> read_roof_;
  std::unique_ptr<KernelRoofs> kernel_roofs_;
  BenchResult result_;
};

}  // namespace

Result<BenchResult> run_bench(const BenchOptions& options, Runtime& runtime) {
  return Bench(options, runtime).run();
}

}  // namespace westlake
