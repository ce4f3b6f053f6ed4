// Evaluation tasks: files of questions become texts to score, scores become figures.
//   bpb        bits per byte of texts (.txt files; documents split at <|endoftext|>), windows of --ctx, half
//   overlapping blimp      share of pairs where the grammatical sentence is the likelier (chance 50 %) hellaswag  share
//   of endings chosen by likelihood, and by likelihood a byte (chance 25 %) lambada    share of last words that are the
//   model's best guess token by token, and their perplexity arc        share of right answers preferred to a wrong one,
//   and by likelihood a byte (chance 50 %)
// Source: Warstadt et al. 2020 (BLiMP), Zellers et al. 2019 (HellaSwag), Paperno et al. 2016 (LAMBADA), Clark et al.
// 2018 (ARC); the forms of the prompts are those of EleutherAI's lm-evaluation-harness.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "kernels/context.h"
#include "model/model.h"
#include "model/text_bundle.h"

namespace westlake {

struct EvalOptions {
  int64_t ctx = 512;  // window of bpb
  int64_t limit = 0;  // questions of a task at most, bytes / 1000 of a text; 0: all
};

struct EvalFigure {
  std::string task, of, name;  // "blimp", "" or a part of it, "accuracy"
  double value = 0;
  double error = 0;  // standard error; 0: none stated
  int64_t n = 0;
};

using EvalProgress = std::function<void(const std::string& what, int64_t done, int64_t total)>;

// "bpb", "blimp" ..
std::vector<std::string> eval_task_names();

// `data`: a folder with the task's files as they are published in JSON lines (blimp*.jsonl, hellaswag*.jsonl,
// lambada*.jsonl, arc*.jsonl, *.txt; also .zst and .gz), or one such file. Errors: kNotFound when there is none,
// kCorrupt with file and line.
Result<std::vector<EvalFigure>> run_eval_task(Context& ctx, const Model& model, const TextBundle& text,
                                              const std::string& task, const std::string& data,
                                              const EvalOptions& options, const EvalProgress& progress = {});

}  // namespace westlake
