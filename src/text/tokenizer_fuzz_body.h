// What the fuzz target of the tokenizer does with its bytes; the tests replay saved inputs through the same.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "text/tokenizer.h"

namespace westlake {

// Texts through a tokenizer that loaded: nothing may fail, ids stay in range, the stream says what decode says.
inline void exercise_tokenizer(const Tokenizer& tokenizer, std::string_view text) {
  text = text.substr(0, 1 << 12);
  for (const bool parse : {true, false}) {
    EncodeOptions options;
    options.parse_added_tokens = parse;
    options.add_special_tokens = parse;
    const std::vector<int32_t> ids = tokenizer.encode(text, options);
    StreamDecoder stream(tokenizer);
    std::string streamed;
    for (const int32_t id : ids) {
      CHECK(id >= 0 && id < tokenizer.vocab_size(), "id {} of {}", id, tokenizer.vocab_size());
      streamed += stream.push(id);
    }
    streamed += stream.flush();
    CHECK(streamed == tokenizer.decode(ids), "the stream differs from decode");
  }
  (void)tokenizer.to_gguf_vocab();
  (void)Tokenizer::from_json(tokenizer.to_json(), "again");
}

// Bytes up to the first '\x01' are a tokenizer.json, the rest is text. When they start with 'G' they are a GGUF
// vocabulary instead: pre name, tokens (the first byte is the type), an empty line, merges; a line each.
inline void fuzz_tokenizer(std::string_view data) {
  const size_t cut = std::min(data.find('\x01'), data.size());
  const std::string_view file = data.substr(0, cut);
  const std::string_view text = cut < data.size() ? data.substr(cut + 1) : std::string_view();
  if (file.substr(0, 1) != "G") {
    const auto tokenizer = Tokenizer::from_json(file, "fuzz");
    if (tokenizer.ok()) exercise_tokenizer(tokenizer.value(), text);
    (void)read_tokenizer_config(file, "fuzz");
    return;
  }
  GgufVocab vocab;
  bool merges = false;
  for (size_t at = 1; at <= file.size();) {
    const size_t end = std::min(file.find('\n', at), file.size());
    const std::string_view line = file.substr(at, end - at);
    if (at == 1) {
      vocab.pre = line;
    } else if (line.empty()) {
      merges = true;
    } else if (merges) {
      vocab.merges.push_back(line);
    } else {
      vocab.token_types.push_back(line[0] - '0');
      vocab.tokens.push_back(line.substr(1));
    }
    at = end + 1;
  }
  vocab.bos_id = vocab.tokens.empty() ? -1 : 0;
  vocab.add_bos = true;
  const auto tokenizer = Tokenizer::from_gguf(vocab, "fuzz");
  if (tokenizer.ok()) exercise_tokenizer(tokenizer.value(), text);
}

}  // namespace westlake
