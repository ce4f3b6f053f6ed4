// The vocabulary of a GGUF, read and written.
// Idea: tokenizer.ggml.pre names a pipeline; here each name has its normaliser, its splits and its flags, turned into
// the JSON of a tokenizer.json and read by the same code. A tokenizer is written under the name whose pipeline is its
// own.
// Source: llama.cpp, src/llama-vocab.cpp (names, flags) and the tokenizer.json of the families (the pipelines).
#include <algorithm>

#include "text/byte_level.h"
#include "text/tokenizer.h"
#include "text/tokenizer_model.h"
#include "text/unicode.h"

namespace westlake {
namespace {

enum TokenType : int32_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

struct Preset {
  std::vector<std::string_view> names;   // the first is the one that is written
  std::vector<std::string_view> splits;  // regexes, isolated, in order; "digits": the step of that name
  bool gpt2_regex = false;               // ByteLevel splits by itself
  bool nfc = false;
  bool ignore_merges = false;
  bool add_bos = false;
};

// The cased letters of DeepSeek LLM's first split, as its tokenizer.json lists them.
constexpr std::string_view kLlmLetters =
    "\\s?[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
    "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f"
    "\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d"
    "\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4"
    "\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    "\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d"
    "\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a"
    "\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2"
    "\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943]+";
constexpr std::string_view kLlmSigns = "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+";
constexpr std::string_view kLlmHan = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+";
constexpr std::string_view kV3Han = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+";

std::string_view known(std::string_view name) {
  for (const KnownPattern& pattern : known_patterns()) {
    if (name == pattern.name) return pattern.regex;
  }
  CHECK(false, "no scanner '{}'", name);
}

const std::vector<Preset>& presets() {
  static const std::vector<Preset> list = {
      {{"deepseek-llm"}, {"[\r\n]", kLlmLetters, kLlmSigns, "\\s+$", kLlmHan, "digits"}},
      {{"deepseek-coder"}, {"[\r\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", kLlmHan, "digits"}},
      {{"deepseek-v3", "hunyuan-dense", "joyai-llm"}, {"\\p{N}{1,3}", kV3Han, known("deepseek-v3")}},
      {{"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"},
       {known("llama3")},
       false,
       false,
       true,
       true},
      {{"qwen2", "deepseek-r1-qwen", "megrez", "kormo"}, {known("qwen2")}, false, true},
      {{"qwen35"}, {known("qwen35")}, false, true},
      {{"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"},
       {"digits"},
       true},
      {{"gpt-2", "phi-2", "gigachat", "mellum", "exaone4"}, {}, true},
      {{"kimi-k2"}, {known("kimi-k2")}},
      {{"gpt-4o", "llama4", "kanana2"}, {known("o200k")}},
      {{"tekken"}, {known("tekken")}, false, false, true, true},
      {{"smaug-bpe", "dbrx"}, {known("llama3")}},
      {{"default"}, {"[\\p{P}\\$\\+<=>\\^~\\|]+", known("gpt-2"), "\\p{N}+", "[0-9][0-9][0-9]"}},
  };
  return list;
}

std::string pre_tokenizer_json(const Preset& preset) {
  JsonWriter writer;
  writer.begin_object().key("type").value("Sequence").key("pretokenizers").begin_array();
  for (const std::string_view split : preset.splits) {
    if (split == "digits") {
      writer.raw(R"({"type":"Digits","individual_digits":true})");
      continue;
    }
    writer.begin_object().key("type").value("Split").key("pattern").begin_object().key("Regex").value(split);
    writer.end_object().key("behavior").value("Isolated").key("invert").value(false).end_object();
  }
  writer.begin_object().key("type").value("ByteLevel").key("add_prefix_space").value(false);
  writer.key("trim_offsets").value(true).key("use_regex").value(preset.gpt2_regex).end_object();
  writer.end_array().end_object();
  return writer.text();
}

Status set_preset(const Preset& preset, bool add_space_prefix, std::string_view place, TokenizerModel& model) {
  std::string text = pre_tokenizer_json(preset);
  if (add_space_prefix) {
    const std::string_view off = R"("add_prefix_space":false)";
    text.replace(text.find(off), off.size(), R"("add_prefix_space":true)");
  }
  TRY_ASSIGN(const JsonDocument normalizer, JsonDocument::parse(preset.nfc ? R"({"type":"NFC"})" : "null", place));
  TRY_ASSIGN(const JsonDocument splits, JsonDocument::parse(text, place));
  model.bpe.ignore_merges = preset.ignore_merges;
  return model.set_pipeline(normalizer.root(), splits.root(), place);
}

Result<const Preset*> find_preset(std::string_view name, std::string_view place) {
  if (name.empty()) name = "default";
  for (const Preset& preset : presets()) {
    if (std::find(preset.names.begin(), preset.names.end(), name) != preset.names.end()) return &preset;
  }
  return make_error(Code::kUnsupported, "{}: tokenizer.ggml.pre is '{}'. Supported: {}", place, name,
                    Tokenizer::supported_gguf_names());
}

bool is_byte_char(std::string_view text) {
  const Utf8Char c = utf8_at(text.data());
  return c.size == text.size() && char_to_byte(c.code) >= 0;
}

Status read_tokens(const GgufVocab& source, std::string_view place, TokenizerModel& model) {
  size_t bytes = 0;
  for (const std::string_view token : source.tokens) bytes += token.size();
  if (bytes >= UINT32_MAX || source.tokens.size() > INT32_MAX) {
    return make_error(Code::kUnsupported, "{}: tokens of {} bytes, at most 4 GiB are read", place, bytes);
  }
  model.bpe.vocab.reserve(source.tokens.size(), bytes);
  for (size_t i = 0; i < source.tokens.size(); ++i) {
    const std::string_view text = source.tokens[i];
    const int32_t type = source.token_types.empty() ? kNormal : source.token_types[i];
    const auto id = static_cast<int32_t>(i);
    if (!is_utf8(text)) {
      return make_error(Code::kCorrupt, "{}: token {} is not valid UTF-8, expected the byte-level alphabet", place, id);
    }
    if (type == kControl || type == kUserDefined || type == kUnknown) {
      if (text.empty()) continue;
      AddedToken token;
      token.id = id;
      token.content = text;
      token.special = type != kUserDefined;
      // One character of the byte alphabet is that byte too, as in the tokenizer.json of DeepSeek Coder.
      if (type == kUserDefined && text.size() <= 2 && is_byte_char(text)) model.bpe.vocab.add(text, id);
      TRY(model.add_token(std::move(token), place));
    } else if (!model.bpe.vocab.add(text, id)) {
      return make_error(Code::kCorrupt, "{}: token {} is '{}', which is token {} already", place, id, text,
                        model.bpe.vocab.find(text));
    }
  }
  return {};
}

Status read_merges(const GgufVocab& source, std::string_view place, TokenizerModel& model) {
  model.bpe.merges.reserve(source.merges.size());
  model.merge_list.reserve(source.merges.size());
  for (size_t rank = 0; rank < source.merges.size(); ++rank) {
    const std::string_view merge = source.merges[rank];
    const size_t space = merge.find(' ', 1);
    if (space == std::string_view::npos) {
      return make_error(Code::kCorrupt, "{}: merge {} is '{}', expected 'left right'", place, rank, merge);
    }
    TRY(model.add_merge(merge.substr(0, space), merge.substr(space + 1), static_cast<uint32_t>(rank), place));
  }
  return {};
}

Result<TokenEnds> read_ends(const GgufVocab& source, const Preset& preset, std::string_view place) {
  TokenEnds ends;
  const std::pair<std::string_view, std::pair<int64_t, int32_t*>> keys[] = {
      {"bos_token_id", {source.bos_id, &ends.bos}},
      {"eos_token_id", {source.eos_id, &ends.eos}},
      {"unknown_token_id", {source.unk_id, &ends.unk}},
      {"padding_token_id", {source.pad_id, &ends.pad}},
  };
  for (const auto& [name, value] : keys) {
    if (value.first < -1 || value.first >= static_cast<int64_t>(source.tokens.size())) {
      return make_error(Code::kCorrupt, "{}: tokenizer.ggml.{} is {}, expected less than {} (the number of tokens)",
                        place, name, value.first, source.tokens.size());
    }
    *value.second = static_cast<int32_t>(value.first);
  }
  if (source.add_bos.value_or(preset.add_bos) && ends.bos >= 0) ends.before.push_back(ends.bos);
  if (source.add_eos.value_or(false) && ends.eos >= 0) ends.after.push_back(ends.eos);
  return ends;
}

}  // namespace

std::string Tokenizer::supported_gguf_names() {
  std::string out;
  for (const Preset& preset : presets()) {
    for (const std::string_view name : preset.names) out += fmt::format("{}{}", out.empty() ? "" : ", ", name);
  }
  return out;
}

Status TokenizerModel::set_named_pipeline(std::string_view name, std::string_view place) {
  TRY_ASSIGN(const Preset* preset, find_preset(name, place));
  return set_preset(*preset, false, place, *this);
}

Result<Tokenizer> Tokenizer::from_gguf(const GgufVocab& source, std::string_view place) {
  if (source.model != "gpt2") {
    return make_error(Code::kUnsupported, "{}: tokenizer.ggml.model is '{}'. Supported: gpt2 (byte-level BPE)", place,
                      source.model);
  }
  if (source.tokens.empty()) return make_error(Code::kCorrupt, "{}: has no tokenizer.ggml.tokens", place);
  if (!source.token_types.empty() && source.token_types.size() != source.tokens.size()) {
    return make_error(Code::kCorrupt, "{}: {} tokens but {} token types", place, source.tokens.size(),
                      source.token_types.size());
  }
  TRY_ASSIGN(const Preset* preset, find_preset(source.pre, place));
  auto model = std::make_shared<TokenizerModel>();
  TRY(set_preset(*preset, source.add_space_prefix, place, *model));
  TRY(read_tokens(source, place, *model));
  TRY(read_merges(source, place, *model));
  TRY(model->finish(static_cast<int32_t>(source.tokens.size()), place));
  TRY_ASSIGN(TokenEnds ends, read_ends(source, *preset, place));
  return Tokenizer(std::move(model), std::move(ends));
}

namespace {

// The pre-tokenizers of the presets in words, in their order; made once.
const std::vector<std::string>& preset_signatures() {
  static const std::vector<std::string> signatures = [] {
    std::vector<std::string> list;
    for (const Preset& preset : presets()) {
      TokenizerModel model;
      const Status set = set_preset(preset, false, "preset", model);
      CHECK(set.ok(), "{}", set.error().message);
      list.push_back(model.pre_tokenizer.signature());
    }
    return list;
  }();
  return signatures;
}

// The name whose pipeline this is.
Result<std::string> gguf_name(const TokenizerModel& model) {
  const std::string mine = model.pre_tokenizer.signature(), normalizer = model.normalizer.signature();
  for (size_t i = 0; i < presets().size(); ++i) {
    const Preset& preset = presets()[i];
    if (preset_signatures()[i] == mine && preset.ignore_merges == model.bpe.ignore_merges &&
        (normalizer.empty() || normalizer == "NFC; ")) {
      return std::string(preset.names[0]);
    }
  }
  return make_error(Code::kUnsupported,
                    "the tokenizer's pipeline has no name in GGUF: normalizer [{}], pre-tokenizer [{}], ignore_merges "
                    "{}. Names: {}",
                    normalizer, mine, model.bpe.ignore_merges, Tokenizer::supported_gguf_names());
}

}  // namespace

Result<GgufVocab> Tokenizer::to_gguf_vocab() const {
  GgufVocab out;
  TRY_ASSIGN(out.pre, gguf_name(*model_));
  // Texts first, views when the storage no longer moves. Merges and padding are made here; tokens stay in the model.
  auto storage = std::make_shared<std::string>();
  std::vector<size_t> ends;
  const auto keep = [&](std::string_view text) { *storage += text; };
  for (int32_t id = 0; id < vocab_size(); ++id) {
    const bool known = is_added(id) || model_->bpe.vocab.has_id(id);
    keep(known ? token_text(id) : fmt::format("[PAD{}]", id));
    ends.push_back(storage->size());
    out.token_types.push_back(is_special(id) ? kControl : is_added(id) ? kUserDefined : known ? kNormal : kUnused);
  }
  for (const auto& [left, right] : model_->merge_list) {
    keep(model_->bpe.vocab.text(left));
    keep(" ");
    keep(model_->bpe.vocab.text(right));
    ends.push_back(storage->size());
  }
  size_t begin = 0;
  for (size_t i = 0; i < ends.size(); ++i) {
    const std::string_view text = std::string_view(*storage).substr(begin, ends[i] - begin);
    (i < static_cast<size_t>(vocab_size()) ? out.tokens : out.merges).push_back(text);
    begin = ends[i];
  }
  out.storage = std::move(storage);
  out.bos_id = ends_.bos;
  out.eos_id = ends_.eos;
  out.unk_id = ends_.unk;
  out.pad_id = ends_.pad;
  out.add_bos = adds_bos();
  out.add_eos = ends_.eos >= 0 && !ends_.after.empty() && ends_.after.back() == ends_.eos;
  return out;
}

}  // namespace westlake
