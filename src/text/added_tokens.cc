// The trie and the split at added tokens. See added_tokens.h.
#include "text/added_tokens.h"

#include <algorithm>

#include "base/check.h"
#include "text/char_table.h"

namespace westlake {

void AddedTokenFinder::add(std::string_view pattern, const AddedToken& token) {
  if (pattern.empty()) return;
  CHECK(pattern.size() <= kAddedTokenLimitBytes * 256, "an added token of {} bytes", pattern.size());
  uint32_t node = 0;
  for (const char c : pattern) {
    const auto byte = static_cast<unsigned char>(c);
    uint32_t next = child(node, byte);
    if (next == 0) {
      next = static_cast<uint32_t>(nodes_.size());
      nodes_.emplace_back();
      if (node == 0) {
        first_[byte] = next;
      } else {
        auto& children = nodes_[node].children;
        const auto place = std::lower_bound(children.begin(), children.end(), std::make_pair(byte, uint32_t{0}));
        children.insert(place, {byte, next});
      }
    }
    node = next;
  }
  nodes_[node].token = static_cast<int32_t>(tokens_.size());
  tokens_.push_back({token.id, token.lstrip, token.rstrip, token.single_word});
}

uint32_t AddedTokenFinder::child(uint32_t node, unsigned char byte) const {
  if (node == 0) return first_[byte];
  const auto& children = nodes_[node].children;
  if (children.size() == 1) return children[0].first == byte ? children[0].second : 0;
  const auto found = std::lower_bound(children.begin(), children.end(), std::make_pair(byte, uint32_t{0}));
  return found != children.end() && found->first == byte ? found->second : 0;
}

bool AddedTokenFinder::match_at(std::string_view text, size_t at, size_t* end, int32_t* token) const {
  *token = -1;
  uint32_t node = 0;
  for (size_t i = at; i < text.size(); ++i) {
    node = child(node, static_cast<unsigned char>(text[i]));
    if (node == 0) break;
    if (nodes_[node].token >= 0) {
      *token = nodes_[node].token;
      *end = i + 1;
    }
  }
  return *token >= 0;
}

namespace {

bool word_touches(std::string_view text, size_t begin, size_t end) {
  const CharTable& table = char_table();
  const char* data = text.data();
  return (begin > 0 && (table.at(utf8_before(data, data + begin)).bits & kWord)) ||
         (end < text.size() && (table.at(data + end).bits & kWord));
}

}  // namespace

void AddedTokenFinder::split(std::string_view text, std::vector<Part>& parts) const {
  const CharTable& table = char_table();
  const char* const data = text.data();
  size_t start_offset = 0;                  // the end of the last token with what it swallowed
  size_t spaces_begin = 1, spaces_end = 0;  // a run of white space already walked
  for (size_t at = 0; at < text.size();) {
    size_t end = 0;
    int32_t token = -1;
    if (first_[static_cast<unsigned char>(data[at])] == 0 || !match_at(text, at, &end, &token)) {
      ++at;
      continue;
    }
    const Flags& flags = tokens_[static_cast<size_t>(token)];
    size_t start = at, stop = end;
    at = end;  // what was found is consumed even when it is refused
    if (flags.single_word && word_touches(text, start, stop)) continue;
    if (flags.lstrip) {
      while (start > start_offset) {
        const char* before = utf8_before(data, data + start);
        if (!(table.at(before).bits & kSpace)) break;
        start = static_cast<size_t>(before - data);
      }
      start = std::max(start, start_offset);
    }
    if (flags.rstrip) {
      if (stop < spaces_begin || stop > spaces_end) {
        spaces_begin = stop;
        spaces_end = static_cast<size_t>(table.skip(data + stop, data + text.size(), kSpace) - data);
      }
      stop = spaces_end;
    }
    if (start_offset < start) parts.push_back({start_offset, start, -1});
    parts.push_back({start, stop, flags.id});
    start_offset = stop;
  }
  if (start_offset != text.size()) parts.push_back({start_offset, text.size(), -1});
}

}  // namespace westlake
