#include "infer/speculation.h"

#include <algorithm>

namespace westlake {
namespace {

constexpr int64_t kShortestMatch = 2;  // one token alone says little
constexpr int64_t kLongMatch = 16;     // longer ones are not told apart: the latest is as good

// Weight that a step keeps with each one after it: some thirty steps count, so that a growing context is followed.
constexpr double kKept = 0.97;
// Before a step of another size was seen, a row more is taken to cost this part of a step of one row ...
constexpr double kGuessedRowShare = 0.25;
// ... with as much weight as one deviation of a third of a row.
constexpr double kGuessWeight = 0.1;
// A step that the machine took for itself (page faults, another process) counts as no more than so many.
constexpr double kMostOutlier = 3;

constexpr int64_t kMostDrafts = 64;  // far beyond what pays anywhere

constexpr double kChanceRate = 1.0 / 8;  // of each draft's outcome in the chance
constexpr int64_t kFirstPause = 8, kLongestPause = 256;

}  // namespace

Result<Speculation> speculation_by_name(std::string_view name, const Model& model) {
  if (name == "off") return Speculation::kOff;
  if (name == "lookup") return Speculation::kLookup;
  if (name == "mtp") return Speculation::kMtp;
  if (name == "auto") return model.weights().mtp.empty() ? Speculation::kLookup : Speculation::kMtp;
  return make_error(Code::kInvalidArgument, "speculation '{}', expected off, lookup, mtp or auto", name);
}

Status check_speculation(const SpeculationOptions& options, const Model& model) {
  if (options.most_drafts < 1 || options.most_drafts > kMostDrafts) {
    return make_error(Code::kInvalidArgument, "{} drafts in a pass, expected 1 to {}", options.most_drafts,
                      kMostDrafts);
  }
  if (options.kind != Speculation::kMtp || !model.weights().mtp.empty()) return {};
  return make_error(Code::kUnsupported,
                    "speculation by MTP, but the model has no such layer (num_nextn_predict_layers). Hint: lookup "
                    "works with every model");
}

std::string_view speculation_name(Speculation kind) {
  switch (kind) {
    case Speculation::kOff:
      return "off";
    case Speculation::kLookup:
      return "lookup";
    case Speculation::kMtp:
      return "mtp";
  }
  return "unknown";
}

std::vector<int32_t> lookup_drafts(std::span<const int32_t> text, int32_t next, int64_t most) {
  const auto n = static_cast<int64_t>(text.size());
  int64_t best = -1, best_length = kShortestMatch - 1;
  for (int64_t i = n - 1; i >= 0 && best_length < kLongMatch; --i) {
    if (text[i] != next) continue;
    int64_t length = 1;
    while (length < kLongMatch && length <= i && text[i - length] == text[n - length]) ++length;
    if (length <= best_length) continue;
    best = i;
    best_length = length;
  }
  std::vector<int32_t> drafts;
  if (best < 0) return drafts;
  for (int64_t i = best + 1; static_cast<int64_t>(drafts.size()) < most; ++i)
    drafts.push_back(i < n ? text[i] : i == n ? next : drafts[i - n - 1]);
  return drafts;
}

void StepTimes::add(int64_t rows, double seconds) {
  const auto r = static_cast<double>(rows);
  if (n_ > 0) seconds = std::min(seconds, kMostOutlier * std::max(this->seconds(rows), seconds_ / n_));
  n_ = n_ * kKept + 1;
  rows_ = rows_ * kKept + r;
  seconds_ = seconds_ * kKept + seconds;
  rows_rows_ = rows_rows_ * kKept + r * r;
  rows_seconds_ = rows_seconds_ * kKept + r * seconds;
}

void StepTimes::add_drafting(int64_t drafts, double seconds) {
  if (drafts < 1) return;
  const double each = seconds / static_cast<double>(drafts);
  per_draft_ = per_draft_ == 0 ? each : per_draft_ * kKept + each * (1 - kKept);
}

double StepTimes::per_row() const {
  if (n_ == 0) return 0;
  const double mean_rows = rows_ / n_, mean_seconds = seconds_ / n_;
  // Of a step of `rows` at the guess: seconds = s + s share (rows - 1).
  const double guess = mean_seconds * kGuessedRowShare / (1 + kGuessedRowShare * (mean_rows - 1));
  const double spread = rows_rows_ - rows_ * mean_rows, together = rows_seconds_ - rows_ * mean_seconds;
  return std::max(0.0, (together + kGuessWeight * guess) / (spread + kGuessWeight));
}

double StepTimes::seconds(int64_t rows) const {
  if (n_ == 0) return 0;
  return std::max(0.0, seconds_ / n_ + per_row() * (static_cast<double>(rows) - rows_ / n_));
}

int64_t DraftGovernor::decide(const StepTimes& times, const SpeculationOptions& options, int64_t most,
                              StepEstimate* step) {
  most = std::min(most, options.most_drafts);
  if (options.kind == Speculation::kOff || most <= 0) return 0;
  if (options.always) return most;
  const double cost = times.per_row() + times.per_draft();
  int64_t count = 0;
  for (double p = chance_; count < most && p * step->seconds > cost * step->tokens; p *= chance_) {
    ++count;
    step->tokens += p;
    step->seconds += cost;
  }
  if (count > 0) {
    idle_ = 0;
    return count;
  }
  if (++idle_ < pause_) return 0;
  idle_ = 0;
  pause_ = std::min(2 * pause_, kLongestPause);
  step->tokens += chance_;
  step->seconds += cost;
  return 1;
}

void DraftGovernor::add(int64_t drafted, int64_t accepted) {
  for (int64_t i = 0; i < std::min(drafted, accepted + 1); ++i)
    chance_ += ((i < accepted ? 1.0 : 0.0) - chance_) * kChanceRate;
  if (accepted > 0) pause_ = kFirstPause;
}

}  // namespace westlake
