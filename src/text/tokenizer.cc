// Encoding and decoding. See tokenizer.h.
#include "text/tokenizer.h"

#include "text/tokenizer_model.h"
#include "text/unicode.h"

namespace westlake {
namespace {

// Takes the pieces of the pre-tokenizer into ids.
class Encoder : public PieceSink {
 public:
  Encoder(const TokenizerModel& model, bool parse, std::vector<int32_t>& out)
      : model_(model), parse_(parse), lease_(model), out_(out) {}

  void piece(std::string_view piece) override { model_.bpe.encode(piece, lease_.cache(), out_); }

  // Text as it comes: the tokens that are looked for before normalisation are cut out first.
  void text(std::string_view text) {
    if (!parse_ || model_.raw_finder.empty()) return between(text);
    std::vector<AddedTokenFinder::Part> parts;
    model_.raw_finder.split(text, parts);
    for (const auto& part : parts) {
      if (part.id >= 0) {
        out_.push_back(part.id);
      } else {
        between(text.substr(part.begin, part.end - part.begin));
      }
    }
  }

 private:
  void between(std::string_view text) {
    std::string buffer;
    text = model_.normalizer.apply(text, buffer);
    if (!parse_ || model_.normalized_finder.empty()) return model_.pre_tokenizer.split(text, *this);
    std::vector<AddedTokenFinder::Part> parts;
    model_.normalized_finder.split(text, parts);
    for (const auto& part : parts) {
      if (part.id >= 0) {
        out_.push_back(part.id);
      } else {
        model_.pre_tokenizer.split(text.substr(part.begin, part.end - part.begin), *this);
      }
    }
  }

  const TokenizerModel& model_;
  const bool parse_;
  TokenizerModel::CacheLease lease_;
  std::vector<int32_t>& out_;
};

}  // namespace

void Tokenizer::encode(std::string_view text, const EncodeOptions& options, std::vector<int32_t>& out) const {
  std::string repaired;
  if (!is_utf8(text)) {
    repaired = utf8_repair(text);
    text = repaired;
  }
  if (options.add_special_tokens) out.insert(out.end(), ends_.before.begin(), ends_.before.end());
  Encoder(*model_, options.parse_added_tokens, out).text(text);
  if (options.add_special_tokens) out.insert(out.end(), ends_.after.begin(), ends_.after.end());
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  std::vector<int32_t> out;
  out.reserve(text.size() / 4 + 8);
  encode(text, options, out);
  return out;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, const DecodeOptions& options) const {
  std::string bytes;
  for (const int32_t id : ids) {
    if (!(options.skip_special && is_special(id))) bytes += token_bytes(id);
  }
  return is_utf8(bytes) ? bytes : utf8_repair(bytes);
}

std::string_view Tokenizer::token_bytes(int32_t id) const {
  if (id < 0 || id >= vocab_size()) return {};
  const uint32_t begin = model_->bytes_begin[static_cast<size_t>(id)];
  return std::string_view(model_->bytes).substr(begin, model_->bytes_begin[static_cast<size_t>(id) + 1] - begin);
}

std::string_view Tokenizer::token_text(int32_t id) const {
  if (is_added(id)) return model_->added[static_cast<size_t>(model_->added_index[static_cast<size_t>(id)])].content;
  return model_->bpe.vocab.has_id(id) ? model_->bpe.vocab.text(id) : std::string_view();
}

int32_t Tokenizer::token_to_id(std::string_view text) const {
  const int32_t index = model_->find_added(text);
  return index >= 0 ? model_->added[static_cast<size_t>(index)].id : model_->bpe.vocab.find(text);
}

int32_t Tokenizer::vocab_size() const {
  return model_->id_end();
}

bool Tokenizer::is_added(int32_t id) const {
  return id >= 0 && id < vocab_size() && model_->added_index[static_cast<size_t>(id)] >= 0;
}

bool Tokenizer::is_special(int32_t id) const {
  return is_added(id) && model_->added[static_cast<size_t>(model_->added_index[static_cast<size_t>(id)])].special;
}

const std::vector<AddedToken>& Tokenizer::added_tokens() const {
  return model_->added;
}

bool Tokenizer::adds_bos() const {
  return ends_.bos >= 0 && !ends_.before.empty() && ends_.before[0] == ends_.bos;
}

void Tokenizer::apply_config(const TokenizerConfig& config) {
  const auto set = [&](const std::string& token, int32_t* id) {
    if (!token.empty()) *id = token_to_id(token);
  };
  set(config.bos_token, &ends_.bos);
  set(config.eos_token, &ends_.eos);
  set(config.pad_token, &ends_.pad);
  set(config.unk_token, &ends_.unk);
  if (config.add_bos_token && ends_.bos >= 0) {
    if (adds_bos()) ends_.before.erase(ends_.before.begin());
    if (*config.add_bos_token) ends_.before.insert(ends_.before.begin(), ends_.bos);
  }
  if (config.add_eos_token && ends_.eos >= 0) {
    if (!ends_.after.empty() && ends_.after.back() == ends_.eos) ends_.after.pop_back();
    if (*config.add_eos_token) ends_.after.push_back(ends_.eos);
  }
}

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, const DecodeOptions& options)
    : tokenizer_(tokenizer), options_(options) {}

std::string StreamDecoder::push(int32_t id) {
  if (!(options_.skip_special && tokenizer_.is_special(id))) pending_ += tokenizer_.token_bytes(id);
  std::string out;
  size_t at = 0;
  while (at < pending_.size()) {
    size_t size = 0;
    const Utf8State state = utf8_probe(std::string_view(pending_).substr(at), &size);
    if (state == Utf8State::kIncomplete) break;
    out += state == Utf8State::kWhole ? std::string_view(pending_).substr(at, size) : "\xef\xbf\xbd";
    at += size;
  }
  pending_.erase(0, at);
  return out;
}

std::string StreamDecoder::flush() {
  std::string out = utf8_repair(pending_);
  pending_.clear();
  return out;
}

}  // namespace westlake
