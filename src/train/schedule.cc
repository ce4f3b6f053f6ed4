#include "train/schedule.h"

#include <algorithm>
#include <cmath>

namespace westlake {

double Schedule::factor(int64_t step) const {
  if (step < warmup_steps) return static_cast<double>(step + 1) / static_cast<double>(warmup_steps);
  if (kind == ScheduleKind::kConstant || steps <= 0) return 1;
  const double all = static_cast<double>(steps);
  double left = 1;  // 1 at the beginning of the decay, 0 behind the last step
  if (kind == ScheduleKind::kWsd) {
    const double decay = std::max(1.0, all * decay_fraction);
    left = std::clamp((all - static_cast<double>(step)) / decay, 0.0, 1.0);
  } else {
    const double span = std::max(1.0, all - static_cast<double>(warmup_steps));
    const double done = std::clamp(static_cast<double>(step - warmup_steps) / span, 0.0, 1.0);
    left = kind == ScheduleKind::kLinear ? 1 - done : 0.5 * (1 + std::cos(3.141592653589793 * done));
  }
  return final_fraction + (1 - final_fraction) * left;
}

Result<ScheduleKind> parse_schedule(const std::string& name) {
  for (const ScheduleKind kind :
       {ScheduleKind::kConstant, ScheduleKind::kWsd, ScheduleKind::kCosine, ScheduleKind::kLinear}) {
    if (name == schedule_name(kind)) return kind;
  }
  return make_error(Code::kInvalidArgument, "schedule '{}' is not known. Hint: wsd, cosine, linear or constant", name);
}

std::string_view schedule_name(ScheduleKind kind) {
  switch (kind) {
    case ScheduleKind::kConstant:
      return "constant";
    case ScheduleKind::kCosine:
      return "cosine";
    case ScheduleKind::kLinear:
      return "linear";
    case ScheduleKind::kWsd:
      break;
  }
  return "wsd";
}

}  // namespace westlake
