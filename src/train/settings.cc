#include "train/settings.h"

#include <algorithm>
#include <cmath>

namespace westlake {
namespace {

// Every field with its name, once: for writing and for reading.
template <typename Settings, typename F>
void for_each_field(Settings& s, F&& f) {
  f("tokens", s.tokens);
  f("epochs", s.epochs);
  f("minutes", s.minutes);
  f("sequence_length", s.sequence_length);
  f("batch_tokens", s.batch_tokens);
  f("micro_batch_rows", s.micro_batch_rows);
  f("recompute", s.recompute);
  f("initializer_range", s.initializer_range);
  f("lr", s.optimiser.lr);
  f("embedding_lr_factor", s.optimiser.embedding_lr_factor);
  f("head_lr_factor", s.optimiser.head_lr_factor);
  f("router_lr_factor", s.optimiser.router_lr_factor);
  f("vector_lr_factor", s.optimiser.vector_lr_factor);
  f("beta1", s.optimiser.beta1);
  f("beta2", s.optimiser.beta2);
  f("eps", s.optimiser.eps);
  f("weight_decay", s.optimiser.weight_decay);
  f("clip", s.optimiser.clip);
  f("muon_lr", s.optimiser.muon.lr);
  f("muon_momentum", s.optimiser.muon.momentum);
  f("muon_weight_decay", s.optimiser.muon.weight_decay);
  f("warmup_fraction", s.warmup_fraction);
  f("decay_fraction", s.decay_fraction);
  f("final_fraction", s.final_fraction);
  f("mtp_weight", s.mtp_weight);
  f("mtp_final_weight", s.mtp_final_weight);
  f("balance_weight", s.balance_weight);
  f("bias_rate", s.bias_rate);
  f("eval_every_steps", s.eval_every_steps);
  f("eval_tokens", s.eval_tokens);
  f("checkpoint_minutes", s.checkpoint_minutes);
}

Status at_least(std::string_view name, double value, double least) {
  if (std::isfinite(value) && value >= least) return {};
  return make_error(Code::kInvalidArgument, "{} is {}, expected at least {}", name, value, least);
}

}  // namespace

Schedule TrainSettings::schedule_of_run() const {
  Schedule run;
  run.kind = schedule;
  run.steps = steps();
  run.warmup_steps = std::max<int64_t>(1, std::llround(warmup_fraction * static_cast<double>(run.steps)));
  run.decay_fraction = decay_fraction;
  run.final_fraction = final_fraction;
  return run;
}

Status TrainSettings::validate() const {
  if (tokens <= 0 && !(epochs > 0) && !(minutes > 0)) {
    return make_error(Code::kInvalidArgument,
                      "the length of the run is not given. Hint: --tokens 200M, --epochs 2 or --minutes 60");
  }
  if (epochs > 1e6) return make_error(Code::kInvalidArgument, "epochs is {}, expected at most a million", epochs);
  TRY(at_least("sequence_length", static_cast<double>(sequence_length), 2));
  if (batch_tokens < sequence_length || batch_tokens % sequence_length != 0) {
    return make_error(Code::kInvalidArgument, "batch_tokens is {}, expected a multiple of sequence_length {}",
                      batch_tokens, sequence_length);
  }
  if (micro_batch_rows < 0 || (micro_batch_rows > 0 && batch_rows() % micro_batch_rows != 0)) {
    return make_error(Code::kInvalidArgument, "micro_batch_rows is {}, expected a divisor of the {} rows of an update",
                      micro_batch_rows, batch_rows());
  }
  for (const auto& [name, value] : {std::pair{"lr", optimiser.lr},
                                    {"muon_lr", optimiser.muon.lr},
                                    {"clip", optimiser.clip},
                                    {"weight_decay", optimiser.weight_decay},
                                    {"warmup_fraction", warmup_fraction},
                                    {"decay_fraction", decay_fraction},
                                    {"mtp_weight", mtp_weight},
                                    {"balance_weight", balance_weight},
                                    {"bias_rate", bias_rate},
                                    {"initializer_range", initializer_range}}) {
    TRY(at_least(name, value, 0));
  }
  if (warmup_fraction + decay_fraction > 1) {
    return make_error(Code::kInvalidArgument, "warmup_fraction {} and decay_fraction {} are more than the whole run",
                      warmup_fraction, decay_fraction);
  }
  return {};
}

void TrainSettings::write(JsonWriter& w) const {
  w.begin_object();
  for_each_field(*this, [&](const char* name, const auto& value) { w.key(name).value(value); });
  w.key("newton_schulz_steps").value(optimiser.muon.newton_schulz_steps);
  w.key("seed").value(std::to_string(seed));
  w.key("precision").value(precision == Precision::kBf16 ? "bf16" : "f32");
  w.key("optimizer").value(optimiser.kind == OptimiserKind::kMuon ? "muon" : "adamw");
  w.key("schedule").value(schedule_name(schedule));
  w.end_object();
}

Result<TrainSettings> TrainSettings::read(const JsonObject& object, std::string_view place) {
  TrainSettings s;
  Status status;
  for_each_field(s, [&](const char* name, auto& value) {
    if (status.ok()) status = json_read(object, name, place, &value);
  });
  TRY(status);
  int64_t newton_schulz_steps = s.optimiser.muon.newton_schulz_steps;
  std::string seed = "0", precision = "bf16", optimizer = "muon", schedule = "wsd";
  TRY(json_read(object, "newton_schulz_steps", place, &newton_schulz_steps));
  TRY(json_read(object, "seed", place, &seed));
  TRY(json_read(object, "precision", place, &precision));
  TRY(json_read(object, "optimizer", place, &optimizer));
  TRY(json_read(object, "schedule", place, &schedule));
  s.optimiser.muon.newton_schulz_steps = static_cast<int>(newton_schulz_steps);
  s.seed = std::strtoull(seed.c_str(), nullptr, 10);
  s.precision = precision == "bf16" ? Precision::kBf16 : Precision::kFull;
  s.optimiser.kind = optimizer == "muon" ? OptimiserKind::kMuon : OptimiserKind::kAdamW;
  TRY_ASSIGN(s.schedule, parse_schedule(schedule));
  return s;
}

}  // namespace westlake
