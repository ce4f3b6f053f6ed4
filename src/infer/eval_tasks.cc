#include "infer/eval_tasks.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <numbers>

#include "base/file.h"
#include "base/json.h"
#include "formats/text_file.h"
#include "infer/scoring.h"

namespace westlake {
namespace {

namespace fs = std::filesystem;
constexpr std::string_view kDocumentEnd = "<|endoftext|>";

// The files of a task: `data` itself, or those of the folder whose names begin and end so.
Result<std::vector<std::string>> files_of(const std::string& data, std::string_view begins, std::string_view ending) {
  if (is_file(data)) return std::vector<std::string>{data};
  std::vector<std::string> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(data, error)) {
    const std::string name = entry.path().filename().string();
    const bool ends = name.ends_with(ending) || name.ends_with(std::string(ending) + ".zst") ||
                      name.ends_with(std::string(ending) + ".gz");
    if (name.starts_with(begins) && ends) found.push_back(entry.path().string());
  }
  std::sort(found.begin(), found.end());
  if (found.empty())
    return make_error(Code::kNotFound, "{}: there is no file {}*{}. Hint: --data names a folder with the task's files",
                      data, begins, ending);
  return found;
}

Result<std::string> text_of(const JsonObject& object, std::string_view key, std::string_view place) {
  std::string text;
  TRY(json_read(object, key, place, &text));
  if (text.empty()) return make_error(Code::kCorrupt, "{}: there is no '{}'", place, key);
  return text;
}

using LineReader = std::function<Status(const JsonObject&, const std::string& place)>;

Status for_each_line(const std::string& path, int64_t limit, const LineReader& read) {
  TRY_ASSIGN(TextReader reader, TextReader::open(path));
  std::string line;
  for (int64_t n = 0; limit == 0 || n < limit; ++n) {
    TRY_ASSIGN(const bool more, reader.next_line(&line));
    if (!more) break;
    const std::string place = fmt::format("{}:{}", path, reader.line_number());
    TRY_ASSIGN(const JsonDocument document, JsonDocument::parse(line, place));
    JsonObject object;
    if (document.root().get(object) != simdjson::SUCCESS)
      return make_error(Code::kCorrupt, "{}: is {}, expected an object", place, json_preview(document.root()));
    TRY(read(object, place));
  }
  return {};
}

// Scores of the items of one task, gathered before they are run together.
class Items {
 public:
  Items(Context& ctx, const Model& model, const TextBundle& text, std::string task, const EvalProgress& progress)
      : ctx_(ctx), model_(model), text_(text), task_(std::move(task)), progress_(progress) {}

  // `context` is given, `text` scored; with an empty context all of the text but what begins every text.
  void add(const std::string& context, const std::string& text) {
    ScoreRequest request;
    request.tokens.push_back(start());
    encode(context, &request.tokens);
    request.first = static_cast<int64_t>(request.tokens.size());
    if (context.empty()) {
      encode(text, &request.tokens);
    } else {  // merges across the border are the tokenizer's own: the whole is encoded, the context's tokens are kept
      std::vector<int32_t> whole = {start()};
      encode(context + text, &whole);
      const size_t common = std::min(whole.size() - 1, request.tokens.size());
      request.first = static_cast<int64_t>(std::max<size_t>(1, common));
      request.tokens = std::move(whole);
    }
    clip(&request);
    requests_.push_back(std::move(request));
    bytes_.push_back(static_cast<int64_t>(text.size()));
  }
  void add_tokens(ScoreRequest request, int64_t bytes) {
    requests_.push_back(std::move(request));
    bytes_.push_back(bytes);
  }

  Result<std::vector<ScoreResult>> run() const {
    return score_texts(ctx_, model_, requests_, [&](int64_t done) {
      if (progress_) progress_(task_, done, static_cast<int64_t>(requests_.size()));
    });
  }
  int64_t bytes(size_t i) const { return bytes_[i]; }
  void encode(const std::string& text, std::vector<int32_t>* ids) const {
    EncodeOptions plain;
    plain.parse_added_tokens = false;
    text_.tokenizer.encode(text, plain, *ids);
  }
  // What stands before a text: bos where the model has one, else the end of the document before.
  int32_t start() const {
    if (text_.tokenizer.bos_id() >= 0) return text_.tokenizer.bos_id();
    return text_.stop_ids.empty() ? 0 : text_.stop_ids.front();
  }

 private:
  // The end of a text that is longer than the model's context.
  void clip(ScoreRequest* r) const {
    const int64_t most = std::max<int64_t>(2, model_.config().max_position_embeddings);
    const int64_t over = static_cast<int64_t>(r->tokens.size()) - most;
    if (over <= 0) return;
    r->tokens.erase(r->tokens.begin(), r->tokens.begin() + over);
    r->first = std::max<int64_t>(1, r->first - over);
  }
  Context& ctx_;
  const Model& model_;
  const TextBundle& text_;
  std::string task_;
  const EvalProgress& progress_;
  std::vector<ScoreRequest> requests_;
  std::vector<int64_t> bytes_;
};

EvalFigure share(std::string task, std::string of, std::string name, int64_t right, int64_t n) {
  const double p = n > 0 ? static_cast<double>(right) / static_cast<double>(n) : 0;
  return {std::move(task),
          std::move(of),
          std::move(name),
          p,
          n > 0 ? std::sqrt(p * (1 - p) / static_cast<double>(n)) : 0,
          n};
}

using Figures = Result<std::vector<EvalFigure>>;

Figures blimp(Items items, const std::string& data, const EvalOptions& options) {
  TRY_ASSIGN(const std::vector<std::string> files, files_of(data, "blimp", ".jsonl"));
  std::vector<std::string> fields;
  for (const std::string& file : files) {
    TRY(for_each_line(file, options.limit, [&](const JsonObject& o, const std::string& place) -> Status {
      std::string field;
      TRY(json_read(o, "field", place, &field));
      TRY_ASSIGN(const std::string good, text_of(o, "good", place));
      TRY_ASSIGN(const std::string bad, text_of(o, "bad", place));
      items.add("", good);
      items.add("", bad);
      fields.push_back(field);
      return {};
    }));
  }
  TRY_ASSIGN(const std::vector<ScoreResult> scores, items.run());
  std::map<std::string, std::pair<int64_t, int64_t>> parts;  // right, all
  int64_t right = 0;
  for (size_t i = 0; i < fields.size(); ++i) {
    const bool good = scores[2 * i].log_prob > scores[2 * i + 1].log_prob;
    right += good;
    parts[fields[i]].first += good;
    ++parts[fields[i]].second;
  }
  std::vector<EvalFigure> figures = {share("blimp", "", "accuracy", right, static_cast<int64_t>(fields.size()))};
  for (const auto& [field, counts] : parts)
    figures.push_back(share("blimp", field, "accuracy", counts.first, counts.second));
  return figures;
}

// Groups of choices after one context each: the share where choice `answer` scores best, plainly and a byte.
Figures best_choice(const Items& items, const std::string& task, const std::vector<int64_t>& sizes,
                    const std::vector<int64_t>& answers) {
  TRY_ASSIGN(const std::vector<ScoreResult> scores, items.run());
  int64_t right = 0, right_per_byte = 0;
  size_t first = 0;
  for (size_t q = 0; q < sizes.size(); first += sizes[q++]) {
    size_t best = first, best_per_byte = first;
    const auto per_byte = [&](size_t i) {
      return scores[i].log_prob / static_cast<double>(std::max<int64_t>(1, items.bytes(i)));
    };
    for (size_t i = first + 1; i < first + sizes[q]; ++i) {
      if (scores[i].log_prob > scores[best].log_prob) best = i;
      if (per_byte(i) > per_byte(best_per_byte)) best_per_byte = i;
    }
    right += best == first + answers[q];
    right_per_byte += best_per_byte == first + answers[q];
  }
  const int64_t n = static_cast<int64_t>(sizes.size());
  return std::vector<EvalFigure>{share(task, "", "accuracy", right, n),
                                 share(task, "", "accuracy_per_byte", right_per_byte, n)};
}

Figures hellaswag(Items items, const std::string& data, const EvalOptions& options) {
  TRY_ASSIGN(const std::vector<std::string> files, files_of(data, "hellaswag", ".jsonl"));
  std::vector<int64_t> sizes, answers;
  for (const std::string& file : files) {
    TRY(for_each_line(file, options.limit, [&](const JsonObject& o, const std::string& place) -> Status {
      TRY_ASSIGN(const std::string context, text_of(o, "context", place));
      int64_t answer = -1, n = 0;
      TRY(json_read(o, "answer", place, &answer));
      JsonArray choices;
      if (o["choices"].get(choices) != simdjson::SUCCESS)
        return make_error(Code::kCorrupt, "{}: there is no list 'choices'", place);
      for (const JsonElement choice : choices) {
        std::string_view text;
        if (choice.get(text) != simdjson::SUCCESS || text.empty())
          return make_error(Code::kCorrupt, "{}: choice {} is {}, expected a text", place, n, json_preview(choice));
        items.add(context, " " + std::string(text));
        ++n;
      }
      if (answer < 0 || answer >= n)
        return make_error(Code::kCorrupt, "{}: answer is {}, expected one of {} choices", place, answer, n);
      sizes.push_back(n);
      answers.push_back(answer);
      return {};
    }));
  }
  return best_choice(items, "hellaswag", sizes, answers);
}

Figures arc(Items items, const std::string& data, const EvalOptions& options) {
  TRY_ASSIGN(const std::vector<std::string> files, files_of(data, "arc", ".jsonl"));
  std::vector<int64_t> sizes, answers;
  for (const std::string& file : files) {
    TRY(for_each_line(file, options.limit, [&](const JsonObject& o, const std::string& place) -> Status {
      TRY_ASSIGN(const std::string question, text_of(o, "question", place));
      TRY_ASSIGN(const std::string correct, text_of(o, "correct", place));
      TRY_ASSIGN(const std::string incorrect, text_of(o, "incorrect", place));
      const std::string context = "Question: " + question + "\nAnswer:";
      items.add(context, " " + correct);
      items.add(context, " " + incorrect);
      sizes.push_back(2);
      answers.push_back(0);
      return {};
    }));
  }
  return best_choice(items, "arc", sizes, answers);
}

Figures lambada(Items items, const std::string& data, const EvalOptions& options) {
  TRY_ASSIGN(const std::vector<std::string> files, files_of(data, "lambada", ".jsonl"));
  for (const std::string& file : files) {
    TRY(for_each_line(file, options.limit, [&](const JsonObject& o, const std::string& place) -> Status {
      TRY_ASSIGN(const std::string text, text_of(o, "text", place));
      const size_t space = text.find_last_of(" \n");
      if (space == std::string::npos || space == 0 || space + 1 == text.size())
        return make_error(Code::kCorrupt, "{}: there is no last word in '{}'", place, text.substr(0, 60));
      items.add(text.substr(0, space), text.substr(space));
      return {};
    }));
  }
  TRY_ASSIGN(const std::vector<ScoreResult> scores, items.run());
  int64_t right = 0;
  double nats = 0;
  for (const ScoreResult& s : scores) {
    right += s.greedy;
    nats -= s.log_prob;
  }
  const int64_t n = static_cast<int64_t>(scores.size());
  return std::vector<EvalFigure>{
      share("lambada", "", "accuracy", right, n),
      {"lambada", "", "perplexity", std::exp(nats / static_cast<double>(std::max<int64_t>(1, n))), 0, n}};
}

// Windows over one document: every token but the first is scored once, with at least half a window before it.
void add_windows(const std::string& document, int64_t ctx, Items* items) {
  std::vector<int32_t> ids = {items->start()};
  items->encode(document, &ids);
  const int64_t n = static_cast<int64_t>(ids.size());
  for (int64_t scored = 1; scored < n;) {
    const int64_t begin = scored == 1 ? 0 : scored - ctx / 2;
    const int64_t end = std::min(n, begin + ctx);
    ScoreRequest request;
    request.tokens.assign(ids.begin() + begin, ids.begin() + end);
    request.first = scored - begin;
    items->add_tokens(std::move(request), scored == 1 ? static_cast<int64_t>(document.size()) : 0);
    scored = end;
  }
}

Figures bpb(Items items, const std::string& data, const EvalOptions& options) {
  TRY_ASSIGN(const std::vector<std::string> files, files_of(data, "", ".txt"));
  std::vector<EvalFigure> figures;
  for (const std::string& file : files) {
    Items of_file = items;
    TRY_ASSIGN(TextReader reader, TextReader::open(file));
    std::string line, document;
    int64_t bytes = 0;
    const auto finish = [&] {
      while (!document.empty() && document.back() == '\n') document.pop_back();
      if (!document.empty()) add_windows(document, options.ctx, &of_file);
      bytes += static_cast<int64_t>(document.size());
      document.clear();
    };
    while (options.limit == 0 || bytes < 1000 * options.limit) {
      TRY_ASSIGN(const bool more, reader.next_line(&line));
      if (!more) break;
      if (line == kDocumentEnd) {
        finish();
      } else {
        document += line + "\n";
      }
    }
    finish();
    if (bytes == 0) return make_error(Code::kCorrupt, "{}: there is no text in it", file);
    TRY_ASSIGN(const std::vector<ScoreResult> scores, of_file.run());
    double nats = 0;
    for (const ScoreResult& s : scores) nats -= s.log_prob;
    const std::string name = fs::path(file).filename().string();
    figures.push_back({"bpb", name, "bits_per_byte", nats / std::numbers::ln2 / static_cast<double>(bytes), 0, bytes});
  }
  return figures;
}

struct Task {
  const char* name;
  Figures (*run)(Items, const std::string&, const EvalOptions&);
};
constexpr Task kTasks[] = {
    {"bpb", bpb}, {"blimp", blimp}, {"hellaswag", hellaswag}, {"lambada", lambada}, {"arc", arc}};

}  // namespace

std::vector<std::string> eval_task_names() {
  std::vector<std::string> names;
  for (const Task& task : kTasks) names.push_back(task.name);
  return names;
}

Result<std::vector<EvalFigure>> run_eval_task(Context& ctx, const Model& model, const TextBundle& text,
                                              const std::string& task, const std::string& data,
                                              const EvalOptions& options, const EvalProgress& progress) {
  for (const Task& t : kTasks) {
    if (task == t.name) return t.run(Items(ctx, model, text, task, progress), data, options);
  }
  return make_error(Code::kInvalidArgument, "task '{}' is not known. Tasks: {}", task,
                    fmt::join(eval_task_names(), ", "));
}

}  // namespace westlake
