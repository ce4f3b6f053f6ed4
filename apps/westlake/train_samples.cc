#include "westlake/train_samples.h"

#include "base/file.h"
#include "base/json.h"
#include "infer/session.h"
#include "model/checkpoint.h"
#include "model/text_bundle.h"

namespace westlake {
namespace {

constexpr int64_t kSampleTokens = 160;

Status read_line(std::string_view line, const std::string& place, std::vector<ReportSample>* samples) {
  TRY_ASSIGN(const JsonDocument document, JsonDocument::parse(line, place));
  JsonObject object;
  ReportSample sample;
  if (document.root().get(object) != simdjson::SUCCESS) return make_error(Code::kCorrupt, "{}: a line is no object", place);
  TRY(json_read(object, "step", place, &sample.step));
  TRY(json_read(object, "prompt", place, &sample.prompt));
  TRY(json_read(object, "text", place, &sample.text));
  samples->push_back(std::move(sample));
  return {};
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

Status SampleLog::add(Context& ctx, const std::string& run, int64_t step, const std::vector<std::string>& prompts) {
  if (prompts.empty()) return {};
  TRY_ASSIGN(const Checkpoint checkpoint, Checkpoint::open(run));
  TRY_ASSIGN(const Model model, Model::bind(checkpoint));
  TRY_ASSIGN(const TextBundle text, TextBundle::open(run));
  for (const std::string& prompt : prompts) {
    TRY_ASSIGN(Session session, Session::create(ctx, model));
    GenerateOptions options;
    options.max_tokens = kSampleTokens;
    options.stop_ids = text.stop_ids;
    options.sampler.temperature = 0.8;
    options.sampler.seed = static_cast<uint64_t>(step);
    EncodeOptions encode;
    encode.parse_added_tokens = false;
    encode.add_special_tokens = text.add_bos;
    TRY_ASSIGN(const Generated generated, session.generate(text.tokenizer.encode(prompt, encode), options, &text.tokenizer,
                                                           [](int32_t, std::string_view) {}));
    samples_.push_back({step, prompt, generated.text});
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
