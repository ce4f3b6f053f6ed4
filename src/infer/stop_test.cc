// Stop strings: the result does not depend on where the pieces break.
#include "infer/stop.h"

#include <gtest/gtest.h>

#include "base/rng.h"

namespace westlake {
namespace {

struct Outcome {
  std::string text;
  bool matched;
  std::string which;
};

Outcome run(const std::vector<std::string>& stops, const std::vector<std::string>& pieces) {
  Result<StopMatcher> matcher = StopMatcher::create(stops);
  CHECK(matcher.ok());
  Outcome out;
  for (const std::string& piece : pieces) out.text += matcher->push(piece);
  out.text += matcher->flush();
  out.matched = matcher->matched();
  out.which = matcher->which();
  return out;
}

// Every way to cut a short text in pieces gives the same.
Outcome run_all_cuts(const std::vector<std::string>& stops, const std::string& text) {
  const Outcome whole = run(stops, {text});
  for (uint32_t cuts = 0; cuts < (1u << (text.size() - 1)); ++cuts) {
    std::vector<std::string> pieces(1);
    for (size_t i = 0; i < text.size(); ++i) {
      pieces.back() += text[i];
      if (cuts >> i & 1) pieces.emplace_back();
    }
    const Outcome cut = run(stops, pieces);
    EXPECT_EQ(cut.text, whole.text) << text << " " << cuts;
    EXPECT_EQ(cut.matched, whole.matched) << text << " " << cuts;
    EXPECT_EQ(cut.which, whole.which) << text << " " << cuts;
  }
  return whole;
}

TEST(StopMatcher, AcrossBorders) {
  EXPECT_EQ(run_all_cuts({"END"}, "one ENE END x").text, "one ENE ");
  EXPECT_EQ(run_all_cuts({"aab"}, "aaaab").text, "aa");
  EXPECT_EQ(run_all_cuts({"abab"}, "abaabab!").text, "aba");
  EXPECT_EQ(run_all_cuts({"END"}, "nothing EN").text, "nothing EN");
  EXPECT_FALSE(run_all_cuts({"END"}, "nothing EN").matched);
  EXPECT_EQ(run_all_cuts({"\n\nQ:"}, "a\n\nb\n\nQ: c").text, "a\n\nb");
}

TEST(StopMatcher, SeveralStrings) {
  // "bc" is complete before "abcd" is.
  const Outcome early = run_all_cuts({"abcd", "bc"}, "xabcdy");
  EXPECT_EQ(early.text, "xa");
  EXPECT_EQ(early.which, "bc");
  // Both end together: nothing of the longer one gets out.
  const Outcome longer = run_all_cuts({"c", "abc"}, "xabcd");
  EXPECT_EQ(longer.text, "x");
  EXPECT_EQ(longer.which, "abc");
}

TEST(StopMatcher, HoldsBackNoMoreThanItMust) {
  StopMatcher matcher = *StopMatcher::create({"<|end|>", "stop"});
  EXPECT_EQ(matcher.push("hello <"), "hello ");
  EXPECT_EQ(matcher.push("b> sto"), "<b> ");
  EXPECT_EQ(matcher.push("ve"), "stove");
  EXPECT_EQ(matcher.push("st"), "");
  EXPECT_EQ(matcher.push("op"), "");
  EXPECT_TRUE(matcher.matched());
  EXPECT_EQ(matcher.push("more"), "");
  EXPECT_EQ(matcher.flush(), "");
}

TEST(StopMatcher, Refuses) {
  EXPECT_EQ(StopMatcher::create({"a", ""}).error().code, Code::kInvalidArgument);
  EXPECT_EQ(StopMatcher::create(std::vector<std::string>(65, "a")).error().code, Code::kInvalidArgument);
  EXPECT_EQ(StopMatcher::create({std::string(5000, 'a')}).error().code, Code::kInvalidArgument);
  StopMatcher none = *StopMatcher::create({});
  EXPECT_EQ(none.push("text"), "text");
}

// Against the plain definition on the whole text: cut at the stop that is complete first.
TEST(StopMatcher, RandomTextsAndCuts) {
  Rng rng(7);
  for (int round = 0; round < 3000; ++round) {
    auto random_text = [&](uint64_t longest) {
      std::string s;
      for (uint64_t n = 1 + rng.below(longest); n > 0; --n) s += static_cast<char>('a' + rng.below(3));
      return s;
    };
    std::vector<std::string> stops;
    for (uint64_t n = 1 + rng.below(3); n > 0; --n) stops.push_back(random_text(5));
    const std::string text = random_text(30);
    std::string expected = text;
    for (size_t end = 1; end <= text.size(); ++end) {
      size_t longest = 0;
      for (const std::string& stop : stops) {
        if (std::string_view(text).substr(0, end).ends_with(stop)) longest = std::max(longest, stop.size());
      }
      if (longest == 0) continue;
      expected = text.substr(0, end - longest);
      break;
    }
    std::vector<std::string> pieces;
    for (size_t at = 0; at < text.size();) {
      const size_t n = 1 + rng.below(6);
      pieces.push_back(text.substr(at, n));
      at += n;
    }
    const Outcome out = run(stops, pieces);
    ASSERT_EQ(out.text, expected) << text;
    for (const std::string& stop : stops) ASSERT_EQ(out.text.find(stop), std::string::npos);
  }
}

}  // namespace
}  // namespace westlake
