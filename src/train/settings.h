// TrainSettings: everything that decides how a run goes, written into every checkpoint so that a resumed run is the
// same run.
#pragma once

#include <cstdint>
#include <string>

#include "base/json.h"
#include "base/result.h"
#include "kernels/training.h"
#include "train/optimiser.h"
#include "train/schedule.h"

namespace westlake {

struct TrainSettings {
  // The end of the run: tokens; or epochs, of which the data make a number of tokens; or minutes, of which the speed of
  // the first steps does.
  int64_t tokens = 0;
  double epochs = 0;
  double minutes = 0;

  int64_t sequence_length = 512;  // T
  int64_t batch_tokens = 16384;   // of one update
  int64_t micro_batch_rows = 0;   // B of one pass; 0: the whole update, or what memory allows
  uint64_t seed = 0;
  Precision precision = Precision::kBf16;
  bool recompute = false;
  double initializer_range = 0.02;

  OptimiserOptions optimiser;
  ScheduleKind schedule = ScheduleKind::kWsd;
  double warmup_fraction = 0.02;
  double decay_fraction = 0.4;
  double final_fraction = 0;

  double mtp_weight = 0.3;        // lambda
  double mtp_final_weight = 0.1;  // from the beginning of the decay on (V3 report, 4.2)
  double balance_weight = 1e-4;   // alpha of the sequence-wise balance loss
  double bias_rate = 1e-3;        // gamma of the router's bias; zero in the last tenth (V3 report, 4.2)

  int64_t eval_every_steps = 0;  // 0: twenty times in the run
  int64_t eval_tokens = 65536;
  double checkpoint_minutes = 5;

  int64_t batch_rows() const { return batch_tokens / sequence_length; }
  int64_t steps() const { return (tokens + batch_tokens - 1) / batch_tokens; }
  Schedule schedule_of_run() const;

  Status validate() const;
  void write(JsonWriter& w) const;  // one object
  static Result<TrainSettings> read(const JsonObject& object, std::string_view place);
};

}  // namespace westlake
