// Scores against sums written out from the model's logits, and tasks on files made here.
#include "infer/eval_tasks.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/file.h"
#include "infer/kv_cache.h"
#include "infer/scoring.h"
#include "infer/test_support.h"

namespace westlake {
namespace {

// The sum of a text's log-probabilities from `first` on, from logits of the whole text at once.
double summed(const Opened& opened, const std::vector<int32_t>& tokens, int64_t first) {
  const int64_t V = opened.model->config().vocab_size, n = static_cast<int64_t>(tokens.size());
  PagePool pool(opened.model->cache_shape(kPageTokens));
  SequenceCache cache(pool);
  CHECK(cache.ensure(n).ok());
  Segment segment;
  segment.tokens = tokens;
  segment.pages = cache.pages();
  std::vector<float> logits(n * V);
  opened.model->forward(*opened.context, {&segment, 1}, kPageTokens, logits.data());
  double sum = 0;
  for (int64_t i = first; i < n; ++i) {
    const float* row = logits.data() + (i - 1) * V;
    double z = 0;
    for (int64_t v = 0; v < V; ++v) z += std::exp(static_cast<double>(row[v]));
    sum += row[tokens[i]] - std::log(z);
  }
  return sum;
}

TEST(Scoring, EqualsTheSumOverEachTextAlone) {
  const Opened opened("llama_linear");
  std::vector<ScoreRequest> requests;
  for (int64_t n = 2; n < 40; n += 5) {
    ScoreRequest r;
    r.tokens.assign(opened.tokens.begin(), opened.tokens.begin() + std::min<int64_t>(n, opened.tokens.size()));
    r.first = 1 + n / 3;
    if (r.first < static_cast<int64_t>(r.tokens.size())) requests.push_back(r);
  }
  const auto scores = score_texts(*opened.context, *opened.model, requests);
  ASSERT_TRUE(scores.ok()) << scores.error().message;
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_NEAR((*scores)[i].log_prob, summed(opened, requests[i].tokens, requests[i].first), 1e-3);
    EXPECT_EQ((*scores)[i].tokens, static_cast<int64_t>(requests[i].tokens.size()) - requests[i].first);
  }
  requests[0].first = static_cast<int64_t>(requests[0].tokens.size());
  EXPECT_EQ(score_texts(*opened.context, *opened.model, requests).error().code, Code::kInvalidArgument);
}

struct EvalTask : testing::Test {
  // A model over bytes; its 258 tokens are more than a tiny vocabulary has, so ids are taken as they come.
  std::string file(const std::string& name, const std::string& content) {
    const std::string path = testing::TempDir() + name;
    CHECK(write_file(path, content).ok());
    return path;
  }
  Result<std::vector<EvalFigure>> run(const std::string& task, const std::string& path) {
    return run_eval_task(*opened.context, *opened.model, text, task, path, {});
  }
  Opened opened{"llama_linear"};
  TextBundle text{byte_tokenizer()};
};

TEST_F(EvalTask, CountsBitsOfATextOnce) {
  const std::string path =
      file("eval_bpb.txt", "A small text.\n<|endoftext|>\nAnother one, a little longer than the first.\n");
  const auto figures = run("bpb", path);
  ASSERT_TRUE(figures.ok()) << figures.error().message;
  ASSERT_EQ(figures->size(), 1u);
  EXPECT_EQ((*figures)[0].n, 13 + 44);
  EXPECT_GT((*figures)[0].value, 0);
}

TEST_F(EvalTask, NamesWhatIsWrong) {
  EXPECT_EQ(run("blimp", "/no/such/folder").error().code, Code::kNotFound);
  EXPECT_EQ(run("nothing", "/").error().code, Code::kInvalidArgument);
  const auto missing = run("blimp", file("blimp_bad.jsonl", "{\"good\": \"a\"}\n"));
  ASSERT_FALSE(missing.ok());
  EXPECT_NE(missing.error().message.find("blimp_bad.jsonl:1"), std::string::npos);
  const auto answer = run("hellaswag", file("hellaswag_bad.jsonl", R"({"context":"a","choices":["b","c"],"answer":7})"
                                                                   "\n"));
  ASSERT_FALSE(answer.ok());
  EXPECT_NE(answer.error().message.find("answer is 7"), std::string::npos);
}

}  // namespace
}  // namespace westlake
