// Filling a TokenizerModel. See tokenizer_model.h.
#include "text/tokenizer_model.h"

#include <algorithm>

#include "text/byte_level.h"

namespace westlake {

bool is_utf8(std::string_view text) {
  return simdjson::validate_utf8(text.data(), text.size());
}

Status TokenizerModel::set_pipeline(JsonElement normalizer_element, JsonElement pre_tokenizer_element,
                                    std::string_view place) {
  TRY_ASSIGN(normalizer, Normalizer::from_json(normalizer_element, fmt::format("{}: normalizer", place)));
  TRY_ASSIGN(pre_tokenizer, PreTokenizer::from_json(pre_tokenizer_element, fmt::format("{}: pre_tokenizer", place)));
  normalizer_json = simdjson::minify(normalizer_element);
  pre_tokenizer_json = simdjson::minify(pre_tokenizer_element);
  return {};
}

int32_t TokenizerModel::find_added(std::string_view content) const {
  for (size_t i = 0; i < added.size(); ++i) {
    if (added[i].content == content) return static_cast<int32_t>(i);
  }
  return -1;
}

Status TokenizerModel::add_token(AddedToken token, std::string_view place) {
  if (token.content.size() > kAddedTokenLimitBytes) {
    return make_error(Code::kUnsupported, "{}: an added token of {} bytes, at most {} are read", place,
                      token.content.size(), kAddedTokenLimitBytes);
  }
  if (bpe.vocab.has_id(token.id) && bpe.vocab.text(token.id) != token.content) {
    return make_error(Code::kCorrupt, "{}: the added token '{}' has id {}, which is '{}' in the vocabulary", place,
                      token.content, token.id, bpe.vocab.text(token.id));
  }
  added.push_back(std::move(token));
  return {};
}

Status TokenizerModel::add_merge(std::string_view left, std::string_view right, uint32_t rank, std::string_view place) {
  const int32_t left_id = bpe.vocab.find(left), right_id = bpe.vocab.find(right);
  std::string both(left);
  both += right;
  const int32_t merged = bpe.vocab.find(both);
  if (left_id < 0 || right_id < 0 || merged < 0) {
    return make_error(Code::kCorrupt, "{}: merge {} is '{} {}', but the vocabulary has no '{}'", place, rank, left,
                      right,
                      left_id < 0    ? left
                      : right_id < 0 ? right
                                     : std::string_view(both));
  }
  bpe.merges.add(left_id, right_id, rank, merged);
  merge_list.emplace_back(left_id, right_id);
  return {};
}

Status TokenizerModel::finish(int32_t ids, std::string_view place) {
  std::sort(added.begin(), added.end(), [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  const int32_t last_added = added.empty() ? 0 : added.back().id + 1;
  const int32_t end = std::max({ids, bpe.vocab.id_end(), last_added});
  added_index.assign(static_cast<size_t>(end), -1);
  bpe.never_from_text.assign(static_cast<size_t>(end), false);
  std::vector<std::string> decoded(added.size());  // what the decoder is given for an added token
  for (size_t i = 0; i < added.size(); ++i) {
    const AddedToken& token = added[i];
    added_index[static_cast<size_t>(token.id)] = static_cast<int32_t>(i);
    bpe.never_from_text[static_cast<size_t>(token.id)] = token.special;
    decoded[i] = token.content;
    if (token.normalized) {
      std::string buffer;
      decoded[i] = std::string(normalizer.apply(token.content, buffer));
    }
    (token.normalized ? normalized_finder : raw_finder).add(decoded[i], token);
  }
  bytes_begin.reserve(static_cast<size_t>(end) + 1);
  for (int32_t id = 0; id < end; ++id) {
    bytes_begin.push_back(static_cast<uint32_t>(bytes.size()));
    const int32_t index = added_index[static_cast<size_t>(id)];
    if (index >= 0) {
      append_token_bytes(bytes, decoded[static_cast<size_t>(index)]);
    } else if (bpe.vocab.has_id(id)) {
      append_token_bytes(bytes, bpe.vocab.text(id));
    }
    if (bytes.size() >= UINT32_MAX) return make_error(Code::kUnsupported, "{}: tokens of more than 4 GiB", place);
  }
  bytes_begin.push_back(static_cast<uint32_t>(bytes.size()));
  bpe.find_bytes();
  return {};
}

TokenizerModel::CacheLease::CacheLease(const TokenizerModel& model) : model_(model) {
  const std::lock_guard lock(model_.caches_mutex_);
  if (!model_.caches_.empty()) {
    cache_ = std::move(model_.caches_.back());
    model_.caches_.pop_back();
  } else {
    cache_ = std::make_unique<PieceCache>();
  }
}

TokenizerModel::CacheLease::~CacheLease() {
  const std::lock_guard lock(model_.caches_mutex_);
  model_.caches_.push_back(std::move(cache_));
}

}  // namespace westlake
