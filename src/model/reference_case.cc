#include "model/reference_case.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>

#include "base/file.h"
#include "base/json.h"
#include "formats/npy.h"
#include "model/checkpoint.h"
#include "model/model.h"

namespace westlake {
namespace {

// The cache of one sequence in pages of an odd size, so that page borders fall inside every case.
class CasePages {
 public:
  CasePages(CacheShape shape, int64_t positions) {
    for (int64_t at = 0; at < positions; at += shape.page_tokens) {
      store_.emplace_back(shape.page_floats());
      pages_.push_back(store_.back().data());
    }
  }
  float* const* data() { return pages_.data(); }

 private:
  std::vector<std::vector<float>> store_;
  std::vector<float*> pages_;
};
constexpr int64_t kPageTokens = 7;

double difference(const float* a, const float* b, int64_t n) {
  double most = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double d = std::fabs(static_cast<double>(a[i]) - b[i]);
    if (!(d <= most)) most = std::isnan(d) ? std::numeric_limits<double>::infinity() : d;
  }
  return most;
}

int32_t argmax(const std::vector<float>& row) {
  return static_cast<int32_t>(std::max_element(row.begin(), row.end()) - row.begin());
}

Result<Npy> load(const std::string& path, const std::vector<int64_t>& shape) {
  TRY_ASSIGN(Npy array, Npy::open(path));
  if (array.view().shape != shape)
    return make_error(Code::kCorrupt, "{}: is {}, expected {}", path, shape_text(array.view().shape),
                      shape_text(shape));
  return array;
}

struct Case {
  std::string folder;
  const Model* model;
  std::vector<int32_t> tokens;
  ReferenceReport report;

  std::string file(const char* name) const { return folder + "/" + name; }
  int64_t T() const { return static_cast<int64_t>(tokens.size()); }
  void fail(std::string text) { report.failures.push_back(std::move(text)); }
};

// One pass over all tokens: logits and the residual stream.
Status check_logits(Context& ctx, Case& c, std::vector<float>* normed) {
  const ModelConfig& config = c.model->config();
  const int64_t T = c.T(), V = config.vocab_size, D = config.hidden_size, L = config.num_hidden_layers;
  TRY_ASSIGN(const Npy expected, Npy::open(c.file("logits.npy")));
  const int64_t rows = expected.view().shape.empty() ? 0 : expected.view().shape[0];
  if (expected.view().shape != std::vector<int64_t>{rows, V} || rows < 1 || rows > T)
    return make_error(Code::kCorrupt, "{}: is {}, expected [1..{}, {}]", c.file("logits.npy"),
                      shape_text(expected.view().shape), T, V);
  const bool whole = is_file(c.file("hidden.npy")), last = is_file(c.file("hidden_last.npy"));
  std::vector<float> hidden_expected, hidden(whole || last ? (L + 1) * T * D : 0);
  if (whole) {
    TRY_ASSIGN(const Npy array, load(c.file("hidden.npy"), {L + 1, T, D}));
    TRY_ASSIGN(hidden_expected, array.floats());
  } else if (last) {
    TRY_ASSIGN(const Npy array, load(c.file("hidden_last.npy"), {L + 1, D}));
    TRY_ASSIGN(hidden_expected, array.floats());
  }
  CasePages pages(c.model->cache_shape(kPageTokens), T);
  std::vector<float> logits(rows * V);
  Segment segment;
  segment.tokens = c.tokens;
  segment.pages = pages.data();
  segment.logits_from = T - rows;
  normed->resize(T * D);
  HiddenObserver observer;
  if (!hidden.empty()) {
    observer = [&](int64_t layer, const float* x, int64_t) { std::copy(x, x + T * D, hidden.data() + layer * T * D); };
  }
  c.model->forward(ctx, {&segment, 1}, kPageTokens, logits.data(), normed->data(), observer);

  TRY_ASSIGN(const std::vector<float> wanted, expected.floats());
  c.report.max_logit_difference = difference(logits.data(), wanted.data(), rows * V);
  if (!(c.report.max_logit_difference <= c.report.tolerance))
    c.fail(fmt::format("logits differ by {:.3g}, tolerance {:.3g}", c.report.max_logit_difference, c.report.tolerance));
  const int64_t compared = whole ? T * D : D;
  for (int64_t layer = 0; !hidden_expected.empty() && layer <= L; ++layer) {
    const float* seen = hidden.data() + layer * T * D + (whole ? 0 : (T - 1) * D);
    const double d = difference(seen, hidden_expected.data() + layer * compared, compared);
    c.report.max_hidden_difference = std::max(c.report.max_hidden_difference, d);
    // Residual streams grow through the layers, so they have no tolerance of their own; the first that leaves ten
    // times the logits' tolerance is named as the place to look.
    if (c.report.first_layer_off < 0 && !(d <= 10 * c.report.tolerance)) c.report.first_layer_off = layer;
  }
  if (c.report.first_layer_off >= 0 && !c.report.passed())
    c.fail(fmt::format("the residual stream first differs after layer {} of {}", c.report.first_layer_off, L));
  return {};
}

// Decoding one token at a time after one prefill, absorbed where MLA has that form.
Status check_greedy(Context& ctx, Case& c) {
  if (!is_file(c.file("greedy.npy"))) return {};
  TRY_ASSIGN(const Npy array, Npy::open(c.file("greedy.npy")));
  TRY_ASSIGN(const std::vector<int32_t> expected, array.int32s());
  const int64_t n = static_cast<int64_t>(expected.size());
  CasePages pages(c.model->cache_shape(kPageTokens), c.T() + n);
  std::vector<float> logits(c.model->config().vocab_size);
  Segment segment;
  segment.tokens = c.tokens;
  segment.pages = pages.data();
  segment.logits_from = c.T() - 1;
  c.model->forward(ctx, {&segment, 1}, kPageTokens, logits.data());
  c.report.greedy_expected = n;
  int32_t token = argmax(logits);
  for (int64_t i = 0; i < n; ++i) {
    if (token != expected[i]) {
      c.fail(fmt::format("greedy token {} is {}, expected {}", i, token, expected[i]));
      return {};
    }
    ++c.report.greedy_equal;
    segment.tokens = {&token, 1};
    segment.start = c.T() + i;
    segment.form = MlaForm::kAbsorbed;
    segment.logits_from = 0;
    c.model->forward(ctx, {&segment, 1}, kPageTokens, logits.data());
    token = argmax(logits);
  }
  return {};
}

Status check_mtp(Context& ctx, Case& c, const std::vector<float>& normed) {
  if (!is_file(c.file("mtp_logits.npy"))) return {};
  const int64_t T = c.T() - 1, V = c.model->config().vocab_size, D = c.model->config().hidden_size;
  if (c.model->weights().mtp.empty()) {
    c.fail("mtp_logits.npy is there, but the checkpoint has no multi-token-prediction layer");
    return {};
  }
  TRY_ASSIGN(const Npy array, load(c.file("mtp_logits.npy"), {T, V}));
  TRY_ASSIGN(const std::vector<float> expected, array.floats());
  CasePages pages(c.model->mtp_cache_shape(kPageTokens), T);
  std::vector<float> logits(T * V), hidden(T * D);
  Segment segment;
  segment.tokens = std::span(c.tokens).subspan(1);
  segment.pages = pages.data();
  c.model->forward_mtp(ctx, 0, normed.data(), {&segment, 1}, kPageTokens, logits.data(), hidden.data());
  c.report.max_mtp_difference = difference(logits.data(), expected.data(), T * V);
  if (!(c.report.max_mtp_difference <= c.report.tolerance))
    c.fail(
        fmt::format("mtp logits differ by {:.3g}, tolerance {:.3g}", c.report.max_mtp_difference, c.report.tolerance));
  return {};
}

Status read_meta(Case& c) {
  if (!is_file(c.file("meta.json"))) return {};
  TRY_ASSIGN(const std::string text, read_file(c.file("meta.json"), 16 << 20));
  TRY_ASSIGN(const JsonDocument document, JsonDocument::parse(text, c.file("meta.json")));
  JsonObject object;
  if (document.root().get(object) != simdjson::SUCCESS)
    return make_error(Code::kCorrupt, "{}: is no JSON object", c.file("meta.json"));
  return json_read(object, "tolerance", c.file("meta.json"), &c.report.tolerance);
}

}  // namespace

bool is_model_case(const std::string& folder) {
  return is_file(folder + "/tokens.npy") && is_file(folder + "/logits.npy");
}

Result<ReferenceReport> run_model_case(Context& ctx, const std::string& folder, const std::string& model_path) {
  Case c;
  c.folder = folder;
  std::filesystem::path path(folder);
  c.report.name = (path.has_filename() ? path : path.parent_path()).filename().string();
  TRY(read_meta(c));
  TRY_ASSIGN(const Checkpoint checkpoint, Checkpoint::open(model_path.empty() ? folder : model_path));
  TRY_ASSIGN(const Model model, Model::bind(checkpoint));
  c.model = &model;
  TRY_ASSIGN(const Npy tokens, Npy::open(c.file("tokens.npy")));
  TRY_ASSIGN(c.tokens, tokens.int32s());
  if (c.tokens.empty()) return make_error(Code::kCorrupt, "{}: is empty", c.file("tokens.npy"));
  for (int32_t token : c.tokens) {
    if (token < 0 || token >= model.config().vocab_size)
      return make_error(Code::kCorrupt, "{}: token {} is out of 0..{}", c.file("tokens.npy"), token,
                        model.config().vocab_size - 1);
  }
  std::vector<float> normed;
  TRY(check_logits(ctx, c, &normed));
  TRY(check_greedy(ctx, c));
  TRY(check_mtp(ctx, c, normed));
  return c.report;
}

}  // namespace westlake
