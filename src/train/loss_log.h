// loss.csv: a line a step, and report.html: the same as curves in one file that needs nothing else.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "train/run_folder.h"
#include "train/trainer.h"

namespace westlake {

class LossLog {
 public:
  // Opens RUN/loss.csv; lines behind `step` (of a sitting that ended without a checkpoint) are dropped.
  static Result<LossLog> open(const RunFolder& folder, int64_t step);
  Status append(const StepReport& report);
  const std::vector<StepReport>& rows() const { return rows_; }

 private:
  std::string path_;
  std::vector<StepReport> rows_;
};

struct ReportSample {
  int64_t step = 0;
  std::string prompt, text;
};

struct ReportFacts {
  std::string title;
  std::vector<std::pair<std::string, std::string>> rows;  // what | value
  double joules = 0;                                      // 0: not readable on this machine
};

// Writes RUN/report.html: training and validation loss in bits per byte, tokens a second, norm of the gradient, expert
// load, learning rate, samples, cost.
Status write_report(const RunFolder& folder, const ReportFacts& facts, const std::vector<StepReport>& rows,
                    const std::vector<ReportSample>& samples);

}  // namespace westlake
