// westlake logits: the logits (and hidden states) of given tokens, as .npy files. For comparing with other programs.
#include <algorithm>

#include "formats/npy.h"
#include "infer/kv_cache.h"
#include "westlake/command.h"
#include "westlake/runtime.h"

namespace westlake {
namespace {

struct Options {
  RuntimeOptions runtime;
  std::string ids, out, hidden, mtp;
  int64_t chunk = 512;
};

// logits.npy [T, V] is written chunk by chunk; hidden states [L+1, T, D] are layer-major, so they are gathered first.
Status run(const Options& options) {
  TRY_ASSIGN(Runtime runtime, open_runtime(options.runtime));
  const Model& model = *runtime.model;
  const ModelConfig& config = model.config();
  TRY_ASSIGN(const std::vector<int32_t> ids, parse_ids(options.ids));
  TRY(check_ids(ids, config.vocab_size));
  const int64_t T = static_cast<int64_t>(ids.size()), V = config.vocab_size, D = config.hidden_size;
  const int64_t L = config.num_hidden_layers;
  if (!options.mtp.empty() && model.weights().mtp.empty())
    return make_error(Code::kNotFound, "{}: has no multi-token-prediction layer, --mtp needs one",
                      options.runtime.model);
  if (!options.mtp.empty() && T < 2)
    return make_error(Code::kInvalidArgument, "--mtp: {} token, expected at least 2: it pairs a token with the next",
                      T);

  PagePool pool(model.cache_shape(kPageTokens));
  SequenceCache cache(pool);
  TRY(cache.ensure(T));
  std::vector<float> hidden(options.hidden.empty() ? 0 : (L + 1) * T * D);
  std::vector<float> normed(options.mtp.empty() ? 0 : T * D);
  std::vector<float> logits(std::min(options.chunk, T) * V);
  TRY_ASSIGN(NpyWriter writer, NpyWriter::create(options.out, DType::kF32, {T, V}));
  for (int64_t start = 0; start < T; start += options.chunk) {
    const int64_t n = std::min(options.chunk, T - start);
    Segment segment;
    segment.tokens = std::span(ids).subspan(start, n);
    segment.start = start;
    segment.pages = cache.pages();
    HiddenObserver observer;
    if (!hidden.empty()) {
      observer = [&](int64_t layer, const float* x, int64_t) {
        std::copy(x, x + n * D, hidden.data() + (layer * T + start) * D);
      };
    }
    model.forward(*runtime.context, {&segment, 1}, kPageTokens, logits.data(),
                  normed.empty() ? nullptr : normed.data() + start * D, observer);
    TRY(writer.append(std::span<const float>(logits.data(), n * V)));
  }
  TRY(writer.finish());
  if (!hidden.empty()) TRY(write_npy(options.hidden, std::span<const float>(hidden), {L + 1, T, D}));
  if (options.mtp.empty()) return {};

  PagePool mtp_pool(model.mtp_cache_shape(kPageTokens));
  SequenceCache mtp_cache(mtp_pool);
  TRY(mtp_cache.ensure(T - 1));
  TRY_ASSIGN(NpyWriter mtp_writer, NpyWriter::create(options.mtp, DType::kF32, {T - 1, V}));
  for (int64_t start = 0; start < T - 1; start += options.chunk) {
    const int64_t n = std::min(options.chunk, T - 1 - start);
    Segment segment;
    segment.tokens = std::span(ids).subspan(start + 1, n);
    segment.start = start;
    segment.pages = mtp_cache.pages();
    model.forward_mtp(*runtime.context, 0, normed.data() + start * D, {&segment, 1}, kPageTokens, logits.data());
    TRY(mtp_writer.append(std::span<const float>(logits.data(), n * V)));
  }
  return mtp_writer.finish();
}

}  // namespace

void add_logits(CLI::App& app, Action* action) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("logits", "writes the logits of given tokens as .npy");
  add_runtime_options(*command, &options->runtime);
  command->add_option("--ids", options->ids, "token ids: 1,2,3 or @file.npy")->required();
  command->add_option("--out", options->out, "logits, float32 [T, V]")->required();
  command->add_option("--hidden", options->hidden, "residual stream after the embedding and every layer, [L+1, T, D]");
  command->add_option("--mtp", options->mtp, "logits of the multi-token-prediction layer, [T-1, V]");
  command->add_option("--chunk", options->chunk, "tokens computed at a time")->check(CLI::Range(1, 65536));
  command->callback([action, options] { *action = [options] { return run(*options); }; });
}

}  // namespace westlake
