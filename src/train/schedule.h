// The learning rate over a run, as a factor on every group's rate.
//   warm-up: step / warmup_steps; then
//   wsd:     1 until the last decay_fraction of the steps, there down in a straight line (warm-up, stable, decay)
//   cosine:  half a cosine from 1 to the end of the run
//   linear:  a straight line from 1 to the end of the run
// all to final_fraction.
// Source: Hu et al., MiniCPM (arXiv 2404.06395) 4.2 for WSD; Loshchilov & Hutter 2017 for the cosine; that a straight
// line to zero serves best: Bergsma et al. (arXiv 2502.15938).
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"

namespace westlake {

enum class ScheduleKind { kConstant, kWsd, kCosine, kLinear };

struct Schedule {
  ScheduleKind kind = ScheduleKind::kWsd;
  int64_t steps = 0;  // of the whole run
  int64_t warmup_steps = 0;
  double decay_fraction = 0.4;
  double final_fraction = 0;

  // Of the update that follows `step` finished ones; step in [0, steps).
  double factor(int64_t step) const;
};

Result<ScheduleKind> parse_schedule(const std::string& name);
std::string_view schedule_name(ScheduleKind kind);

}  // namespace westlake
