// A tokenizer of one's own, learned from text: the pipeline of a published family, special tokens and chat template in
// DeepSeek's form, merges from the text.
// Idea: threads count words into tables of their own; counts add up to the same whoever counted, and the merges depend
// on nothing else, so the result is the same for any number of threads and any order of texts.
// Source: DeepSeek-V3's tokenizer.json and tokenizer_config.json (names, the order at the front, the template).
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/thread_pool.h"
#include "text/bpe_trainer.h"
#include "text/tokenizer.h"

namespace westlake {

struct TokenizerModel;

// The special tokens of a trained tokenizer, from id 0. User and assistant markers stand with the first ones, not at
// the end as in the published file: a small vocabulary has no placeholders between.
inline constexpr std::string_view kBosToken = "<\uff5cbegin\u2581of\u2581sentence\uff5c>";
inline constexpr std::string_view kEosToken = "<\uff5cend\u2581of\u2581sentence\uff5c>";
inline constexpr std::string_view kPadToken = "<\uff5c\u2581pad\u2581\uff5c>";
inline constexpr std::string_view kUserToken = "<\uff5cUser\uff5c>";
inline constexpr std::string_view kAssistantToken = "<\uff5cAssistant\uff5c>";

struct TokenizerTrainerOptions {
  int32_t vocab_size = 8192;
  uint64_t min_frequency = 0;
  // The normaliser and the splits, by the name that a GGUF has for them (tokenizer.ggml.pre), so that a checkpoint with
  // this tokenizer can be written as one: "deepseek-v3" (up to 3 digits a piece), "qwen2" (single digits), "gpt-2" ...
  std::string pipeline = "deepseek-v3";
};

class TokenizerTrainer {
 public:
  // Errors: kUnsupported for an unknown pipeline, kInvalidArgument for a vocabulary without room for the special tokens
  // and the 256 bytes.
  static Result<TokenizerTrainer> create(const TokenizerTrainerOptions& options);
  TokenizerTrainer(TokenizerTrainer&&) noexcept;
  ~TokenizerTrainer();

  // Counts the words of texts. The names of special tokens in a text are text. Requires: valid UTF-8.
  void feed(ThreadPool& pool, std::span<const std::string_view> texts);

  // Errors: kInvalidArgument when no text was fed.
  Result<Tokenizer> train(const std::function<void(int64_t)>& progress = {});

 private:
  explicit TokenizerTrainer(TokenizerTrainerOptions options);
  TokenizerTrainerOptions options_;
  std::unique_ptr<TokenizerModel> model_;  // for its pipeline
  std::vector<WordCounts> counts_;         // one a thread
};

// The tokenizer_config.json of a trained tokenizer: its tokens by role, and a chat template:
// bos, system text, then <User>text and <Assistant>text<eos> in turn.
std::string trained_tokenizer_config();

}  // namespace westlake
