// The hand-written scanners against PCRE2, regex for regex, on random text; and the dialect of the translation.
#include "text/pattern.h"

#include <gtest/gtest.h>

#include "base/rng.h"
#include "text/char_table.h"

namespace westlake {
namespace {

// Characters at which the regexes turn, with some of everything else that both engines know.
std::string random_text(Rng& rng) {
  static const std::vector<std::string> kSeams = {
      "a",          "b",      "Z",       "S",      "s",      "t",      "re",     "LL",     "'",
      "'s",         "'LL",    "'\u017f", "\u017f", "0",      "7",      "12345",  " ",      " ",
      "  ",         "\t",     "\n",      "\r",     "\r\n",   " \n",    "\u00a0", "\u3000", "\u2028",
      "\u0085",     ".",      "!?",      "/",      "-",      "$",      "+",      "<",      "\u4e2d\u6587",
      "\u3042",     "\u30ab", "\ud55c",  "\u0301", "\u0308", "\u0e31", "\u0660", "\u2160", "\u00bd",
      "\u01c5",     "\u02b0", "\u00aa",  "\u3007", "\u3005", "\u2e80", "\u200b", "\u007f", "\u0000",
      "\U0001f600", "\u00e9", "\u0416",  "\u05d0", "\u2018", "\uff01", "\uff21", "\u0800", "\u9fa5",
      "\u9fa6",     "\u180e"};
  std::string out;
  const uint64_t length = rng.next() % 14;
  for (uint64_t i = 0; i < length; ++i) {
    if (rng.next() % 12 == 0) {
      uint32_t code = 0;
      do code = static_cast<uint32_t>(rng.next() % 0x20000);
      while ((code >= 0xd800 && code < 0xe000) || (char_bits(char_classes(), code) & kNewer) ||
             char_bits(char_classes(), code) == kNfcUnsafe);  // unassigned ones change category between versions
      utf8_append(out, code);
    } else {
      std::string_view seam = kSeams[rng.next() % kSeams.size()];
      out += seam.empty() ? std::string_view("\0", 1) : seam;
    }
  }
  return out;
}

std::vector<std::string> stretches(const Pattern& pattern, const std::string& text) {
  std::vector<std::string> out;
  StretchWalk walk(pattern, text);
  for (Stretch s; walk.next(&s);) out.push_back((s.is_match ? "+" : "-") + text.substr(s.begin, s.end - s.begin));
  return out;
}

void compare(const Pattern& hand, const Pattern& pcre, std::string_view what, int rounds) {
  Rng rng(11);
  for (int round = 0; round < rounds; ++round) {
    const std::string text = random_text(rng);
    ASSERT_EQ(stretches(hand, text), stretches(pcre, text)) << what << " on '" << text << "'";
  }
}

TEST(pattern, scanners_equal_pcre2) {
  for (const KnownPattern& known : known_patterns()) {
    const auto hand = make_scanner(known.regex);
    ASSERT_NE(hand, nullptr) << known.name;
    const auto pcre = make_regex(known.plain ? known.plain : known.regex, "test");
    ASSERT_TRUE(pcre.ok()) << pcre.error().message;
    compare(*hand, **pcre, known.name, 4000);
  }
}

TEST(pattern, class_runs_equal_pcre2) {
  for (const char* regex :
       {"[\r\n]", "\\s?[A-Za-z\u00b5\u00c0-\u00d6\u0370-\u0373\uff21-\uff3a\U00010400-\U0001044f]+",
        "\\s?[!-/:-~\uff01-\uff0f\u2018-\u201f\u3000-\u3002]+", "\\s+$", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+",
        "\\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", "\\s?\\p{L}+", "\\s?\\p{P}+", "\\p{N}",
        "\\p{N}+"}) {
    const auto hand = make_class_run(regex);
    ASSERT_NE(hand, nullptr) << regex;
    const auto pcre = make_regex(regex, "test");
    ASSERT_TRUE(pcre.ok()) << pcre.error().message;
    compare(*hand, **pcre, regex, 2000);
  }
}

TEST(pattern, shapes_that_are_no_class_run) {
  for (const char* regex : {"[^a]+", "[a-]", "[]a]", "[a\\d]", "[[a]b]", "[a&&b]", "a+", "[a]*", "[a]++", "[a]{2}",
                            "[b-a]", "[a", "\\s?", "\\s?\\p{Lu}+", ""}) {
    EXPECT_EQ(make_class_run(regex), nullptr) << regex;
  }
}

std::vector<std::string> split(std::string_view regex, const std::string& text) {
  const auto pattern = make_regex(regex, "test");
  EXPECT_TRUE(pattern.ok()) << (pattern.ok() ? "" : pattern.error().message);
  return pattern.ok() ? stretches(**pattern, text) : std::vector<std::string>();
}

using Parts = std::vector<std::string>;

// What Oniguruma means by its words, where PCRE2 means something else.
TEST(pattern, translation_keeps_the_dialect) {
  EXPECT_EQ(split("\\s", "a\u180e\u3000"), (Parts{"-a\u180e", "+\u3000"}));
  EXPECT_EQ(split("\\S+", "a\u180e b"), (Parts{"+a\u180e", "- ", "+b"}));
  EXPECT_EQ(split("[^\\S\\n]+", "a \u180e\n"), (Parts{"-a", "+ ", "-\u180e\n"}));
  EXPECT_EQ(split("\\w+", "a\u0301\u00b2 _"), (Parts{"+a\u0301\u00b2", "- ", "+_"}));
  EXPECT_EQ(split("[\\w]+", "a\u0301\u00b2"), (Parts{"+a\u0301", "-\u00b2"}));
  EXPECT_EQ(split("\\h+", "0fg "), (Parts{"+0f", "-g "}));
  EXPECT_EQ(split("a$", "a\nba"), (Parts{"+a", "-\nb", "+a"}));
  EXPECT_EQ(split("^b", "b\nb"), (Parts{"+b", "-\n", "+b"}));
  EXPECT_EQ(split("\\p{Han}+", "\u4e2d\u3001"), (Parts{"+\u4e2d", "-\u3001"}));  // the script, not its extensions
  EXPECT_EQ(split("\\p{^L}+", "a1b"), (Parts{"-a", "+1", "-b"}));
  EXPECT_EQ(split("\\P{L}+", "a1b"), (Parts{"-a", "+1", "-b"}));
  EXPECT_EQ(split("\\p{Lu}+", "a\u1c89"), (Parts{"-a", "+\u1c89"}));   // a capital of Unicode 16
  EXPECT_EQ(split("x*", "axb"), (Parts{"+", "-a", "+x", "-b", "+"}));  // empty matches cut, but not beside a match
}

TEST(pattern, what_cannot_be_run_exactly_is_refused) {
  for (const char* regex : {"[a&&b]", "[a[b]]", "[[:alpha:]]", "a{1,2}+", "a{,2}", "(*FAIL)", "(?m).", "(?im-x)a",
                            "\\C", "[\\W]", "[\\P{L}]", "\\p{Nonsense}", "(", "a\\", "\\pL", "\\X"}) {
    const auto pattern = make_regex(regex, "place");
    ASSERT_FALSE(pattern.ok()) << regex;
    EXPECT_EQ(pattern.error().code, Code::kUnsupported) << regex;
    EXPECT_EQ(pattern.error().message.rfind("place: ", 0), 0u) << pattern.error().message;
  }
}

// A regex that backtracks without end gives up and counts as no match.
TEST(pattern, endless_backtracking_ends) {
  EXPECT_EQ(split("(a+)+$b", std::string(200, 'a')), (Parts{"-" + std::string(200, 'a')}));
}

}  // namespace
}  // namespace westlake
