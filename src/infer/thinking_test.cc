// The splitter gives the same two texts however the stream is cut.
#include "infer/thinking.h"

#include <gtest/gtest.h>

#include <utility>

namespace westlake {
namespace {

std::pair<std::string, std::string> split(std::string_view text, size_t piece, bool inside = false) {
  ThinkSplitter splitter(inside);
  std::pair<std::string, std::string> out;  // thinking, answer
  auto sink = [&](std::string_view s, bool thinking) { (thinking ? out.first : out.second) += s; };
  for (size_t at = 0; at < text.size(); at += piece) splitter.push(text.substr(at, piece), sink);
  splitter.flush(sink);
  return out;
}

using Pair = std::pair<std::string, std::string>;

TEST(ThinkSplitter, AnyCut) {
  for (size_t piece = 1; piece < 30; ++piece) {
    EXPECT_EQ(split("<think>\nhm < 3</think>\n\nfour", piece), (Pair{"\nhm < 3", "\n\nfour"})) << piece;
    EXPECT_EQ(split("\n <think>a</think>b", piece), (Pair{"a", "\n b"})) << piece;
    EXPECT_EQ(split("inner</think>outer", piece, true), (Pair{"inner", "outer"})) << piece;
    EXPECT_EQ(split("cut off</thi", piece, true), (Pair{"cut off</thi", ""})) << piece;
    EXPECT_EQ(split("say <think> to think</think>", piece), (Pair{"", "say <think> to think</think>"})) << piece;
    EXPECT_EQ(split("<think>a</think><think>b</think>", piece), (Pair{"a", "<think>b</think>"})) << piece;
    EXPECT_EQ(split("<b>bold</b>", piece), (Pair{"", "<b>bold</b>"})) << piece;
    EXPECT_EQ(split("<thin", piece), (Pair{"", "<thin"})) << piece;
  }
}

TEST(ThinkSplitter, AnswersAreNotHeldBack) {
  ThinkSplitter splitter;
  std::string seen;
  auto sink = [&](std::string_view s, bool) { seen += s; };
  splitter.push("a <", sink);
  EXPECT_EQ(seen, "a <");
}

TEST(ThinkSplitter, PromptsThatOpenIt) {
  EXPECT_TRUE(ends_in_thinking("<|Assistant|><think>\n"));
  EXPECT_FALSE(ends_in_thinking("<think>\n\n</think>\n\n"));
  EXPECT_FALSE(ends_in_thinking(""));
}

}  // namespace
}  // namespace westlake
