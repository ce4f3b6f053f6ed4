// Documents out of files of every kind, long ones in parts, and what bad files say.
#include "train/documents.h"

#include <gtest/gtest.h>
#include <unistd.h>
#include <zstd.h>

#include "base/json.h"
#include "train/test_support.h"

namespace westlake {
namespace {

namespace fs = std::filesystem;
using Texts = std::vector<std::string>;

std::string zstd(std::string_view text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
  return out;
}

class Documents : public testing::Test {
 protected:
  std::string write(std::string_view name, std::string_view content) {
    const std::string path = folder_.file(name);
    fs::create_directories(fs::path(path).parent_path());
    EXPECT_TRUE(write_file(path, content).ok());
    return path;
  }
  Texts read(std::string_view name, std::string_view content) {
    const ReadDocuments read = read_documents({write(name, content)});
    EXPECT_TRUE(read.status.ok()) << read.status.error().message;
    return read.documents;
  }
  void refuses(std::string_view name, std::string_view content, Code code,
               std::initializer_list<std::string_view> words) {
    expect_error(read_documents({write(name, content)}).status, code, words);
  }
  TempFolder folder_;
};

TEST_F(Documents, text_ends_at_separators) {
  EXPECT_EQ(read("a.txt", "one\ntwo\n<|endoftext|>\nthree"), (Texts{"one\ntwo", "three"}));
  EXPECT_EQ(read("b.txt", "one\r\n<|endoftext|>\r\n\r\nthree\r\n"), (Texts{"one", "three"}));
  EXPECT_EQ(read("c.txt", "\n \n  indented\n\n\nend\n\n<|endoftext|>\n\n<|endoftext|>\n"),
            (Texts{"  indented\n\n\nend"}));
  EXPECT_EQ(read("d.txt", "not <|endoftext|> at a line\n <|endoftext|>\n"),
            (Texts{"not <|endoftext|> at a line\n <|endoftext|>"}));
  EXPECT_EQ(read("m.txt",
                 "\xef\xbb\xbf"
                 "one"),
            (Texts{"one"}));
  EXPECT_EQ(read("m.data", "\xef\xbb\xbf{\"text\": \"x\"}"), (Texts{"x"}));
  EXPECT_EQ(read("e.txt", ""), Texts());
  EXPECT_EQ(read("f.txt", "\n\n<|endoftext|>\n"), Texts());
}

TEST_F(Documents, json_lines) {
  EXPECT_EQ(
      read("a.jsonl", "{\"text\": \"one\\ntwo\\n\"}\n\n{\"id\": 7, \"text\": \"<|endoftext|>\"}\n{\"text\": \" \"}"),
      (Texts{"one\ntwo\n", "<|endoftext|>"}));
}

TEST_F(Documents, other_names_go_by_the_first_byte) {
  EXPECT_EQ(read("a.data", "\n {\"text\": \"x\"}\n{\"text\": \"y\"}\n"), (Texts{"x", "y"}));
  EXPECT_EQ(read("README.md", "# x\n{}\n"), (Texts{"# x\n{}"}));
}

TEST_F(Documents, compressed) {
  EXPECT_EQ(read("a.txt.zst", zstd("one\n<|endoftext|>\ntwo")), (Texts{"one", "two"}));
  EXPECT_EQ(read("a.jsonl.zst", zstd("{\"text\":\"x\"}")), (Texts{"x"}));
  EXPECT_EQ(read("b.zst", zstd("{\"text\":\"x\"}")), (Texts{"x"}));
}

TEST_F(Documents, files_of_folders_are_sorted) {
  write("d/b.txt", "b");
  write("d/a/z.jsonl", "{\"text\":\"z\"}");
  write("d/c.txt.zst", zstd("c"));
  write("d/.hidden.txt", "hidden");
  write("d/.git/x.txt", "hidden");
  write("d/README.md", "no data");
  const std::vector<std::string> arguments = {folder_.file("d"), write("e.md", "e")};
  const auto files = list_data_files(arguments);
  ASSERT_TRUE(files.ok()) << files.error().message;
  EXPECT_EQ(read_documents(*files).documents, (Texts{"z", "b", "c", "e"}));
}

TEST_F(Documents, standard_input) {
  const std::string path = write("in.txt", "one\n<|endoftext|>\ntwo");
  const int saved = dup(STDIN_FILENO);
  ASSERT_NE(std::freopen(path.c_str(), "r", stdin), nullptr);
  const Texts documents = read_documents({"-"}).documents;
  dup2(saved, STDIN_FILENO);
  close(saved);
  EXPECT_EQ(documents, (Texts{"one", "two"}));
}

// A long text comes in parts that make the whole again, cut where no pre-tokenizer has a piece.
TEST_F(Documents, long_documents_come_in_parts) {
  Rng rng(5);
  std::string prose, lines, bare;
  for (int i = 0; i < 40000; ++i) {
    prose += random_words(rng, 12) + ".\n\n";
    lines += "\u4f60\u597d" + std::to_string(rng.below(1000)) + "\u3002\n";
  }
  prose.resize(prose.size() - 2);
  lines.pop_back();
  while (bare.size() < (size_t{9} << 20)) bare += "\u4f60";
  for (const std::string* text : {&prose, &lines, &bare}) {
    JsonWriter json;
    json.begin_object().key("text").value(*text).end_object();
    for (const auto& [name, content] :
         {std::pair<std::string, std::string>{"a.txt", *text}, {"a.jsonl", json.text()}}) {
      const ReadDocuments read = read_documents({write(name, content)});
      ASSERT_TRUE(read.status.ok()) << read.status.error().message;
      ASSERT_EQ(read.documents.size(), 1u);
      EXPECT_TRUE(read.documents[0] == *text) << name;
      EXPECT_GT(read.parts.size(), 1u);
      for (const TextPart& part : read.parts) {
        EXPECT_LE(part.text.size(), size_t{4} << 20);
        EXPECT_TRUE(simdjson::validate_utf8(part.text));
        if (text == &prose && !part.begins) {
          EXPECT_TRUE(std::isalpha(part.text[0] == ' ' ? part.text[1] : part.text[0])) << part.text.substr(0, 9);
        }
        EXPECT_TRUE(text != &lines || part.begins || part.text.starts_with("\u4f60\u597d"));
      }
    }
  }
}

TEST_F(Documents, errors_say_file_line_and_hint) {
  refuses("a.txt", "good\nbad \xff here\n", Code::kCorrupt, {"a.txt:2:", "byte 5", "0xff", "UTF-8", "Hint"});
  refuses("a.jsonl", "{\"text\": \"x\"}\n{\"text\": }\n", Code::kCorrupt, {"a.jsonl:2"});
  refuses("b.jsonl", "{\"text\": \"x\"}\n{\"txt\": 1}\n", Code::kCorrupt, {"b.jsonl:2:", "\"text\"", "txt"});
  refuses("c.jsonl", "[1]\n", Code::kCorrupt, {"c.jsonl:1:", "\"text\"", "[1]"});
  refuses("d.jsonl", "{\"messages\": []}\n", Code::kCorrupt, {"d.jsonl:1:", "finetune --chat"});
  refuses("e.jsonl", "{\"text\": \"\xff\"}\n", Code::kCorrupt, {"e.jsonl:1"});
  const std::string whole = zstd(std::string(100000, 'x') + "\n" + std::string(1000, 'y'));
  refuses("a.txt.zst", whole.substr(0, whole.size() / 2), Code::kCorrupt, {"a.txt.zst", "inside a frame"});
  refuses("b.txt.zst", "plain", Code::kCorrupt, {"b.txt.zst", "zstd"});
}

TEST_F(Documents, errors_of_arguments) {
  expect_error(list_data_files({}), Code::kInvalidArgument, {"no data"});
  const std::vector<std::string> twice = {"-", "-"}, missing = {folder_.file("nothing.txt")}, empty = {folder_.path()};
  expect_error(list_data_files(twice), Code::kInvalidArgument, {"twice"});
  expect_error(list_data_files(missing), Code::kNotFound, {"nothing.txt"});
  expect_error(list_data_files(empty), Code::kNotFound, {folder_.path(), ".jsonl"});
  expect_error(read_documents({folder_.file("gone.txt")}).status, Code::kNotFound, {"gone.txt"});
}

}  // namespace
}  // namespace westlake
