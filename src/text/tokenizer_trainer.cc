// Counting words, and a tokenizer from the merges. See tokenizer_trainer.h.
#include "text/tokenizer_trainer.h"

#include "base/json.h"
#include "text/tokenizer_model.h"

namespace westlake {
namespace {

constexpr std::string_view kPlace = "trained tokenizer";
constexpr std::string_view kSpecialTokens[] = {kBosToken, kEosToken, kPadToken, kUserToken, kAssistantToken};
constexpr int64_t kBosId = 0, kEosId = 1, kPadId = 2;
constexpr int32_t kBytes = 256;
enum TokenType : int32_t { kNormal = 1, kControl = 3 };  // of a GGUF

// System texts come first, wherever they stand, as in DeepSeek's own template; tools are not for small models.
constexpr std::string_view kChatTemplate =
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
    "{% set ns = namespace(system_prompt='') %}"
    "{%- for message in messages %}{%- if message['role'] == 'system' %}"
    "{% set ns.system_prompt = ns.system_prompt + ('\\n\\n' if ns.system_prompt else '') + message['content'] %}"
    "{%- endif %}{%- endfor %}"
    "{{ bos_token }}{{ ns.system_prompt }}"
    "{%- for message in messages %}"
    "{%- if message['role'] == 'user' %}{{ '<\uff5cUser\uff5c>' + message['content'] }}"
    "{%- elif message['role'] == 'assistant' %}"
    "{{ '<\uff5cAssistant\uff5c>' + message['content'] + eos_token }}"
    "{%- endif %}{%- endfor %}"
    "{% if add_generation_prompt %}{{ '<\uff5cAssistant\uff5c>' }}{% endif %}";

class Counter : public PieceSink {
 public:
  explicit Counter(WordCounts& counts) : counts_(counts) {}
  void piece(std::string_view piece) override { counts_.add(piece); }

 private:
  WordCounts& counts_;
};

}  // namespace

TokenizerTrainer::TokenizerTrainer(TokenizerTrainerOptions options) : options_(std::move(options)) {}
TokenizerTrainer::TokenizerTrainer(TokenizerTrainer&&) noexcept = default;
TokenizerTrainer::~TokenizerTrainer() = default;

Result<TokenizerTrainer> TokenizerTrainer::create(const TokenizerTrainerOptions& options) {
  constexpr int32_t kLeast = static_cast<int32_t>(std::size(kSpecialTokens)) + kBytes;
  if (options.vocab_size < kLeast) {
    return make_error(Code::kInvalidArgument, "a vocabulary of {} is too small: {} special tokens and {} bytes need {}",
                      options.vocab_size, std::size(kSpecialTokens), kBytes, kLeast);
  }
  TokenizerTrainer trainer(options);
  trainer.model_ = std::make_unique<TokenizerModel>();
  TRY(trainer.model_->set_named_pipeline(options.pipeline, kPlace));
  return trainer;
}

void TokenizerTrainer::feed(ThreadPool& pool, std::span<const std::string_view> texts) {
  counts_.resize(std::max(counts_.size(), static_cast<size_t>(pool.size())));
  pool.for_each_chunk(static_cast<int64_t>(texts.size()), 1, [&](int64_t begin, int64_t end, int thread) {
    Counter counter(counts_[static_cast<size_t>(thread)]);
    std::string buffer;
    for (int64_t i = begin; i < end; ++i) {
      model_->pre_tokenizer.split(model_->normalizer.apply(texts[static_cast<size_t>(i)], buffer), counter);
    }
  });
}

Result<Tokenizer> TokenizerTrainer::train(const std::function<void(int64_t)>& progress) {
  WordCounts words;
  for (WordCounts& counts : counts_) {
    if (words.size() == 0) {
      words = std::move(counts);
    } else {
      words.add(counts);
    }
  }
  counts_.clear();
  if (words.size() == 0) return make_error(Code::kInvalidArgument, "no text to learn a vocabulary from");
  BpeTrainerOptions options;
  options.vocab_size = options_.vocab_size;
  options.min_frequency = options_.min_frequency;
  options.special_tokens.assign(std::begin(kSpecialTokens), std::end(kSpecialTokens));
  const TrainedBpe trained = train_bpe(words, options, progress);

  GgufVocab vocab;
  vocab.pre = options_.pipeline;
  vocab.tokens.assign(trained.tokens.begin(), trained.tokens.end());
  vocab.token_types.assign(trained.tokens.size(), kNormal);
  std::fill_n(vocab.token_types.begin(), std::size(kSpecialTokens), kControl);
  std::vector<std::string> merges;
  for (const auto& [left, right] : trained.merges) {
    merges.push_back(trained.tokens[static_cast<size_t>(left)] + " " + trained.tokens[static_cast<size_t>(right)]);
  }
  vocab.merges.assign(merges.begin(), merges.end());
  vocab.bos_id = kBosId;
  vocab.eos_id = kEosId;
  vocab.pad_id = kPadId;
  vocab.add_bos = true;
  return Tokenizer::from_gguf(vocab, kPlace);
}

std::string trained_tokenizer_config() {
  JsonWriter w;
  w.begin_object().key("add_bos_token").value(true).key("add_eos_token").value(false);
  w.key("bos_token").value(kBosToken).key("eos_token").value(kEosToken).key("pad_token").value(kPadToken);
  w.key("unk_token").null().key("clean_up_tokenization_spaces").value(false);
  w.key("tokenizer_class").value("PreTrainedTokenizerFast").key("chat_template").value(kChatTemplate).end_object();
  return w.text();
}

}  // namespace westlake
