// westlake generate: continues a text, or token ids where there is no tokenizer.
// The answer is all that comes on standard output, as it comes and in whole characters; --json gives one object
// instead.
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <optional>

#include "base/json.h"
#include "formats/npy.h"
#include "formats/text_file.h"
#include "infer/chat.h"
#include "infer/session.h"
#include "westlake/cancel_flag.h"
#include "westlake/chat_terminal.h"
#include "westlake/command.h"
#include "westlake/runtime.h"
#include "westlake/sampling_flags.h"

namespace westlake {
namespace {

constexpr int64_t kDefaultTokens = 256;
constexpr uint64_t kMostPromptBytes = uint64_t{1} << 30;

struct Options {
  RuntimeOptions runtime;
  std::optional<std::string> prompt;
  std::string file, ids, ids_out;
  int64_t max_tokens = kDefaultTokens;
  SamplingFlags sampling;
  std::vector<std::string> stop;
  SessionOptions session;
  std::string speculate = "auto";
  bool chat = false, plain = false, ignore_eos = false, json = false, verbose = false;
};

Result<std::string> prompt_text(const Options& options) {
  if (options.prompt) return *options.prompt;
  if (!options.file.empty()) {
    TRY_ASSIGN(TextReader reader, TextReader::open(options.file));
    return reader.read_all(kMostPromptBytes);
  }
  if (isatty(STDIN_FILENO) == 1)
    return make_error(Code::kInvalidArgument, "no prompt. Hint: -p TEXT, -f FILE, --ids 1,2,3, or text on a pipe");
  TRY_ASSIGN(TextReader reader, TextReader::from_fd(STDIN_FILENO, "standard input"));
  return reader.read_all(kMostPromptBytes);
}

Result<std::vector<int32_t>> encode_prompt(const Options& options, const TextBundle& bundle) {
  TRY_ASSIGN(const std::string text, prompt_text(options));
  if (options.chat) {
    ChatRequest request;
    request.messages.push_back({.role = "user", .content = text});
    TRY_ASSIGN(ChatPrompt prompt, chat_prompt(bundle, request));
    return std::move(prompt.ids);
  }
  const Tokenizer& tokenizer = bundle.tokenizer;
  std::vector<int32_t> ids = tokenizer.encode(text, {.parse_added_tokens = !options.plain});
  const int32_t bos = tokenizer.bos_id();
  if (bundle.add_bos && bos >= 0 && (ids.empty() || ids[0] != bos)) ids.insert(ids.begin(), bos);
  if (ids.empty()) return make_error(Code::kInvalidArgument, "the prompt is empty: nothing to continue");
  return ids;
}

// Ids do without a tokenizer, text does not.
Result<std::optional<TextBundle>> open_text(const Options& options, const Checkpoint& checkpoint) {
  Result<TextBundle> bundle = TextBundle::open(checkpoint.path());
  if (bundle.ok()) return std::optional<TextBundle>(std::move(*bundle));
  const Code code = bundle.error().code;
  const bool absent = code == Code::kNotFound || code == Code::kUnsupported;
  if (options.ids.empty() || options.chat || !options.stop.empty() || !absent) return bundle.error();
  return std::optional<TextBundle>();
}

std::string report(const Options& options, const Generated& out, Speculation speculation, uint64_t seed,
                   double load_s) {
  const GenerateStats& s = out.stats;
  const auto generated = static_cast<int64_t>(out.ids.size());
  const int64_t computed = s.prompt_tokens - s.cached_tokens;
  JsonWriter w;
  w.begin_object().key("text").value(out.text).key("ids").begin_array();
  for (int32_t id : out.ids) w.value(id);
  w.end_array().key("finish_reason").value(finish_reason_name(out.finish_reason)).key("seed").value(seed);
  w.key("usage").begin_object();
  w.key("prompt_tokens").value(s.prompt_tokens).key("cached_tokens").value(s.cached_tokens);
  w.key("completion_tokens").value(generated).key("total_tokens").value(s.prompt_tokens + generated).end_object();
  w.key("timings").begin_object().key("load_s").value(load_s);
  w.key("prefill_s").value(s.prefill_s).key("decode_s").value(s.decode_s);
  w.key("prefill_tok_s").value(s.prefill_s > 0 ? static_cast<double>(computed) / s.prefill_s : 0.0);
  w.key("decode_tok_s").value(s.decode_s > 0 ? static_cast<double>(generated) / s.decode_s : 0.0).end_object();
  w.key("speculation").begin_object().key("kind").value(speculation_name(speculation));
  w.key("drafted_tokens").value(s.drafted_tokens).key("accepted_tokens").value(s.accepted_tokens).end_object();
  w.key("model").value(options.runtime.model).end_object();
  return w.text();
}

void print_statistics(const Generated& out, uint64_t seed) {
  const GenerateStats& s = out.stats;
  fmt::print(stderr, "[prompt {} tok, {:.1f} tok/s; answer {} tok, {:.1f} tok/s, {} of {} drafts right; {}; seed {}]\n",
             s.prompt_tokens,
             s.prefill_s > 0 ? static_cast<double>(s.prompt_tokens - s.cached_tokens) / s.prefill_s : 0.0,
             out.ids.size(), s.decode_s > 0 ? static_cast<double>(out.ids.size()) / s.decode_s : 0.0, s.accepted_tokens,
             s.drafted_tokens, finish_reason_name(out.finish_reason), seed);
}

// Without a tokenizer the ids are the answer: "12,7,9".
std::string piece_of(const std::optional<TextBundle>& bundle, int32_t token, std::string_view text, bool first) {
  if (bundle) return isatty(STDOUT_FILENO) == 1 ? terminal_text(text) : std::string(text);
  return fmt::format("{}{}", first ? "" : ",", token);
}

Status put(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0) return {};
  return make_error(Code::kIo, "standard output does not take the text");
}

Status run(const Options& options) {
  TRY_ASSIGN(Runtime runtime, open_runtime(options.runtime));
  TRY_ASSIGN(const std::optional<TextBundle> bundle, open_text(options, *runtime.checkpoint));
  std::vector<int32_t> prompt;
  if (!options.ids.empty()) {
    TRY_ASSIGN(prompt, parse_ids(options.ids));
    TRY(check_ids(prompt, runtime.model->config().vocab_size));
  } else {
    TRY_ASSIGN(prompt, encode_prompt(options, *bundle));
  }
  GenerateOptions generate;
  generate.max_tokens = options.max_tokens;
  SamplingFlags sampling = options.sampling;
  apply_sampling_defaults(&sampling, runtime.checkpoint->sampling_defaults());
  TRY_ASSIGN(generate.sampler, sampler_options(sampling));
  if (bundle) generate.stop_ids = answer_stop_ids(*bundle, runtime.checkpoint->eos_token_ids());
  generate.stop = options.stop;
  generate.ignore_eos = options.ignore_eos;
  CancelFlag cancel;
  generate.cancel = cancel.flag();
  SessionOptions session_options = options.session;
  TRY_ASSIGN(session_options.speculation.kind, speculation_by_name(options.speculate, *runtime.model));
  TRY_ASSIGN(Session session, Session::create(*runtime.context, *runtime.model, session_options));

  bool first = true;
  Status written;
  auto show = [&](int32_t token, std::string_view text) {
    if (options.json || !written.ok()) return;
    written = put(piece_of(bundle, token, text, first));
    if (!written.ok()) cancel.raise();
    first = false;
  };
  const Tokenizer* tokenizer = bundle ? &bundle->tokenizer : nullptr;
  TRY_ASSIGN(const Generated out, session.generate(prompt, generate, tokenizer, show));
  TRY(written);
  if (options.json) {
    TRY(put(report(options, out, session.speculation(), generate.sampler.seed, runtime.load_s) + "\n"));
  } else {
    TRY(put("\n"));
  }
  if (!options.ids_out.empty())
    TRY(write_npy(options.ids_out, std::span<const int32_t>(out.ids), {static_cast<int64_t>(out.ids.size())}));
  if (options.verbose || (isatty(STDERR_FILENO) == 1 && !options.json)) print_statistics(out, generate.sampler.seed);
  if (out.finish_reason == FinishReason::kCancelled) return make_error(Code::kCancelled, "interrupted");
  return {};
}

}  // namespace

void add_generate(CLI::App& app, Action* action) {
  auto options = std::make_shared<Options>();
  options->sampling.options.temperature = 0.8;
  options->sampling.options.top_p = 0.95;
  CLI::App* command = app.add_subcommand("generate", "continues a text");
  add_runtime_options(*command, &options->runtime);
  CLI::Option* prompt = command->add_option("-p,--prompt", options->prompt, "the text to continue");
  CLI::Option* file = command->add_option("-f,--file", options->file, "the text to continue, from a file");
  CLI::Option* ids = command->add_option("--ids", options->ids, "token ids to continue: 1,2,3 or @file.npy");
  file->excludes(prompt);
  ids->excludes(prompt)->excludes(file);
  command->add_option("-n,--max-tokens", options->max_tokens, "tokens at most; -1: to the end of the context")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{-1}, INT64_MAX));
  add_sampling_flags(*command, &options->sampling);
  add_speculation_flag(*command, &options->speculate);
  command->add_option("--stop", options->stop, "ends before this text; may be repeated");
  command->add_flag("--ignore-eos", options->ignore_eos, "goes on after a token that ends an answer");
  command->add_flag("--chat", options->chat, "the prompt is a user's message: the chat template is put around it")
      ->excludes(ids);
  command->add_flag("--plain", options->plain, "the prompt is only text: names of control tokens in it are not tokens");
  command->add_option("--ctx", options->session.context, "positions at most (default: the model's, up to 8192)")
      ->check(CLI::PositiveNumber);
  command->add_option("--chunk", options->session.chunk, "tokens of the prompt computed together")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command->add_option("--ids-out", options->ids_out, "writes the ids of the answer, int32 .npy");
  command->add_flag("--json", options->json, "one JSON object: text, ids, finish_reason, usage, timings, speculation");
  command->add_flag("--verbose", options->verbose, "a line of statistics on standard error");
  command->callback([action, options] { *action = [options] { return run(*options); }; });
}

}  // namespace westlake
