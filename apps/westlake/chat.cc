// westlake chat: a conversation in the terminal, or one question on a pipe.
// On a terminal: lines with editing and history, commands that begin with '/', answers as they come, thinking dimmed.
// On a pipe: all of standard input is one message; the answer alone is printed, thinking is left out unless asked for.
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "formats/text_file.h"
#include "westlake/cancel_flag.h"
#include "westlake/catalogue.h"
#include "westlake/chat_session.h"
#include "westlake/chat_terminal.h"
#include "westlake/command.h"
#include "westlake/runtime.h"

namespace westlake {
namespace {

constexpr uint64_t kMostMessageBytes = uint64_t{256} << 20;

struct Options {
  RuntimeOptions runtime;
  ChatSettings settings;
  // Smaller than where nobody waits: Ctrl-C is heard between chunks.
  SessionOptions session{.chunk = 256};
  std::string speculate = "auto";
  bool verbose = false, thinking = false;
};

bool wants_colours() {
  const char* terminal = std::getenv("TERM");
  const char* no_colour = std::getenv("NO_COLOR");
  const bool dumb = terminal == nullptr || std::string_view(terminal) == "dumb";
  return isatty(STDOUT_FILENO) == 1 && !dumb && (no_colour == nullptr || *no_colour == '\0');
}

// Where lines are remembered: history in the user's cache folder; nowhere when there is none.
std::string history_path() {
  const Result<std::string> folder = cache_folder();
  if (!folder.ok()) return {};
  std::error_code failed;
  std::filesystem::create_directories(*folder, failed);
  return failed ? std::string() : *folder + "/history";
}

std::string count_text(int64_t n) {
  if (n >= 1'000'000'000) return fmt::format("{:.1f}B", static_cast<double>(n) * 1e-9);
  if (n >= 1'000'000) return fmt::format("{:.0f}M", static_cast<double>(n) * 1e-6);
  return fmt::format("{}k", n / 1000);
}

void print_statistics(const Generated& out) {
  const GenerateStats& s = out.stats;
  auto rate = [](int64_t n, double seconds) { return seconds > 0 ? static_cast<double>(n) / seconds : 0.0; };
  fmt::print(stderr,
             "[prompt {} tok, {} cached, {:.1f} tok/s; answer {} tok, {:.1f} tok/s, {} of {} drafts right; {}]\n",
             s.prompt_tokens, s.cached_tokens, rate(s.prompt_tokens - s.cached_tokens, s.prefill_s), out.ids.size(),
             rate(static_cast<int64_t>(out.ids.size()), s.decode_s), s.accepted_tokens, s.drafted_tokens,
             finish_reason_name(out.finish_reason));
}

// One message and its answer, shown as it comes.
Result<FinishReason> take_turn(ChatSession& chat, const Options& options, std::string_view text, AnswerView& view,
                               CancelFlag& cancel) {
  auto on_token = [&](int32_t, std::string_view piece) {
    view.add(piece);
    if (!view.written()) cancel.raise();
  };
  TRY_ASSIGN(const Reply reply, chat.say(
                                    text, cancel.flag(), [&](bool thinking) { view.begin(thinking); }, on_token));
  view.end();
  if (!view.written()) return make_error(Code::kIo, "standard output does not take the answer");
  if (options.verbose) print_statistics(reply.generated);
  return reply.generated.finish_reason;
}

Status run_pipe(ChatSession& chat, const Options& options) {
  TRY_ASSIGN(TextReader reader, TextReader::from_fd(STDIN_FILENO, "standard input"));
  TRY_ASSIGN(std::string text, reader.read_all(kMostMessageBytes));
  while (text.ends_with('\n') || text.ends_with('\r')) text.pop_back();
  if (text.find_first_not_of(" \t\r\n") == std::string::npos)
    return make_error(Code::kInvalidArgument, "standard input is empty, expected a message");
  CancelFlag cancel;
  AnswerView view(stdout, {.terminal = isatty(STDOUT_FILENO) == 1, .hide_thinking = !options.thinking});
  TRY_ASSIGN(const FinishReason reason, take_turn(chat, options, text, view, cancel));
  if (reason == FinishReason::kCancelled) return make_error(Code::kCancelled, "interrupted");
  return {};
}

void print_error(const Error& error) {
  fmt::print(stderr, "{}\n", terminal_text(error.message));
}

// Ends with kCancelled when the user left by Ctrl-C.
Status run_terminal(ChatSession& chat, const Options& options, std::string_view greeting) {
  const bool colours = wants_colours();
  FILE* out = isatty(STDOUT_FILENO) == 1 ? stdout : stderr;
  fmt::print(out, "{}\n", greeting);
  std::fflush(out);
  LineReader reader(out, history_path());
  CancelFlag cancel;
  if (colours) cancel.set_farewell("\033[0m\n");
  AnswerView view(stdout, {.terminal = out == stdout, .colours = colours});
  std::string line;
  while (!chat.wants_to_quit()) {
    const LineReader::Event event = reader.read(&line);
    if (event != LineReader::Event::kLine) {
      fmt::print(out, "\n");
      std::fflush(out);
    }
    if (event == LineReader::Event::kEnd) return {};
    if (event == LineReader::Event::kInterrupt) return make_error(Code::kCancelled, "");
    if (event == LineReader::Event::kDropped || line.find_first_not_of(" \t\n") == std::string::npos) continue;
    if (ChatSession::is_command(line)) {
      const Result<std::string> said = chat.command(line);
      if (!said.ok()) {
        print_error(said.error());
      } else if (!said->empty()) {
        fmt::print(out, "{}\n", terminal_text(*said));
      }
      continue;
    }
    cancel.lower();  // one that came before the editor had taken over the keys
    const Result<FinishReason> reason = take_turn(chat, options, line, view, cancel);
    cancel.lower();  // the next Ctrl-C is a first one again
    if (!reason.ok()) {
      view.end();
      if (reason.error().code == Code::kIo) return reason.error();
      print_error(reason.error());
    } else if (*reason == FinishReason::kLength) {
      fmt::print(stderr, "[the answer was cut: max_tokens, or the end of the context]\n");
    }
  }
  return {};
}

std::string greeting(const Options& options, const Runtime& runtime, const Session& session) {
  const ModelConfig& config = runtime.model->config();
  const std::filesystem::path path(options.runtime.model);
  const std::string name = (path.has_filename() ? path : path.parent_path()).filename().string();
  return fmt::format("{} ({}, {} parameters), context {}. /help lists the commands.", terminal_text(name),
                     config.model_type, count_text(config.parameters()), session.context());
}

Status run(Options options) {
  TRY_ASSIGN(Runtime runtime, open_runtime(options.runtime));
  TRY_ASSIGN(const TextBundle bundle, TextBundle::open(runtime.checkpoint->path()));
  if (!bundle.chat_template && bundle.chat_template_problem.empty()) {
    return make_error(Code::kNotFound,
                      "{}: the model has no chat template, it is not made for conversations. Hint: westlake generate "
                      "{} -p TEXT continues a text",
                      options.runtime.model, options.runtime.model);
  }
  TRY(bundle.runnable_template(options.runtime.model));
  apply_sampling_defaults(&options.settings.sampling, runtime.checkpoint->sampling_defaults());
  TRY_ASSIGN(const SamplerOptions sampler, sampler_options(options.settings.sampling));
  TRY(Sampler::create(sampler, runtime.model->config().vocab_size));
  SessionOptions session_options = options.session;
  TRY_ASSIGN(session_options.speculation.kind, speculation_by_name(options.speculate, *runtime.model));
  TRY_ASSIGN(Session session, Session::create(*runtime.context, *runtime.model, session_options));
  const std::string first_line = greeting(options, runtime, session);
  ChatSession chat(std::move(session), bundle, answer_stop_ids(bundle, runtime.checkpoint->eos_token_ids()),
                   options.settings);
  if (isatty(STDIN_FILENO) == 1) return run_terminal(chat, options, first_line);
  return run_pipe(chat, options);
}

}  // namespace

void add_chat(CLI::App& app, Action* action) {
  auto options = std::make_shared<Options>();
  SamplerOptions& sampler = options->settings.sampling.options;
  sampler.temperature = 0.6;
  sampler.top_p = 0.95;
  CLI::App* command = app.add_subcommand("chat", "talks with a model; on a pipe, answers one message");
  add_runtime_options(*command, &options->runtime);
  command->add_option("--system", options->settings.system, "the system message");
  command->add_option("-n,--max-tokens", options->settings.max_tokens, "tokens of an answer at most; -1: no limit")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{-1}, INT64_MAX));
  add_sampling_flags(*command, &options->settings.sampling);
  add_speculation_flag(*command, &options->speculate);
  command->add_option("--ctx", options->session.context, "positions at most (default: the model's, up to 8192)")
      ->check(CLI::PositiveNumber);
  command->add_flag("--thinking", options->thinking, "on a pipe: prints <think>...</think> as well");
  command->add_flag("--verbose", options->verbose, "a line of statistics on standard error after each answer");
  command->callback([action, options] { *action = [options] { return run(*options); }; });
}

}  // namespace westlake
