#include "model/hf_export_text.h"

#include "base/file.h"
#include "base/json.h"
#include "model/text_bundle.h"

namespace westlake {
namespace {

std::string_view torch_dtype(DType dtype) {
  return dtype == DType::kF32 ? "float32" : dtype == DType::kF16 ? "float16" : "bfloat16";
}

struct SpecialIds {
  int64_t bos = -1, pad = -1;
  std::vector<int32_t> eos;
};

void write_ids(JsonWriter& json, const SpecialIds& ids) {
  if (ids.bos >= 0) json.key("bos_token_id").value(ids.bos);
  if (ids.eos.size() == 1) json.key("eos_token_id").value(static_cast<int64_t>(ids.eos[0]));
  if (ids.eos.size() > 1) {
    json.key("eos_token_id").begin_array();
    for (int32_t id : ids.eos) json.value(static_cast<int64_t>(id));
    json.end_array();
  }
  if (ids.pad >= 0) json.key("pad_token_id").value(ids.pad);
}

// The config's own keys, and before them those that are not the model's mathematics.
std::string config_text(const ModelConfig& config, DType dtype, const SpecialIds& ids) {
  JsonWriter json;
  json.begin_object().key("torch_dtype").value(torch_dtype(dtype));
  write_ids(json, ids);
  std::string text = json.text();
  text += ',';
  text += std::string_view(config.to_json()).substr(1);  // without its opening brace
  return text + "\n";
}

std::string generation_text(const SpecialIds& ids) {
  JsonWriter json;
  json.begin_object();
  write_ids(json, ids);
  json.end_object();
  return json.text() + "\n";
}

std::string tokenizer_config_text(const TextBundle& bundle, int64_t context) {
  const Tokenizer& tokenizer = bundle.tokenizer;
  JsonWriter json;
  json.begin_object().key("tokenizer_class").value("PreTrainedTokenizerFast");
  json.key("add_bos_token").value(bundle.add_bos);
  auto token = [&](std::string_view key, std::string_view text) {
    if (!text.empty()) json.key(key).value(text);
  };
  token("bos_token", bundle.bos_token);
  token("eos_token", bundle.eos_token);
  if (tokenizer.pad_id() >= 0) token("pad_token", tokenizer.token_text(tokenizer.pad_id()));
  if (tokenizer.unk_id() >= 0) token("unk_token", tokenizer.token_text(tokenizer.unk_id()));
  json.key("clean_up_tokenization_spaces").value(false).key("model_max_length").value(context);
  token("chat_template", bundle.chat_template_source);
  json.end_object();
  return json.text() + "\n";
}

// Files of a folder that go with it whatever its weights are.
constexpr const char* kCarried[] = {"tokenizer.json",          "tokenizer.json.zst",  "tokenizer_config.json",
                                    "generation_config.json",  "vocab.json",          "merges.txt",
                                    "special_tokens_map.json", "chat_template.jinja", "tokenizer.model"};

Status carry_files(const std::string& from, const std::string& to, bool tokenizer) {
  constexpr uint64_t kMostBytes = uint64_t{512} << 20;
  for (const char* name : kCarried) {
    const std::string source = from + "/" + name;
    if (!is_file(source) || (!tokenizer && std::string_view(name) != "generation_config.json")) continue;
    TRY_ASSIGN(const std::string text, read_file(source, kMostBytes));
    TRY(write_file(to + "/" + name, text));
  }
  return {};
}

Status write_from_bundle(const TextBundle& bundle, const ModelConfig& config, const std::string& folder,
                         SpecialIds* ids) {
  ids->bos = bundle.tokenizer.bos_id();
  ids->pad = bundle.tokenizer.pad_id();
  ids->eos = bundle.stop_ids;
  TRY(write_file(folder + "/tokenizer.json", bundle.tokenizer.to_json()));
  return write_file(folder + "/tokenizer_config.json", tokenizer_config_text(bundle, config.max_position_embeddings));
}

}  // namespace

Status write_folder_texts(const Checkpoint& checkpoint, const ModelConfig& config, DType dtype, bool tokenizer,
                          const std::string& folder, std::vector<std::string>* notes) {
  SpecialIds ids;
  ids.eos = checkpoint.eos_token_ids();
  if (checkpoint.format() == WeightFormat::kPublished) {
    TRY(carry_files(checkpoint.path(), folder, tokenizer));
  } else if (tokenizer) {
    const auto bundle = TextBundle::open(checkpoint.path());
    if (bundle.ok()) {
      TRY(write_from_bundle(*bundle, config, folder, &ids));
    } else if (bundle.error().code == Code::kNotFound) {
      notes->push_back("there is no tokenizer in the source, so none is written");
    } else {
      Error error = bundle.error();
      error.message += ". Hint: --no-tokenizer leaves the tokenizer out";
      return error;
    }
  }
  if (!is_file(folder + "/generation_config.json"))
    TRY(write_file(folder + "/generation_config.json", generation_text(ids)));
  return write_file(folder + "/config.json", config_text(config, dtype, ids));
}

}  // namespace westlake
