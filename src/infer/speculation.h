// Speculation: guesses of the tokens that come next, and whether they pay.
//
// Idea: decoding one token reads as much memory as decoding a few, so the model may as well check a few guessed ones.
// Where guesses come from: the text itself (what followed the last time these tokens stood here), or a layer trained
// for it (mtp_drafts.h). Guesses never change the text (answer.h), so whether to guess is only a question of time, and
// is decided by measured time: a row more in a step costs c seconds and brings a token with probability p; it pays when
// p / c is better than the tokens a second of the step without it. p is measured for each sequence, c for the machine.
// Source: Leviathan et al., 2023; prompt lookup: Saxena, "Prompt Lookup Decoding", 2023; the copy that runs into itself
// is that of Ziv and Lempel, 1977.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "model/model.h"

namespace westlake {

enum class Speculation { kOff, kLookup, kMtp };

struct SpeculationOptions {
  Speculation kind = Speculation::kOff;
  int64_t most_drafts = 6;  // in one pass
  bool always = false;      // as many drafts as there may be, whether they pay or not
};

// "off", "lookup", "mtp", or "auto": mtp where the model has it, else lookup. Errors: kInvalidArgument.
Result<Speculation> speculation_by_name(std::string_view name, const Model& model);
// Errors: kUnsupported for drafts by MTP from a model without it, kInvalidArgument for a number that cannot be.
Status check_speculation(const SpeculationOptions& options, const Model& model);
std::string_view speculation_name(Speculation kind);

// What followed the last time the end of the text (`text` and `next` behind it) stood somewhere: the place with the
// longest match of at least two tokens, of equals the latest. Empty, or `most` tokens: a copy that reaches the end of
// the text goes on with itself. Cost: one pass over the text.
std::vector<int32_t> lookup_drafts(std::span<const int32_t> text, int32_t next, int64_t most);

// Seconds of a step by its rows: base + per_row * rows, fitted to the steps of late.
class StepTimes {
 public:
  void add(int64_t rows, double seconds);
  // A draft's own cost, before it is checked.
  void add_drafting(int64_t drafts, double seconds);
  double seconds(int64_t rows) const;  // 0 before the first step
  double per_row() const;
  double per_draft() const { return per_draft_; }

 private:
  // Sums over steps, older ones with less weight.
  double n_ = 0, rows_ = 0, seconds_ = 0, rows_rows_ = 0, rows_seconds_ = 0;
  double per_draft_ = 0;
};

// A step as it is planned so far: how long it takes, how many tokens it brings.
struct StepEstimate {
  double seconds = 0;
  double tokens = 0;
};

// Decides for one sequence how many drafts a step checks.
class DraftGovernor {
 public:
  // Between 0 and `most`. Adds the drafts to the estimate. Where drafts do not pay, one is tried now and then, ever
  // more rarely for as long as it stays so.
  int64_t decide(const StepTimes& times, const SpeculationOptions& options, int64_t most, StepEstimate* step);
  // What became of them.
  void add(int64_t drafted, int64_t accepted);
  // The probability of a draft, given that those before it are right.
  double chance() const { return chance_; }

 private:
  double chance_ = 0.5;
  int64_t idle_ = 0;   // steps without a draft
  int64_t pause_ = 8;  // steps until one is tried
};

}  // namespace westlake
