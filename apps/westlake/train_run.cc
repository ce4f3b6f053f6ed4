#include "westlake/train_run.h"

#include <fmt/format.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <filesystem>
#include <optional>

#include "base/clock.h"
#include "base/file.h"
#include "base/progress.h"
#include "infer/chat.h"
#include "kernels/roof.h"
#include "model/hf_export.h"
#include "train/conversations.h"
#include "train/documents.h"
#include "train/loss_log.h"
#include "train/presets.h"
#include "train/trainer.h"
#include "westlake/cancel_flag.h"
#include "westlake/catalogue.h"
#include "westlake/energy.h"
#include "westlake/runtime.h"
#include "westlake/train_samples.h"

namespace westlake {
namespace {

namespace fs = std::filesystem;

// Where the model's makers do not say how answers are sampled.
constexpr double kTemperature = 0.8, kTopP = 0.95;

// "200M", "1.5B", "16384"
Result<int64_t> parse_count(const std::string& text) {
  char* end = nullptr;
  double value = std::strtod(text.c_str(), &end);
  const std::string unit = end;
  if (unit == "k" || unit == "K")
    value *= 1e3;
  else if (unit == "M")
    value *= 1e6;
  else if (unit == "B" || unit == "G")
    value *= 1e9;
  else if (!unit.empty() || end == text.c_str())
    value = -1;
  if (!(value >= 1 && value < 9e18))
    return make_error(Code::kInvalidArgument, "--tokens is '{}', expected a number such as 200M or 1.5B", text);
  return static_cast<int64_t>(value);
}

// Bytes of text that each token stands for; none for special tokens.
std::vector<int32_t> token_bytes(const Tokenizer& tokenizer, int64_t vocab_size) {
  std::vector<int32_t> bytes(vocab_size, 0);
  for (int32_t id = 0; id < std::min<int64_t>(vocab_size, tokenizer.vocab_size()); ++id) {
    if (!tokenizer.is_special(id)) bytes[id] = static_cast<int32_t>(tokenizer.token_bytes(id).size());
  }
  return bytes;
}

Result<ModelConfig> config_of(const RunOptions& options, const Tokenizer& tokenizer) {
  if (is_file(options.model)) {
    TRY_ASSIGN(const std::string text, read_file(options.model));
    TRY_ASSIGN(ModelConfig config, ModelConfig::from_json(text, options.model));
    if (config.vocab_size < tokenizer.vocab_size()) {
      return make_error(Code::kInvalidArgument, "{}: vocab_size is {}, the tokenizer {} has {} tokens", options.model,
                        config.vocab_size, options.tokenizer, tokenizer.vocab_size());
    }
    return config;
  }
  // A multiple of 64 keeps the head's panels whole.
  const int64_t vocab = (tokenizer.vocab_size() + 63) / 64 * 64;
  return train_config(options.model, vocab, std::max<int64_t>(2048, options.settings.sequence_length));
}

// What a run is made of, before its data.
struct Origin {
  ModelConfig config;
  std::string text_path;                 // of the tokenizer
  std::optional<Checkpoint> checkpoint;  // weights to begin from
};

// A folder that is removed again when the run does not come to be.
class NewFolder {
 public:
  explicit NewFolder(std::string path) : path_(std::move(path)), ours_(!fs::exists(path_)) {}
  ~NewFolder() {
    std::error_code ignored;
    if (ours_) fs::remove_all(path_, ignored);
  }
  void keep() { ours_ = false; }

 private:
  std::string path_;
  bool ours_;
};

// Writes the folder's texts, so that what is read from then on is what a resumed run reads.
Result<Origin> origin_of_model(const RunOptions& options, RunFolder& folder) {
  Origin origin;
  TRY_ASSIGN(const std::string path, resolve_model(options.model));
  TRY_ASSIGN(origin.checkpoint, Checkpoint::open(path));
  TRY_ASSIGN(const ExportSource source, ExportSource::open(*origin.checkpoint));
  TRY_ASSIGN(origin.config, published_config(source.config, path));
  TRY_ASSIGN(const TextBundle text, TextBundle::open(path));
  TRY(text.runnable_template(path));
  const ModelConfig& c = origin.config;
  if (c.vocab_size < text.tokenizer.vocab_size()) {
    return make_error(Code::kInvalidArgument, "{}: the model has a vocabulary of {}, its tokenizer {} tokens", path,
                      c.vocab_size, text.tokenizer.vocab_size());
  }
  if (options.settings.sequence_length > c.max_position_embeddings) {
    return make_error(Code::kInvalidArgument, "--sequence is {}, the model's context {}",
                      options.settings.sequence_length, c.max_position_embeddings);
  }
  SamplingDefaults sampling = origin.checkpoint->sampling_defaults();
  if (!sampling.temperature) sampling.temperature = kTemperature;
  if (!sampling.top_p) sampling.top_p = kTopP;
  const std::vector<int32_t> stops = answer_stop_ids(text, origin.checkpoint->eos_token_ids());
  TRY(folder.begin_from(*origin.checkpoint, c, text.tokenizer.bos_id(), stops, sampling));
  origin.text_path = folder.path();
  return origin;
}

Result<TokenStore> tokens_of(ThreadPool& pool, const TextBundle& text, const std::vector<std::string>& data, bool chat,
                             const char* label, const CancelFlag& cancel) {
  TRY_ASSIGN(const std::vector<std::string> files,
             list_data_files(data, chat ? DataKind::kConversations : DataKind::kTexts));
  TRY_ASSIGN(const std::string cache, cache_folder());
  std::optional<Progress> progress;
  const auto show = [&](uint64_t done, uint64_t total, int64_t) {
    if (!progress) progress.emplace(label, total, "bytes");
    progress->update(done);
    return !cancel.raised();
  };
  if (chat) return open_conversations(pool, text, files, cache + "/tokens", show);
  return open_tokens(pool, text.tokenizer, files, cache + "/tokens", show);
}

// What a resumed run must find again, kept in every checkpoint.
std::string notes_of(const RunOptions& options) {
  JsonWriter w;
  const auto list = [&](const char* key, const std::vector<std::string>& texts) {
    w.key(key).begin_array();
    for (const std::string& text : texts) w.value(text);
    w.end_array();
  };
  w.begin_object();
  list("data", options.data);
  list("valid", options.valid);
  list("prompts", options.prompts);
  return w.key("model").value(options.model).key("chat").value(options.chat).end_object().text();
}

Status read_notes(const std::string& notes, const std::string& place, RunOptions* options) {
  TRY_ASSIGN(const JsonDocument document, JsonDocument::parse(notes, place));
  JsonObject object;
  if (document.root().get(object) != simdjson::SUCCESS)
    return make_error(Code::kCorrupt, "{}: notes are no object", place);
  const auto list = [&](const char* key, std::vector<std::string>* texts) {
    JsonArray array;
    if (object[key].get(array) != simdjson::SUCCESS) return;
    texts->clear();
    for (const JsonElement e : array) texts->push_back(std::string(std::string_view(e)));
  };
  if (options->data.empty()) list("data", &options->data);
  if (options->valid.empty()) list("valid", &options->valid);
  list("prompts", &options->prompts);
  TRY(json_read(object, "chat", place, &options->chat));
  return json_read(object, "model", place, &options->model);
}

std::string clock_text(double seconds) {
  const int64_t s = static_cast<int64_t>(seconds);
  return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
}

// The line of a step; on a terminal one line that is written over, else a line now and then.
class StepLine {
 public:
  StepLine(bool quiet, double roof_flop_s) : quiet_(quiet), terminal_(isatty(STDERR_FILENO)), roof_(roof_flop_s) {}
  ~StepLine() {
    if (open_) fmt::print(stderr, "\n");
  }
  void show(const StepReport& r) {
    if (quiet_) return;
    const bool last = r.steps > 0 && r.step == r.steps;
    const bool marked = r.valid_bits_per_byte > 0;
    if (!terminal_ && !marked && !last) return;
    std::string text = fmt::format("step {}{}  {:.2f}M tokens  loss {:.3f}  {:.3f} bits/byte", r.step,
                                   r.steps > 0 ? fmt::format("/{}", r.steps) : "", static_cast<double>(r.tokens) * 1e-6,
                                   r.main, r.bits_per_byte);
    if (marked) text += fmt::format("  valid {:.4f}", r.valid_bits_per_byte);
    text += fmt::format("  {:.0f} tok/s", r.tokens_per_s);
    if (roof_ > 0) text += fmt::format("  {:.0f} % of roof", 100 * r.flop_s / roof_);
    if (r.left_s > 0) text += "  ETA " + clock_text(r.left_s);
    const char* ending = !terminal_ || marked ? "\n" : "";
    fmt::print(stderr, "{}{}{}{}", terminal_ ? "\r" : "", text, terminal_ ? "\x1b[K" : "", ending);
    std::fflush(stderr);
    open_ = terminal_ && !marked;
  }

 private:
  bool quiet_, terminal_, open_ = false;
  double roof_;
};

// Time, share, operations and their part of the roof of everything that a step does.
void print_ops(const Profile& profile, double roof_gflop_s) {
  double all = 0;
  for (const Profile::Entry& e : profile.entries()) all += static_cast<double>(e.ns);
  fmt::print("{:<28} {:>8} {:>10} {:>7} {:>10} {:>6}\n", "operation", "calls", "ms", "%", "GFLOP/s", "roof");
  for (const Profile::Entry& e : profile.entries()) {
    const double rate = e.ns > 0 ? static_cast<double>(e.work.float_ops) / static_cast<double>(e.ns) : 0;
    fmt::print("{:<28} {:>8} {:>10.1f} {:>6.1f}%", e.name, e.calls, static_cast<double>(e.ns) * 1e-6,
               100 * static_cast<double>(e.ns) / all);
    if (rate > 0) fmt::print(" {:>10.1f} {:>5.1f}%", rate, 100 * rate / roof_gflop_s);
    fmt::print("\n");
  }
}

ReportFacts facts_of(const RunOptions& options, const ModelConfig& config, const TrainSettings& s,
                     const TrainMemory& memory) {
  ReportFacts facts;
  facts.title = fs::path(options.out).filename().string() + ": " + options.model;
  const auto add = [&](std::string what, std::string value) {
    facts.rows.push_back({std::move(what), std::move(value)});
  };
  add("model", fmt::format("{}, {:.2f}M parameters, {:.2f}M active a token", config.model_type,
                           static_cast<double>(config.parameters()) * 1e-6,
                           static_cast<double>(config.active_parameters()) * 1e-6));
  add("data", fmt::format("{}", fmt::join(options.data, " ")));
  add("optimizer", fmt::format("{}, lr {} (Muon {}), weight decay {}, clip {}",
                               s.optimiser.kind == OptimiserKind::kMuon ? "Muon and AdamW" : "AdamW", s.optimiser.lr,
                               s.optimiser.muon.lr, s.optimiser.weight_decay, s.optimiser.clip));
  add("schedule",
      fmt::format("{}, warm-up {}, decay {}", schedule_name(s.schedule), s.warmup_fraction, s.decay_fraction));
  add("batch", fmt::format("{} tokens in rows of {}", s.batch_tokens, s.sequence_length));
  add("memory", fmt::format("{} planned", human_bytes(static_cast<uint64_t>(memory.total()))));
  return facts;
}

void print_plan(const RunOptions& options, const ModelConfig& config, const TokenStore& data, const Trainer& trainer) {
  if (options.quiet) return;
  fmt::print(stderr, "{}: {:.2f}M parameters, {:.2f}M active a token; {:.1f}M tokens of text in {} {}; {} needed\n",
             config.model_type, static_cast<double>(config.parameters()) * 1e-6,
             static_cast<double>(config.active_parameters()) * 1e-6, static_cast<double>(data.tokens()) * 1e-6,
             data.documents(), options.chat ? "conversations" : "documents",
             human_bytes(static_cast<uint64_t>(trainer.memory().total())));
  const int64_t T = trainer.settings().sequence_length;
  int64_t cut = 0;
  for (int64_t d = 0; options.chat && d < data.documents(); ++d)
    cut += data.document_start(d + 1) - data.document_start(d) > T ? 1 : 0;
  if (cut > 0) fmt::print(stderr, "note: {} conversations are longer than --sequence {} and are cut there\n", cut, T);
}

// Steps, samples and the report, until the end.
Status drive(const RunOptions& options, const Runtime& runtime, const Roof& roof, const ModelConfig& config,
             const RunFolder& folder, CancelFlag& cancel, Trainer& trainer) {
  TRY_ASSIGN(LossLog log, LossLog::open(folder, trainer.step()));
  ReportFacts facts = facts_of(options, config, trainer.settings(), trainer.memory());
  TRY_ASSIGN(SampleLog samples, SampleLog::open(folder.path()));
  const EnergyMeter energy;
  const bool bf16 = trainer.settings().precision == Precision::kBf16 && roof.bf16_gflop_s > 0;
  const double peak_gflop_s = bf16 ? roof.bf16_gflop_s : roof.f32_gflop_s;
  StepLine line(options.quiet, peak_gflop_s * 1e9);
  Status failed;
  TrainCallbacks callbacks;
  callbacks.step = [&](const StepReport& report) {
    if (failed.ok()) failed = log.append(report);
    line.show(report);
    if (!failed.ok()) cancel.raise();
  };
  callbacks.checkpoint = [&](int64_t step) {
    facts.joules = energy.joules();
    if (failed.ok()) {
      failed = samples.add(*runtime.context, folder.path(), step, options.prompts,
                           options.chat ? SampleKind::kAnswer : SampleKind::kContinuation);
    }
    if (failed.ok()) failed = write_report(folder, facts, log.rows(), samples.all());
  };
  Profile profile;
  if (options.ops) trainer.set_profile(&profile);
  const Status status = trainer.run(cancel.flag(), callbacks);
  if (options.ops) print_ops(profile, peak_gflop_s);
  facts.joules = energy.joules();
  TRY(write_report(folder, facts, log.rows(), samples.all()));
  TRY(failed);
  return status;
}

Status train(RunOptions options) {
  const bool resume = !options.resume.empty();
  RuntimeOptions machine;
  machine.threads = options.threads;
  TRY_ASSIGN(const Runtime runtime, open_machine(machine));
  ThreadPool& pool = *runtime.pool;
  const TrainKernels<float>* kernels = train_kernels_by_name(runtime.isa);
  if (kernels == nullptr) kernels = train_kernels_by_name("");  // a level that training has not of its own
  RunFolder folder(options.out);
  TrainSettings settings = options.settings;
  if (resume) {
    std::string notes;
    TRY_ASSIGN(settings, Trainer::settings_of(folder, &notes));
    TRY(read_notes(notes, options.out, &options));
  }
  CancelFlag cancel;
  std::signal(SIGTERM, [](int) { std::raise(SIGINT); });
  NewFolder made(options.out);
  Origin origin;
  if (options.chat && !resume) {
    TRY_ASSIGN(origin, origin_of_model(options, folder));
  } else {
    origin.text_path = resume ? options.out : options.tokenizer;
  }
  TRY_ASSIGN(const TextBundle text, TextBundle::open(origin.text_path));
  if (!origin.checkpoint) {
    RunOptions from_file = options;
    if (resume) from_file.model = folder.file("config.json");
    TRY_ASSIGN(origin.config, config_of(from_file, text.tokenizer));
  }
  const ModelConfig& config = origin.config;
  const Roof roof = options.quiet && !options.ops ? Roof{} : measure_roof(pool);  // half a second, for who looks
  TRY_ASSIGN(const TokenStore data, tokens_of(pool, text, options.data, options.chat, "tokenizing", cancel));
  std::optional<TokenStore> valid;
  if (!options.valid.empty()) {
    TRY_ASSIGN(valid, tokens_of(pool, text, options.valid, options.chat, "tokenizing validation text", cancel));
  }
  TrainInputs inputs;
  inputs.config = config;
  inputs.data = &data;
  inputs.valid = valid ? &*valid : nullptr;
  inputs.whole_documents = options.chat;
  inputs.padding_id = std::max(text.tokenizer.eos_id(), 0);
  inputs.token_bytes = token_bytes(text.tokenizer, config.vocab_size);
  inputs.notes = notes_of(options);
  TRY_ASSIGN(const std::unique_ptr<Trainer> trainer,
             Trainer::create(pool, *kernels, std::move(inputs), settings, folder));
  print_plan(options, config, data, *trainer);
  if (resume) {
    TRY(trainer->resume());
    if (trainer->finished()) {
      fmt::print(stderr, "{}: the run is at its end, step {}\n", options.out, trainer->step());
      return {};
    }
    if (!options.quiet) fmt::print(stderr, "going on from step {}\n", trainer->step());
  } else if (origin.checkpoint) {
    TRY(trainer->begin_from(*origin.checkpoint));
  } else {
    TRY(folder.begin(config, options.tokenizer, text.tokenizer.bos_id(), text.stop_ids));
    TRY(trainer->begin());
  }
  made.keep();
  return drive(options, runtime, roof, config, folder, cancel, *trainer);
}

void add_settings(CLI::App& command, RunOptions* o) {
  TrainSettings& s = o->settings;
  command.add_option("--sequence", s.sequence_length, "tokens of a row")->capture_default_str();
  command.add_option("--batch-tokens", s.batch_tokens, "tokens of an update")->capture_default_str();
  command.add_option("--micro-batch", s.micro_batch_rows, "rows of a pass (default: some 8192 tokens)");
  command.add_option("--seed", s.seed, "of weights and order of the data")->capture_default_str();
  command.add_option("--precision", o->precision, "bf16 or f32")
      ->check(CLI::IsMember({"bf16", "f32"}))
      ->capture_default_str();
  command.add_option("--optimizer", o->optimizer, "muon or adamw")
      ->check(CLI::IsMember({"muon", "adamw"}))
      ->capture_default_str();
  command.add_option("--lr", s.optimiser.lr, "rate of AdamW")->capture_default_str();
  command.add_option("--muon-lr", s.optimiser.muon.lr, "rate of Muon")->capture_default_str();
  command.add_option("--weight-decay", s.optimiser.weight_decay, "AdamW's")->capture_default_str();
  command.add_option("--muon-weight-decay", s.optimiser.muon.weight_decay, "Muon's")->capture_default_str();
  command.add_option("--embedding-lr-factor", s.optimiser.embedding_lr_factor, "times --lr")->capture_default_str();
  command.add_option("--beta2", s.optimiser.beta2, "AdamW's")->capture_default_str();
  command.add_option("--clip", s.optimiser.clip, "largest norm of the gradient; 0: none")->capture_default_str();
  command.add_option("--schedule", o->schedule, "wsd, cosine, linear or constant")->capture_default_str();
  command.add_option("--warmup", s.warmup_fraction, "share of the run")->capture_default_str();
  command.add_option("--decay", s.decay_fraction, "share of the run (wsd)")->capture_default_str();
  command.add_option("--final-lr", s.final_fraction, "share of the rate at the end")->capture_default_str();
  command.add_option("--init-std", s.initializer_range, "deviation of the first weights")->capture_default_str();
  command.add_option("--mtp-weight", s.mtp_weight, "lambda of multi-token prediction")->capture_default_str();
  command.add_option("--balance-weight", s.balance_weight, "alpha of the sequence-wise balance")->capture_default_str();
  command.add_option("--bias-rate", s.bias_rate, "gamma of the routers' bias")->capture_default_str();
  command.add_flag("--recompute", s.recompute, "less memory for activations, a third more time");
  command.add_option("--eval-every", s.eval_every_steps, "steps (default: twenty times in the run)");
  command.add_option("--eval-tokens", s.eval_tokens, "of the validation text")->capture_default_str();
  command.add_option("--checkpoint-minutes", s.checkpoint_minutes, "between checkpoints")->capture_default_str();
}

}  // namespace

void add_run_options(CLI::App& command, RunOptions* o) {
  command.add_option("--out", o->out, "the folder of the run");
  command.add_option("--resume", o->resume, "goes on with the run in this folder");
  command.add_option("--tokens", o->tokens, "length of the run: 200M, 1.5B");
  command.add_option("--epochs", o->settings.epochs, "length of the run: how often the data are seen");
  command.add_option("--minutes", o->settings.minutes, "length of the run in minutes of this machine");
  command.add_option("--sample", o->prompts, "prompts of the samples in report.html");
  add_settings(command, o);
  command.add_option("--threads", o->threads, "threads (default: all cores)")->check(CLI::Range(1, 1024));
  command.add_flag("--ops", o->ops, "prints where the time went");
  command.add_flag("--quiet", o->quiet, "no progress");
}

Status run_training(RunOptions options) {
  if (!options.resume.empty()) {
    if (!options.model.empty() || !options.out.empty())
      return make_error(Code::kInvalidArgument,
                        "--resume goes on with a run as it was begun: model and --out are its own");
    options.out = options.resume;
    return train(std::move(options));
  }
  if (!options.tokens.empty()) {
    TRY_ASSIGN(options.settings.tokens, parse_count(options.tokens));
  }
  TrainSettings& s = options.settings;
  if ((s.tokens > 0) + (s.epochs > 0) + (s.minutes > 0) > 1)
    return make_error(Code::kInvalidArgument,
                      "--tokens, --epochs and --minutes are three ways to say how long: give one");
  s.precision = options.precision == "bf16" ? Precision::kBf16 : Precision::kFull;
  s.optimiser.kind = options.optimizer == "muon" ? OptimiserKind::kMuon : OptimiserKind::kAdamW;
  TRY_ASSIGN(s.schedule, parse_schedule(options.schedule));
  TRY(s.validate());
  return train(std::move(options));
}

}  // namespace westlake
