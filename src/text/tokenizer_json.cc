// tokenizer.json, read and written.
// Source: Hugging Face tokenizers, the serialization modules; ids of added tokens by the rule of add_tokens, which
// does not look at the "id" of the file: a known content keeps its id, a new one gets the next after the vocabulary.
#include <algorithm>

#include "text/byte_level.h"
#include "text/tokenizer.h"
#include "text/tokenizer_model.h"

namespace westlake {
namespace {

// Ids may leave gaps, but not so wide that the tables by id outgrow the file.
int64_t id_limit(size_t entries) {
  return static_cast<int64_t>(entries) * 2 + 1024;
}

JsonElement member(const JsonObject& object, std::string_view key) {
  static const JsonDocument null_document = JsonDocument::parse("null", "null").value();
  JsonElement element;
  return object.at_key(key).get(element) == simdjson::SUCCESS ? element : null_document.root();
}

Status read_vocab(const JsonObject& model, std::string_view place, Vocab& vocab) {
  JsonObject entries;
  if (model.at_key("vocab").get(entries) != simdjson::SUCCESS) {
    return make_error(Code::kCorrupt, "{}: the model has no object 'vocab'", place);
  }
  size_t count = 0, bytes = 0;
  for (const auto& field : entries) {
    ++count;
    bytes += field.key.size();
  }
  const int64_t limit = id_limit(count);
  vocab.reserve(count, bytes);
  for (const auto& field : entries) {
    int64_t id = -1;
    if (field.value.get(id) != simdjson::SUCCESS || id < 0 || id >= limit) {
      return make_error(Code::kCorrupt, "{}: the id of '{}' is {}, expected 0 to {} (for {} entries)", place, field.key,
                        json_preview(field.value), limit - 1, count);
    }
    if (!vocab.add(field.key, static_cast<int32_t>(id))) {
      return make_error(Code::kCorrupt, "{}: '{}' with id {}: the token or the id is in the vocabulary twice", place,
                        field.key, id);
    }
  }
  return {};
}

// A merge is "left right" or ["left", "right"].
Status read_merge(JsonElement element, std::string_view place, size_t rank, std::string_view* left,
                  std::string_view* right) {
  std::string_view text;
  JsonArray pair;
  if (element.get(text) == simdjson::SUCCESS) {
    const size_t space = text.find(' ');
    if (space != std::string_view::npos && text.find(' ', space + 1) == std::string_view::npos) {
      *left = text.substr(0, space);
      *right = text.substr(space + 1);
      return {};
    }
  } else if (element.get(pair) == simdjson::SUCCESS && pair.size() == 2 && pair.at(0).get(*left) == simdjson::SUCCESS &&
             pair.at(1).get(*right) == simdjson::SUCCESS) {
    return {};
  }
  return make_error(Code::kCorrupt, "{}: merge {} is {}, expected 'left right' or ['left', 'right']", place, rank,
                    json_preview(element));
}

Status read_merges(const JsonObject& object, std::string_view place, TokenizerModel& model) {
  JsonArray merges;
  if (object.at_key("merges").get(merges) != simdjson::SUCCESS) {
    return make_error(Code::kCorrupt, "{}: the model has no list 'merges'", place);
  }
  size_t count = 0;
  for ([[maybe_unused]] const JsonElement merge : merges) ++count;
  model.bpe.merges.reserve(count);
  model.merge_list.reserve(count);
  uint32_t rank = 0;
  for (const JsonElement merge : merges) {
    std::string_view left, right;
    if (merge.get(left) == simdjson::SUCCESS && left.substr(0, 8) == "#version") continue;
    TRY(read_merge(merge, place, rank, &left, &right));
    TRY(model.add_merge(left, right, rank, place));
    ++rank;
  }
  return {};
}

// Options that a byte-level model has no use for must be off; so must dropout, which makes encoding a matter of chance.
Status check_model_options(const JsonObject& object, std::string_view place) {
  std::string type = "BPE", prefix, suffix;
  double dropout = 0;
  TRY(json_read(object, "type", place, &type));
  TRY(json_read(object, "continuing_subword_prefix", place, &prefix));
  TRY(json_read(object, "end_of_word_suffix", place, &suffix));
  TRY(json_read(object, "dropout", place, &dropout));
  if (type != "BPE") return make_error(Code::kUnsupported, "{}: model type '{}'. Supported: BPE", place, type);
  if (!prefix.empty() || !suffix.empty()) {
    return make_error(Code::kUnsupported, "{}: '{}' is '{}'. Supported: none (byte-level BPE)", place,
                      prefix.empty() ? "end_of_word_suffix" : "continuing_subword_prefix",
                      prefix.empty() ? suffix : prefix);
  }
  if (dropout != 0) return make_error(Code::kUnsupported, "{}: 'dropout' is {}. Supported: null", place, dropout);
  return {};
}

Status read_model(const JsonObject& root, std::string_view place, TokenizerModel& model) {
  JsonObject object;
  if (root.at_key("model").get(object) != simdjson::SUCCESS) {
    return make_error(Code::kCorrupt, "{}: has no object 'model'", place);
  }
  TRY(check_model_options(object, place));
  TRY(json_read(object, "ignore_merges", place, &model.bpe.ignore_merges));
  TRY(json_read(object, "fuse_unk", place, &model.bpe.fuse_unk));
  TRY(json_read(object, "unk_token", place, &model.unk_token));
  TRY(read_vocab(object, place, model.bpe.vocab));
  TRY(read_merges(object, place, model));
  model.bpe.find_bytes();
  if (model.bpe.has_all_bytes()) return {};  // then nothing is ever unknown
  bool byte_fallback = false;
  TRY(json_read(object, "byte_fallback", place, &byte_fallback));
  if (byte_fallback) {
    return make_error(Code::kUnsupported, "{}: 'byte_fallback' with a vocabulary that lacks some of the 256 bytes",
                      place);
  }
  if (!model.unk_token.empty()) {
    model.bpe.unk_id = model.bpe.vocab.find(model.unk_token);
    if (model.bpe.unk_id < 0) {
      return make_error(Code::kCorrupt, "{}: unk_token '{}' is not in the vocabulary", place, model.unk_token);
    }
  }
  return {};
}

Status read_added_tokens(const JsonObject& root, std::string_view place, TokenizerModel& model) {
  JsonArray list;
  JsonElement element = member(root, "added_tokens");
  if (element.is_null()) return {};
  if (element.get(list) != simdjson::SUCCESS) {
    return make_error(Code::kCorrupt, "{}: 'added_tokens' is {}, expected a list", place, json_preview(element));
  }
  Vocab known;  // content -> index into `tokens`
  std::vector<AddedToken> tokens;
  auto next_id = static_cast<int32_t>(model.bpe.vocab.size());
  for (const JsonElement item : list) {
    JsonObject object;
    if (item.get(object) != simdjson::SUCCESS) {
      return make_error(Code::kCorrupt, "{}: an added token is {}, expected an object", place, json_preview(item));
    }
    AddedToken token;
    TRY(json_read(object, "content", place, &token.content));
    TRY(json_read(object, "special", place, &token.special));
    TRY(json_read(object, "normalized", place, &token.normalized));
    TRY(json_read(object, "lstrip", place, &token.lstrip));
    TRY(json_read(object, "rstrip", place, &token.rstrip));
    TRY(json_read(object, "single_word", place, &token.single_word));
    if (token.content.empty()) continue;
    const int32_t index = known.find(token.content);
    if (index >= 0) {
      token.id = tokens[static_cast<size_t>(index)].id;
      tokens[static_cast<size_t>(index)] = std::move(token);
      continue;
    }
    const int32_t in_vocab = model.bpe.vocab.find(token.content);
    token.id = in_vocab >= 0 ? in_vocab : next_id++;
    known.add(token.content, static_cast<int32_t>(tokens.size()));
    tokens.push_back(std::move(token));
  }
  for (AddedToken& token : tokens) TRY(model.add_token(std::move(token), place));
  return {};
}

Status put_around(const JsonArray& single, const JsonObject& specials, std::string_view place, TokenEnds& ends) {
  std::vector<int32_t> before, after;
  bool seen_text = false;
  for (const JsonElement piece : single) {
    JsonObject object, inner, special;
    JsonArray ids;
    std::string_view id;
    if (piece.get(object) != simdjson::SUCCESS) return make_error(Code::kCorrupt, "{}: a bad template piece", place);
    if (object.at_key("Sequence").get(inner) == simdjson::SUCCESS) {
      if (inner.at_key("id").get(id) != simdjson::SUCCESS || id != "A" || seen_text) {
        return make_error(Code::kUnsupported, "{}: a template for one text that does not hold it once", place);
      }
      seen_text = true;
      continue;
    }
    if (object.at_key("SpecialToken").get(inner) != simdjson::SUCCESS ||
        inner.at_key("id").get(id) != simdjson::SUCCESS || specials.at_key(id).get(special) != simdjson::SUCCESS ||
        special.at_key("ids").get(ids) != simdjson::SUCCESS) {
      return make_error(Code::kCorrupt, "{}: a template names a token without ids: {}", place, json_preview(piece));
    }
    for (const JsonElement number : ids) {
      int64_t value = -1;
      if (number.get(value) != simdjson::SUCCESS || value < 0 || value > INT32_MAX) {
        return make_error(Code::kCorrupt, "{}: a template has the id {}", place, json_preview(number));
      }
      (seen_text ? after : before).push_back(static_cast<int32_t>(value));
    }
  }
  if (!seen_text) return make_error(Code::kUnsupported, "{}: a template for one text that does not hold it", place);
  // A later processor goes around what the earlier ones made.
  ends.before.insert(ends.before.begin(), before.begin(), before.end());
  ends.after.insert(ends.after.end(), after.begin(), after.end());
  return {};
}

Status read_post_processor(JsonElement element, std::string_view place, TokenEnds& ends) {
  JsonObject object;
  JsonArray list;
  std::string type;
  if (element.is_null()) return {};
  if (element.get(object) != simdjson::SUCCESS) {
    return make_error(Code::kCorrupt, "{}: is {}, expected an object", place, json_preview(element));
  }
  TRY(json_read(object, "type", place, &type));
  if (type == "ByteLevel") return {};  // moves offsets only
  if (type == "Sequence" && object.at_key("processors").get(list) == simdjson::SUCCESS) {
    for (const JsonElement step : list) TRY(read_post_processor(step, place, ends));
    return {};
  }
  JsonObject specials;
  if (type == "TemplateProcessing" && object.at_key("single").get(list) == simdjson::SUCCESS &&
      object.at_key("special_tokens").get(specials) == simdjson::SUCCESS) {
    return put_around(list, specials, place, ends);
  }
  if (type == "RobertaProcessing" || type == "BertProcessing") {
    for (const bool first : {true, false}) {
      int64_t id = -1;
      if (object.at_key(first ? "cls" : "sep").get(list) != simdjson::SUCCESS || list.size() != 2 ||
          list.at(1).get(id) != simdjson::SUCCESS || id < 0 || id > INT32_MAX) {
        return make_error(Code::kCorrupt, "{}: '{}' without ['token', id]", place, first ? "cls" : "sep");
      }
      auto& side = first ? ends.before : ends.after;
      side.insert(first ? side.begin() : side.end(), static_cast<int32_t>(id));
    }
    return {};
  }
  return make_error(Code::kUnsupported,
                    "{}: '{}' is not supported, or lacks its lists. Supported: ByteLevel, TemplateProcessing, "
                    "Sequence, RobertaProcessing, BertProcessing",
                    place, type);
}

Status check_decoder(JsonElement element, std::string_view place) {
  JsonObject object;
  JsonArray list;
  std::string type;
  if (element.is_null()) return {};
  if (element.get(object) == simdjson::SUCCESS) TRY(json_read(object, "type", place, &type));
  if (type == "ByteLevel" || type == "Fuse") return {};
  if (type == "Sequence" && object.at_key("decoders").get(list) == simdjson::SUCCESS) {
    for (const JsonElement step : list) TRY(check_decoder(step, place));
    return {};
  }
  return make_error(Code::kUnsupported, "{}: '{}' is not supported. Supported: ByteLevel, Fuse, Sequence", place, type);
}

}  // namespace

Result<Tokenizer> Tokenizer::from_json(std::string_view text, std::string_view place) {
  TRY_ASSIGN(const JsonDocument document, JsonDocument::parse(text, place));
  JsonObject root;
  if (document.root().get(root) != simdjson::SUCCESS) {
    return make_error(Code::kCorrupt, "{}: is {}, expected an object", place, json_preview(document.root()));
  }
  std::string version = "1.0";
  TRY(json_read(root, "version", place, &version));
  if (version != "1.0") {
    return make_error(Code::kUnsupported, "{}: 'version' is '{}'. Supported: 1.0", place, version);
  }
  auto model = std::make_shared<TokenizerModel>();
  TokenEnds ends;
  TRY(model->set_pipeline(member(root, "normalizer"), member(root, "pre_tokenizer"), place));
  TRY(read_model(root, place, *model));
  TRY(read_added_tokens(root, place, *model));
  TRY(read_post_processor(member(root, "post_processor"), fmt::format("{}: post_processor", place), ends));
  TRY(check_decoder(member(root, "decoder"), fmt::format("{}: decoder", place)));
  TRY(model->finish(0, place));
  model->post_processor_json = simdjson::minify(member(root, "post_processor"));
  if (ends.before.size() == 1) ends.bos = ends.before[0];
  for (const int32_t id : ends.before) {
    if (id >= model->id_end())
      return make_error(Code::kCorrupt, "{}: post_processor adds the unknown id {}", place, id);
  }
  for (const int32_t id : ends.after) {
    if (id >= model->id_end())
      return make_error(Code::kCorrupt, "{}: post_processor adds the unknown id {}", place, id);
  }
  if (!model->unk_token.empty()) ends.unk = model->bpe.vocab.find(model->unk_token);
  return Tokenizer(std::move(model), std::move(ends));
}

namespace {

void write_added_tokens(JsonWriter& writer, const TokenizerModel& model) {
  writer.key("added_tokens").begin_array();
  for (const AddedToken& token : model.added) {
    writer.begin_object().key("id").value(static_cast<int64_t>(token.id)).key("content").value(token.content);
    writer.key("single_word").value(token.single_word).key("lstrip").value(token.lstrip);
    writer.key("rstrip").value(token.rstrip).key("normalized").value(token.normalized);
    writer.key("special").value(token.special).end_object();
  }
  writer.end_array();
}

// The template that puts `ends` around a text.
void write_post_processor(JsonWriter& writer, const Tokenizer& tokenizer, const TokenEnds& ends) {
  writer.key("post_processor");
  if (ends.before.empty() && ends.after.empty()) {
    writer.raw(R"({"type":"ByteLevel","add_prefix_space":true,"trim_offsets":false,"use_regex":true})");
    return;
  }
  const auto sequence = [&](std::string_view id, int type_id) {
    writer.begin_object().key("Sequence").begin_object().key("id").value(id).key("type_id").value(type_id);
    writer.end_object().end_object();
  };
  const auto tokens = [&](const std::vector<int32_t>& ids, int type_id) {
    for (const int32_t id : ids) {
      writer.begin_object().key("SpecialToken").begin_object();
      writer.key("id").value(tokenizer.token_text(id)).key("type_id").value(type_id).end_object().end_object();
    }
  };
  writer.begin_object().key("type").value("TemplateProcessing").key("single").begin_array();
  tokens(ends.before, 0);
  sequence("A", 0);
  tokens(ends.after, 0);
  writer.end_array().key("pair").begin_array();
  for (const int part : {0, 1}) {
    tokens(ends.before, part);
    sequence(part == 0 ? "A" : "B", part);
    tokens(ends.after, part);
  }
  writer.end_array().key("special_tokens").begin_object();
  std::vector<int32_t> ids = ends.before;
  ids.insert(ids.end(), ends.after.begin(), ends.after.end());
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  for (const int32_t id : ids) {
    const std::string_view text = tokenizer.token_text(id);
    writer.key(text).begin_object().key("id").value(text).key("ids").begin_array();
    writer.value(static_cast<int64_t>(id)).end_array().key("tokens").begin_array().value(text).end_array().end_object();
  }
  writer.end_object().end_object();
}

void write_model(JsonWriter& writer, const Tokenizer& tokenizer, const TokenizerModel& model) {
  writer.key("model").begin_object().key("type").value("BPE").key("dropout").null().key("unk_token");
  if (model.unk_token.empty()) {
    writer.null();
  } else {
    writer.value(model.unk_token);
  }
  writer.key("continuing_subword_prefix").null().key("end_of_word_suffix").null();
  writer.key("fuse_unk").value(model.bpe.fuse_unk).key("byte_fallback").value(false);
  writer.key("ignore_merges").value(model.bpe.ignore_merges);
  // Added tokens among the ids of the vocabulary are written there too: a reader numbers new ones from its end.
  writer.key("vocab").begin_object();
  for (int32_t id = 0; id < model.bpe.vocab.id_end(); ++id) {
    const std::string_view text = tokenizer.token_text(id);
    if (!text.empty()) writer.key(text).value(static_cast<int64_t>(id));
  }
  writer.end_object().key("merges").begin_array();
  for (const auto& [left, right] : model.merge_list) {
    writer.begin_array().value(model.bpe.vocab.text(left)).value(model.bpe.vocab.text(right)).end_array();
  }
  writer.end_array().end_object();
}

}  // namespace

std::string Tokenizer::to_json() const {
  JsonWriter writer;
  writer.begin_object().key("version").value("1.0").key("truncation").null().key("padding").null();
  write_added_tokens(writer, *model_);
  writer.key("normalizer").raw(model_->normalizer_json).key("pre_tokenizer").raw(model_->pre_tokenizer_json);
  write_post_processor(writer, *this, ends_);
  writer.key("decoder").raw(R"({"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true})");
  write_model(writer, *this, *model_);
  writer.end_object();
  return writer.text();
}

}  // namespace westlake
