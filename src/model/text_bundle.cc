#include "model/text_bundle.h"

#include <algorithm>
#include <filesystem>

#include "base/file.h"
#include "base/json.h"
#include "formats/gguf.h"
#include "formats/text_file.h"

namespace westlake {
namespace {

constexpr uint64_t kMostTokenizerBytes = uint64_t{256} << 20;
constexpr uint64_t kMostTemplateBytes = uint64_t{1} << 20;

// Names under which families publish the token that ends a turn. They are stops whatever eos says, since several
// published configs name only the end of a text.
constexpr std::string_view kTurnEnds[] = {
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_turn|>", "<|EOT|>", "<｜end▁of▁sentence｜>", "<|endoftext|>"};

void add_stop(TextBundle& bundle, int64_t id) {
  if (id < 0 || id >= bundle.tokenizer.vocab_size()) return;
  const int32_t stop = static_cast<int32_t>(id);
  if (std::find(bundle.stop_ids.begin(), bundle.stop_ids.end(), stop) == bundle.stop_ids.end())
    bundle.stop_ids.push_back(stop);
}

void finish(TextBundle& bundle) {
  const Tokenizer& tokenizer = bundle.tokenizer;
  bundle.add_bos = tokenizer.adds_bos();
  if (bundle.bos_token.empty() && tokenizer.bos_id() >= 0) bundle.bos_token = tokenizer.token_text(tokenizer.bos_id());
  if (bundle.eos_token.empty() && tokenizer.eos_id() >= 0) bundle.eos_token = tokenizer.token_text(tokenizer.eos_id());
  add_stop(bundle, tokenizer.eos_id());
  for (std::string_view name : kTurnEnds) {
    const int32_t id = tokenizer.token_to_id(name);
    if (id >= 0 && tokenizer.is_added(id)) add_stop(bundle, id);
  }
}

void set_template(TextBundle& bundle, std::string_view source, std::string_view place) {
  bundle.chat_template_source = source;
  auto parsed = ChatTemplate::parse(source, place);
  if (parsed.ok()) {
    bundle.chat_template = std::move(parsed).value();
  } else {
    bundle.chat_template_problem = parsed.error().message;
  }
}

// tokenizer.json with, beside it, tokenizer_config.json and chat_template.jinja where they are there.
Result<TextBundle> open_json(const std::string& path, const std::string& config_path,
                             const std::string& template_path) {
  TRY_ASSIGN(TextReader reader, TextReader::open(path));
  TRY_ASSIGN(const std::string json, reader.read_all(kMostTokenizerBytes));
  TRY_ASSIGN(Tokenizer tokenizer, Tokenizer::from_json(json, path));
  TextBundle bundle(std::move(tokenizer));
  std::string source, place;
  if (is_file(config_path)) {
    TRY_ASSIGN(const std::string text, read_file(config_path, kMostTokenizerBytes));
    TRY_ASSIGN(const TokenizerConfig config, read_tokenizer_config(text, config_path));
    bundle.tokenizer.apply_config(config);
    bundle.bos_token = config.bos_token;
    bundle.eos_token = config.eos_token;
    if (const std::string* found = config.chat_template()) source = *found;
    place = config_path + ": chat_template";
  }
  if (is_file(template_path)) {
    TRY_ASSIGN(source, read_file(template_path, kMostTemplateBytes));
    place = template_path;
  }
  if (!source.empty()) set_template(bundle, source, place);
  finish(bundle);
  return bundle;
}

Status read_flag(const Gguf& gguf, std::string_view key, std::optional<bool>* out) {
  bool flag = false;
  TRY(gguf.read(key, &flag));
  if (gguf.has(key)) *out = flag;
  return {};
}

Result<TextBundle> open_gguf(const std::string& path) {
  TRY_ASSIGN(const Gguf gguf, Gguf::open(path));
  if (!gguf.has("tokenizer.ggml.tokens"))
    return make_error(Code::kNotFound, "{}: has no tokenizer (tokenizer.ggml.tokens). Hint: give token ids", path);
  GgufVocab vocab;
  TRY(gguf.read("tokenizer.ggml.model", &vocab.model));
  TRY(gguf.read("tokenizer.ggml.pre", &vocab.pre));
  TRY_ASSIGN(vocab.tokens, gguf.get_strings("tokenizer.ggml.tokens"));
  if (gguf.has("tokenizer.ggml.token_type")) {
    TRY_ASSIGN(const std::vector<int64_t> types, gguf.get_ints("tokenizer.ggml.token_type"));
    vocab.token_types.assign(types.begin(), types.end());
  }
  if (gguf.has("tokenizer.ggml.merges")) {
    TRY_ASSIGN(vocab.merges, gguf.get_strings("tokenizer.ggml.merges"));
  }
  TRY(gguf.read("tokenizer.ggml.bos_token_id", &vocab.bos_id));
  TRY(gguf.read("tokenizer.ggml.eos_token_id", &vocab.eos_id));
  TRY(gguf.read("tokenizer.ggml.unknown_token_id", &vocab.unk_id));
  TRY(gguf.read("tokenizer.ggml.padding_token_id", &vocab.pad_id));
  TRY(read_flag(gguf, "tokenizer.ggml.add_bos_token", &vocab.add_bos));
  TRY(read_flag(gguf, "tokenizer.ggml.add_eos_token", &vocab.add_eos));
  TRY(gguf.read("tokenizer.ggml.add_space_prefix", &vocab.add_space_prefix));
  TRY_ASSIGN(Tokenizer tokenizer, Tokenizer::from_gguf(vocab, path));
  TextBundle bundle(std::move(tokenizer));
  std::string source;
  TRY(gguf.read("tokenizer.chat_template", &source));
  if (!source.empty()) set_template(bundle, source, path + ": tokenizer.chat_template");
  int64_t eot = -1;
  TRY(gguf.read("tokenizer.ggml.eot_token_id", &eot));
  add_stop(bundle, eot);
  finish(bundle);
  return bundle;
}

// "x.tokenizer.json.zst" -> "x.tokenizer_config.json"
std::string config_beside(const std::string& path) {
  const size_t at = path.rfind("tokenizer.json");
  return at == std::string::npos ? "" : path.substr(0, at) + "tokenizer_config.json";
}

}  // namespace

Result<const ChatTemplate*> TextBundle::runnable_template(std::string_view place) const {
  if (chat_template) return &*chat_template;
  if (!chat_template_problem.empty()) return make_error(Code::kUnsupported, "{}", chat_template_problem);
  return make_error(Code::kNotFound, "{}: the model publishes no chat template. Hint: give a plain prompt instead",
                    place);
}

Result<TextBundle> TextBundle::open(const std::string& path) {
  if (is_directory(path)) {
    for (const char* name : {"/tokenizer.json", "/tokenizer.json.zst"}) {
      if (is_file(path + name))
        return open_json(path + name, path + "/tokenizer_config.json", path + "/chat_template.jinja");
    }
    return make_error(Code::kNotFound,
                      "{}: has no tokenizer.json. Hint: SentencePiece files (tokenizer.model) are not read; token ids "
                      "can be given with --ids",
                      path);
  }
  if (path.ends_with(".json") || path.ends_with(".json.zst") || path.ends_with(".json.gz"))
    return open_json(path, config_beside(path), "");
  return open_gguf(path);
}

}  // namespace westlake
