// westlake perplexity: how well a model predicts a text, and how far the fast path is from the exact one.
// The text is cut into windows of --ctx tokens that do not overlap; in each, the tokens of the second half are scored,
// so that every one has at least ctx/2 tokens before it (the rule of llama.cpp's tool, so figures can be compared).
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "base/json.h"
#include "base/progress.h"
#include "formats/text_file.h"
#include "infer/kv_cache.h"
#include "infer/scoring.h"
#include "westlake/command.h"
#include "westlake/runtime.h"

namespace westlake {
namespace {

struct Options {
  RuntimeOptions runtime;
  std::string file;
  int64_t ctx = 512;
  int64_t windows = 0;  // 0: all
  bool json = false, kl = false;
};

constexpr uint64_t kMostTextBytes = uint64_t{1} << 30;

// Sums over the scored tokens.
struct Score {
  double nll = 0, nll_squared = 0;  // nats
  double kl = 0;                    // KL(exact || fast), nats
  int64_t top_equal = 0;            // tokens where both have the same best next token
  int64_t n = 0;
};

int64_t best(const float* x, int64_t n) {
  return std::max_element(x, x + n) - x;
}

// Adds one row: logits of both paths (exact may be null) and the token that came.
void add_row(const float* logits, const float* exact, int64_t V, int32_t target, Score* fast_score,
             Score* exact_score) {
  const double z = log_sum_exp(logits, V), nll = z - logits[target];
  fast_score->nll += nll;
  fast_score->nll_squared += nll * nll;
  ++fast_score->n;
  if (exact == nullptr) return;
  const double exact_z = log_sum_exp(exact, V), exact_nll = exact_z - exact[target];
  exact_score->nll += exact_nll;
  exact_score->nll_squared += exact_nll * exact_nll;
  ++exact_score->n;
  double kl = 0;
  for (int64_t i = 0; i < V; ++i) {
    const double log_p = exact[i] - exact_z;
    kl += std::exp(log_p) * (log_p - (logits[i] - z));
  }
  fast_score->kl += kl;
  fast_score->top_equal += best(logits, V) == best(exact, V);
}

Result<std::vector<int32_t>> read_tokens(const std::string& model_path, const std::string& file, bool* bos) {
  TRY_ASSIGN(const TextBundle text, TextBundle::open(model_path));
  TRY_ASSIGN(TextReader reader, TextReader::open(file));
  TRY_ASSIGN(const std::string content, reader.read_all(kMostTextBytes));
  *bos = text.add_bos && text.tokenizer.bos_id() >= 0;
  std::vector<int32_t> ids;
  if (*bos) ids.push_back(text.tokenizer.bos_id());
  EncodeOptions plain;
  plain.parse_added_tokens = false;
  text.tokenizer.encode(content, plain, ids);
  return ids;
}

void report(const Options& options, const Score& fast, const Score& exact, int64_t windows) {
  auto perplexity = [](const Score& s) { return std::exp(s.nll / static_cast<double>(s.n)); };
  const double n = static_cast<double>(fast.n), mean = fast.nll / n;
  const double error = std::sqrt(std::max(0.0, fast.nll_squared / n - mean * mean) / n);  // of the mean nll
  if (options.json) {
    JsonWriter w;
    w.begin_object().key("perplexity").value(perplexity(fast)).key("perplexity_error").value(perplexity(fast) * error);
    w.key("nll").value(mean).key("tokens").value(fast.n).key("windows").value(windows).key("ctx").value(options.ctx);
    if (options.kl) {
      w.key("exact_perplexity").value(perplexity(exact));
      w.key("ratio").value(perplexity(fast) / perplexity(exact));
      w.key("kl").value(fast.kl / n).key("same_top").value(static_cast<double>(fast.top_equal) / n);
    }
    w.end_object();
    fmt::print("{}\n", w.text());
    return;
  }
  fmt::print("perplexity {:.4f} +- {:.4f} over {} tokens in {} windows of {}\n", perplexity(fast),
             perplexity(fast) * error, fast.n, windows, options.ctx);
  if (!options.kl) return;
  fmt::print("exact      {:.4f}, fast is {:+.3f} % of it\n", perplexity(exact),
             100 * (perplexity(fast) / perplexity(exact) - 1));
  fmt::print("KL(exact || fast) {:.3g} nats a token, same best token {:.2f} %\n", fast.kl / n,
             100 * static_cast<double>(fast.top_equal) / n);
}

// The exact path has everything of its own: float32 keys and values, and the weights as the file has them.
struct ExactPath {
  Context context;
  Model model;
  PagePool pool{model.cache_shape(kPageTokens)};
  SequenceCache cache{pool};

  static Result<std::unique_ptr<ExactPath>> create(const Runtime& runtime, int64_t positions) {
    TRY_ASSIGN(Model model, Model::bind(runtime.weights()));
    std::unique_ptr<ExactPath> path(new ExactPath(runtime, std::move(model)));
    TRY(path->cache.ensure(positions));
    return path;
  }

 private:
  ExactPath(const Runtime& runtime, Model bound)
      : context{runtime.context->kernels, *runtime.pool, /*exact=*/true}, model(std::move(bound)) {}
};

Status run(const Options& options) {
  TRY_ASSIGN(Runtime runtime, open_runtime(options.runtime));
  const Model& model = *runtime.model;
  const int64_t V = model.config().vocab_size, ctx = options.ctx, first = ctx / 2;
  bool bos = false;
  TRY_ASSIGN(std::vector<int32_t> ids, read_tokens(runtime.checkpoint->path(), options.file, &bos));
  TRY(check_ids(ids, V));
  int64_t windows = static_cast<int64_t>(ids.size()) / ctx;
  if (options.windows > 0) windows = std::min(windows, options.windows);
  if (windows == 0)
    return make_error(Code::kInvalidArgument, "{}: has {} tokens, one window of --ctx {} needs as many", options.file,
                      ids.size(), ctx);
  PagePool pool(model.cache_shape(kPageTokens));
  SequenceCache cache(pool);
  TRY(cache.ensure(ctx));
  std::unique_ptr<ExactPath> exact_path;
  if (options.kl) {
    TRY_ASSIGN(exact_path, ExactPath::create(runtime, ctx));
  }
  const int64_t rows = ctx - 1 - first;
  std::vector<float> logits((rows + 1) * V), exact(options.kl ? logits.size() : 0);
  Score fast_score, exact_score;
  Progress progress("perplexity", static_cast<uint64_t>(windows * ctx), "tokens");
  for (int64_t window = 0; window < windows; ++window) {
    std::span<int32_t> tokens(ids.data() + window * ctx, ctx);
    const int32_t kept = tokens[0];
    if (bos) tokens[0] = ids[0];  // every window begins as a text does
    Segment segment;
    segment.tokens = tokens;
    segment.pages = cache.pages();
    segment.logits_from = first;
    model.forward(*runtime.context, {&segment, 1}, kPageTokens, logits.data());
    if (options.kl) {
      segment.pages = exact_path->cache.pages();
      exact_path->model.forward(exact_path->context, {&segment, 1}, kPageTokens, exact.data());
    }
    for (int64_t i = 0; i < rows; ++i) {
      add_row(logits.data() + i * V, options.kl ? exact.data() + i * V : nullptr, V, tokens[first + i + 1], &fast_score,
              &exact_score);
    }
    tokens[0] = kept;
    progress.update(static_cast<uint64_t>((window + 1) * ctx));
  }
  report(options, fast_score, exact_score, windows);
  return {};
}

}  // namespace

void add_perplexity(CLI::App& app, Action* action) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("perplexity", "scores a text; --kl compares the fast path with the exact one");
  add_runtime_options(*command, &options->runtime);
  command->add_option("--file", options->file, "a text, also .zst or .gz")->required();
  command->add_option("--ctx", options->ctx, "tokens of a window")->check(CLI::Range(4, 1 << 20));
  command->add_option("--windows", options->windows, "at most so many windows")->check(CLI::Range(0, 1 << 30));
  command->add_flag("--kl", options->kl, "also runs the exact path and reports the divergence");
  command->add_flag("--json", options->json, "one JSON object on stdout");
  command->callback([action, options] { *action = [options] { return run(*options); }; });
}

}  // namespace westlake
