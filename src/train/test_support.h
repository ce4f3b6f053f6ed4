// What the tests of this room share: a small tokenizer, texts at random, documents read whole.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <vector>

#include "base/rng.h"
#include "formats/test_support.h"
#include "text/tokenizer_trainer.h"
#include "train/documents.h"

namespace westlake {

// Words of three letters, seen with the rng's eyes: the same for the same seed.
inline std::string random_words(Rng& rng, int words) {
  std::string text;
  for (int i = 0; i < words; ++i) {
    if (i > 0) text += ' ';
    for (int at = 0; at < 3; ++at) text += static_cast<char>('a' + rng.below(5));
  }
  return text;
}

inline Tokenizer small_tokenizer(int32_t vocab_size = 300) {
  TokenizerTrainerOptions options;
  options.vocab_size = vocab_size;
  TokenizerTrainer trainer = TokenizerTrainer::create(options).value();
  ThreadPool pool(1);
  Rng rng(1);
  const std::string text = random_words(rng, 2000);
  const std::string_view view = text;
  trainer.feed(pool, {&view, 1});
  return trainer.train().value();
}

// Whole documents, and what went wrong in the end.
struct ReadDocuments {
  std::vector<std::string> documents;
  std::vector<TextPart> parts;
  Status status;
};

inline ReadDocuments read_documents(const std::vector<std::string>& files) {
  ReadDocuments read;
  DocumentReader reader(files);
  for (TextPart part;;) {
    const auto more = reader.next(&part);
    if (!more.ok()) read.status = more.error();
    if (!more.ok() || !*more) break;
    EXPECT_EQ(part.begins, read.parts.empty() || read.parts.back().ends);
    if (part.begins) read.documents.emplace_back();
    read.documents.back() += part.text;
    read.parts.push_back(std::move(part));
  }
  if (read.status.ok()) {
    EXPECT_EQ(reader.bytes_read(), reader.bytes_total());
    EXPECT_TRUE(read.parts.empty() || read.parts.back().ends);
  }
  return read;
}

}  // namespace westlake
