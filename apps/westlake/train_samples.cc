#include "westlake/train_samples.h"

#include "base/file.h"
#include "base/json.h"
#include "infer/chat.h"
#include "infer/session.h"
#include "model/checkpoint.h"
#include "model/text_bundle.h"

namespace westlake {
namespace {

constexpr int64_t kSampleTokens = 160, kAnswerTokens = 400;

Status read_line(std::string_view line, const std::string& place, std::vector<ReportSample>* samples) {
  TRY_ASSIGN(const JsonDocument document, JsonDocument::parse(line, place));
  JsonObject object;
  ReportSample sample;
  if (document.root().get(object) != simdjson::SUCCESS)
    return make_error(Code::kCorrupt, "{}: a line is no object", place);
  TRY(json_read(object, "step", place, &sample.step));
  TRY(json_read(object, "prompt", place, &sample.prompt));
  TRY(json_read(object, "text", place, &sample.text));
  samples->push_back(std::move(sample));
  return {};
}

Result<std::vector<int32_t>> prompt_ids(const TextBundle& text, const std::string& prompt, SampleKind kind) {
  if (kind == SampleKind::kAnswer) {
    ChatRequest request;
    ChatMessage message;
    message.role = "user";
    message.content = prompt;
    request.messages.push_back(std::move(message));
    TRY_ASSIGN(ChatPrompt chat, chat_prompt(text, std::move(request)));
    return std::move(chat.ids);
  }
  EncodeOptions encode;
  encode.parse_added_tokens = false;
  encode.add_special_tokens = text.add_bos;
  return text.tokenizer.encode(prompt, encode);
}

}  // namespace

Result<SampleLog> SampleLog::open(const std::string& run) {
  SampleLog log;
  log.path_ = run + "/samples.jsonl";
  if (!is_file(log.path_)) return log;
  TRY_ASSIGN(const std::string text, read_file(log.path_));
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    TRY(read_line(std::string_view(text).substr(begin, end - begin), log.path_, &log.samples_));
    begin = end + 1;
  }
  return log;
}

Status SampleLog::add(Context& ctx, const std::string& run, int64_t step, const std::vector<std::string>& prompts,
                      SampleKind kind) {
  if (prompts.empty()) return {};
  TRY_ASSIGN(const Checkpoint checkpoint, Checkpoint::open(run));
  TRY_ASSIGN(const Model model, Model::bind(checkpoint));
  TRY_ASSIGN(const TextBundle text, TextBundle::open(run));
  for (const std::string& prompt : prompts) {
    TRY_ASSIGN(Session session, Session::create(ctx, model));
    GenerateOptions options;
    options.max_tokens = kind == SampleKind::kAnswer ? kAnswerTokens : kSampleTokens;
    options.stop_ids = answer_stop_ids(text, checkpoint.eos_token_ids());
    options.sampler.temperature = 0.8;
    options.sampler.seed = static_cast<uint64_t>(step);
    TRY_ASSIGN(const std::vector<int32_t> ids, prompt_ids(text, prompt, kind));
    TRY_ASSIGN(const Generated generated,
               session.generate(ids, options, &text.tokenizer, [](int32_t, std::string_view) {}));
    const bool answer = kind == SampleKind::kAnswer;
    samples_.push_back({step, answer ? prompt + "\n" : prompt, generated.text});
  }
  std::string lines;
  for (const ReportSample& s : samples_) {
    JsonWriter w;
    w.begin_object().key("step").value(s.step).key("prompt").value(s.prompt).key("text").value(s.text).end_object();
    lines += w.text() + "\n";
  }
  return write_file(path_, lines);
}

}  // namespace westlake
