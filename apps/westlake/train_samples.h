// What a model says while it is trained: the run's own folder, opened as any checkpoint, continues a few prompts.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "kernels/context.h"
#include "train/loss_log.h"

namespace westlake {

// RUN/samples.jsonl. Not Thread-safe.
class SampleLog {
 public:
  static Result<SampleLog> open(const std::string& run);
  // One continuation a prompt, temperature 0.8, seeded by the step.
  Status add(Context& ctx, const std::string& run, int64_t step, const std::vector<std::string>& prompts);
  const std::vector<ReportSample>& all() const { return samples_; }

 private:
  std::string path_;
  std::vector<ReportSample> samples_;
};

}  // namespace westlake
