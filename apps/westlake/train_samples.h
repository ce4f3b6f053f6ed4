// What a model says while it is trained: the run's own folder, opened as any checkpoint, continues a few prompts, or
// answers them.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "kernels/context.h"
#include "train/loss_log.h"

namespace westlake {

enum class SampleKind { kContinuation, kAnswer };

// RUN/samples.jsonl. Not Thread-safe.
class SampleLog {
 public:
  static Result<SampleLog> open(const std::string& run);
  // One text a prompt, temperature 0.8, seeded by the step. An answer's prompt goes through the chat template.
  Status add(Context& ctx, const std::string& run, int64_t step, const std::vector<std::string>& prompts,
             SampleKind kind);
  const std::vector<ReportSample>& all() const { return samples_; }

 private:
  std::string path_;
  std::vector<ReportSample> samples_;
};

}  // namespace westlake
