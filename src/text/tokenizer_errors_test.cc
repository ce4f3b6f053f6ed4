// Files that are wrong, absurd or not supported: each a message with place, seen and expected; and tokenizer_config.
#include <gtest/gtest.h>

#include "text/tokenizer.h"

namespace westlake {
namespace {

struct Parts {
  std::string vocab = R"({"a":0,"b":1,"ab":2})";
  std::string merges = R"(["a b"])";
  std::string added = "[]";
  std::string normalizer = "null";
  std::string pre_tokenizer = R"({"type":"ByteLevel","add_prefix_space":false,"use_regex":true})";
  std::string post_processor = "null";
  std::string decoder = R"({"type":"ByteLevel"})";
  std::string model = R"("type":"BPE",)";

  std::string json() const {
    return R"({"version":"1.0","added_tokens":)" + added + R"(,"normalizer":)" + normalizer + R"(,"pre_tokenizer":)" +
           pre_tokenizer + R"(,"post_processor":)" + post_processor + R"(,"decoder":)" + decoder + R"(,"model":{)" +
           model + R"("vocab":)" + vocab + R"(,"merges":)" + merges + "}}";
  }
};

TEST(tokenizer_errors, the_good_file_loads) {
  const auto tokenizer = Tokenizer::from_json(Parts().json(), "t.json");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
  EXPECT_EQ(tokenizer->encode("abba"), (std::vector<int32_t>{2, 1, 0}));
  EXPECT_EQ(tokenizer->encode("xa\xc3\xa9"), std::vector<int32_t>{0});  // bytes without a token are dropped
}

struct Case {
  const char* name;
  std::string Parts::*part;
  const char* text;
  Code code;
  const char* says;  // a word of the message
};

class Refused : public testing::TestWithParam<Case> {};

TEST_P(Refused, with_a_message) {
  Parts parts;
  parts.*GetParam().part = GetParam().text;
  const auto tokenizer = Tokenizer::from_json(parts.json(), "t.json");
  ASSERT_FALSE(tokenizer.ok());
  const Error& error = tokenizer.error();
  EXPECT_EQ(code_name(error.code), code_name(GetParam().code)) << error.message;
  EXPECT_EQ(error.message.rfind("t.json: ", 0), 0u) << error.message;
  EXPECT_NE(error.message.find(GetParam().says), std::string::npos) << error.message;
}

INSTANTIATE_TEST_SUITE_P(
    text, Refused,
    testing::Values(
        Case{"not_json", &Parts::vocab, "{", Code::kCorrupt, "JSON"},
        Case{"vocab_list", &Parts::vocab, "[]", Code::kCorrupt, "'vocab'"},
        Case{"id_negative", &Parts::vocab, R"({"a":-1})", Code::kCorrupt, "-1"},
        Case{"id_huge", &Parts::vocab, R"({"a":2000000000})", Code::kCorrupt, "2000000000"},
        Case{"id_text", &Parts::vocab, R"({"a":"0"})", Code::kCorrupt, "'a'"},
        Case{"id_fraction", &Parts::vocab, R"({"a":0.5})", Code::kCorrupt, "0.5"},
        Case{"id_twice", &Parts::vocab, R"({"a":0,"b":0})", Code::kCorrupt, "twice"},
        Case{"token_twice", &Parts::vocab, R"({"a":0,"a":1})", Code::kCorrupt, "twice"},
        Case{"merges_missing", &Parts::merges, "null", Code::kCorrupt, "'merges'"},
        Case{"merge_one_part", &Parts::merges, R"(["ab"])", Code::kCorrupt, "merge 0"},
        Case{"merge_three_parts", &Parts::merges, R"(["a b a"])", Code::kCorrupt, "merge 0"},
        Case{"merge_of_numbers", &Parts::merges, "[[1,2]]", Code::kCorrupt, "merge 0"},
        Case{"merge_unknown_left", &Parts::merges, R"(["a b","x b"])", Code::kCorrupt, "merge 1"},
        Case{"merge_unknown_result", &Parts::merges, R"([["b","a"]])", Code::kCorrupt, "no 'ba'"},
        Case{"added_object", &Parts::added, "{}", Code::kCorrupt, "added_tokens"},
        Case{"added_number", &Parts::added, "[3]", Code::kCorrupt, "added token"},
        Case{"added_content", &Parts::added, R"([{"content":3}])", Code::kCorrupt, "content"},
        Case{"unigram", &Parts::model, R"("type":"Unigram",)", Code::kUnsupported, "Supported: BPE"},
        Case{"dropout", &Parts::model, R"("dropout":0.1,)", Code::kUnsupported, "dropout"},
        Case{"prefix", &Parts::model, R"("continuing_subword_prefix":"##",)", Code::kUnsupported, "##"},
        Case{"fallback", &Parts::model, R"("byte_fallback":true,)", Code::kUnsupported, "byte_fallback"},
        Case{"unk", &Parts::model, R"("unk_token":"?",)", Code::kCorrupt, "unk_token"},
        Case{"nmt", &Parts::normalizer, R"({"type":"Nmt"})", Code::kUnsupported, "'Nmt'"},
        Case{"normalizer_text", &Parts::normalizer, "\"NFC\"", Code::kCorrupt, "normalizer"},
        Case{
            "growth", &Parts::normalizer,
            R"({"type":"Sequence","normalizers":[{"type":"Replace","pattern":{"String":"a"},"content":"aaaaaaaaaaaaaaaaaa"},
                {"type":"Replace","pattern":{"Regex":"a"},"content":"aaaaaaaaaaaaaaaaaa"}]})",
            Code::kUnsupported, "324 times"},
        Case{"no_byte_level", &Parts::pre_tokenizer, "null", Code::kUnsupported, "byte-level"},
        Case{"metaspace", &Parts::pre_tokenizer, R"({"type":"Metaspace"})", Code::kUnsupported, "'Metaspace'"},
        Case{"after_byte_level", &Parts::pre_tokenizer,
             R"({"type":"Sequence","pretokenizers":[{"type":"ByteLevel"},{"type":"Digits"}]})", Code::kUnsupported,
             "'Digits' after ByteLevel"},
        Case{"behavior", &Parts::pre_tokenizer, R"({"type":"Split","pattern":{"String":"a"},"behavior":"Odd"})",
             Code::kUnsupported, "'Odd'"},
        Case{"no_pattern", &Parts::pre_tokenizer, R"({"type":"Split","behavior":"Isolated"})", Code::kCorrupt,
             "pattern"},
        Case{"regex", &Parts::pre_tokenizer, R"({"type":"Split","pattern":{"Regex":"("},"behavior":"Isolated"})",
             Code::kUnsupported, "does not compile"},
        Case{"template_id", &Parts::post_processor,
             R"({"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"b","type_id":0}},{"Sequence":{"id":"A"}}],
                "special_tokens":{"b":{"ids":[77]}}})",
             Code::kCorrupt, "77"},
        Case{"template_name", &Parts::post_processor,
             R"({"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"c"}}],"special_tokens":{}})",
             Code::kCorrupt, "without ids"},
        Case{"post_processor", &Parts::post_processor, R"({"type":"Other"})", Code::kUnsupported, "'Other'"},
        Case{"decoder", &Parts::decoder, R"({"type":"WordPiece"})", Code::kUnsupported, "'WordPiece'"}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(tokenizer_errors, version_and_long_added_token) {
  auto tokenizer = Tokenizer::from_json(R"({"version":"2.0"})", "t.json");
  ASSERT_FALSE(tokenizer.ok());
  EXPECT_EQ(tokenizer.error().message, "t.json: 'version' is '2.0'. Supported: 1.0");
  Parts parts;
  parts.added = R"([{"content":")" + std::string(5000, 'a') + R"("}])";
  tokenizer = Tokenizer::from_json(parts.json(), "t.json");
  ASSERT_FALSE(tokenizer.ok());
  EXPECT_NE(tokenizer.error().message.find("5000 bytes"), std::string::npos);
}

GgufVocab small_gguf() {
  GgufVocab vocab;
  vocab.pre = "gpt-2";
  vocab.tokens = {"a", "b", "ab", "<s>"};
  vocab.token_types = {1, 1, 1, 3};
  vocab.merges = {"a b"};
  vocab.bos_id = 3;
  return vocab;
}

TEST(tokenizer_errors, gguf) {
  ASSERT_TRUE(Tokenizer::from_gguf(small_gguf(), "m.gguf").ok());
  const auto refuses = [](auto change, Code code, const char* says) {
    GgufVocab vocab = small_gguf();
    change(vocab);
    const auto tokenizer = Tokenizer::from_gguf(vocab, "m.gguf");
    ASSERT_FALSE(tokenizer.ok()) << says;
    EXPECT_EQ(code_name(tokenizer.error().code), code_name(code)) << tokenizer.error().message;
    EXPECT_EQ(tokenizer.error().message.rfind("m.gguf: ", 0), 0u) << tokenizer.error().message;
    EXPECT_NE(tokenizer.error().message.find(says), std::string::npos) << tokenizer.error().message;
  };
  refuses([](GgufVocab& v) { v.model = "llama"; }, Code::kUnsupported, "'llama'. Supported: gpt2");
  refuses([](GgufVocab& v) { v.pre = "unheard"; }, Code::kUnsupported, "deepseek-v3");
  refuses([](GgufVocab& v) { v.tokens.clear(); }, Code::kCorrupt, "tokens");
  refuses([](GgufVocab& v) { v.token_types.pop_back(); }, Code::kCorrupt, "4 tokens but 3");
  refuses([](GgufVocab& v) { v.tokens[1] = "a"; }, Code::kCorrupt, "token 0 already");
  refuses([](GgufVocab& v) { v.tokens[1] = "\xff"; }, Code::kCorrupt, "UTF-8");
  refuses([](GgufVocab& v) { v.merges[0] = "ab"; }, Code::kCorrupt, "'ab'");
  refuses([](GgufVocab& v) { v.merges[0] = "b a"; }, Code::kCorrupt, "no 'ba'");
  refuses([](GgufVocab& v) { v.bos_id = 4; }, Code::kCorrupt, "bos_token_id is 4");
  refuses([](GgufVocab& v) { v.eos_id = -2; }, Code::kCorrupt, "eos_token_id is -2");
}

TEST(tokenizer_errors, gguf_bos_follows_the_name_unless_told) {
  GgufVocab vocab = small_gguf();
  const auto begins = [&] {
    EncodeOptions options;
    options.add_special_tokens = true;
    return Tokenizer::from_gguf(vocab, "m.gguf").value().encode("a", options).front();
  };
  EXPECT_EQ(begins(), 0);
  vocab.pre = "llama-bpe";
  EXPECT_EQ(begins(), 3);
  vocab.add_bos = false;
  EXPECT_EQ(begins(), 0);
  vocab.pre = "gpt-2";
  vocab.add_bos = true;
  EXPECT_EQ(begins(), 3);
}

TEST(tokenizer_config, reads_tokens_flags_and_templates) {
  const auto config = read_tokenizer_config(
      R"({"bos_token":{"__type":"AddedToken","content":"<s>"},"eos_token":"</s>","pad_token":null,"add_bos_token":true,
          "model_max_length":1000000000000000019884624838656,"chat_template":"{{ x }} 12345678901234567890123",
          "tokenizer_class":"LlamaTokenizerFast"})",
      "c.json");
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(config->bos_token, "<s>");
  EXPECT_EQ(config->eos_token, "</s>");
  EXPECT_EQ(config->pad_token, "");
  EXPECT_EQ(config->add_bos_token, std::optional<bool>(true));
  EXPECT_FALSE(config->add_eos_token.has_value());
  EXPECT_EQ(config->model_max_length, 0);
  ASSERT_NE(config->chat_template(), nullptr);
  EXPECT_EQ(*config->chat_template(), "{{ x }} 12345678901234567890123");
  EXPECT_EQ(config->chat_template("tool_use"), nullptr);

  const auto named = read_tokenizer_config(
      R"({"model_max_length":4096,"chat_template":[{"name":"default","template":"a"},{"name":"tool_use","template":"b"}]})",
      "c.json");
  ASSERT_TRUE(named.ok()) << named.error().message;
  EXPECT_EQ(named->model_max_length, 4096);
  EXPECT_EQ(*named->chat_template("tool_use"), "b");
  for (const char* bad : {"[]", R"({"chat_template":3})", R"({"chat_template":[3]})", R"({"bos_token":3})",
                          R"({"add_bos_token":"yes"})", "{"}) {
    EXPECT_FALSE(read_tokenizer_config(bad, "c.json").ok()) << bad;
  }
}

TEST(tokenizer_config, decides_about_bos) {
  Tokenizer tokenizer = Tokenizer::from_gguf(small_gguf(), "m.gguf").value();
  TokenizerConfig config;
  config.bos_token = "<s>";
  config.eos_token = "b";
  EncodeOptions ends;
  ends.add_special_tokens = true;
  const Tokenizer before = tokenizer;
  config.add_bos_token = config.add_eos_token = true;
  tokenizer.apply_config(config);
  tokenizer.apply_config(config);  // once more changes nothing
  EXPECT_EQ(tokenizer.encode("a", ends), (std::vector<int32_t>{3, 0, 1}));
  EXPECT_TRUE(tokenizer.adds_bos());
  EXPECT_EQ(before.encode("a", ends), std::vector<int32_t>{0});  // a copy keeps its own ends
  config.add_bos_token = config.add_eos_token = false;
  tokenizer.apply_config(config);
  EXPECT_EQ(tokenizer.encode("a", ends), std::vector<int32_t>{0});
}

}  // namespace
}  // namespace westlake
