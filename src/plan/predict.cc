#include "plan/predict.h"

#include <algorithm>
#include <vector>

#include "base/clock.h"

namespace westlake {
namespace {

// Of the read roof, what products reach that wait for their weights: they stop at every border of a region. Measured
// with `westlake bench --ops` over the products of V2-Lite, Q4_0, two threads of a Zen 5 server.
constexpr double kReadShare = 0.95;

constexpr double kLeastSample = 2e-3;  // seconds a kernel is timed at least, the best of three such

// Seconds of one call.
double time_of(FunctionRef<void()> call) {
  call();
  double best = 1e30;
  for (int sample = 0; sample < 3; ++sample) {
    int64_t calls = 0;
    const int64_t start = now_ns();
    do {
      call();
      ++calls;
    } while (seconds_since(start) < kLeastSample);
    best = std::min(best, seconds_since(start) / static_cast<double>(calls));
  }
  return best;
}

// Numbers of no meaning, none of them special.
std::vector<float> numbers(int64_t n) {
  std::vector<float> x(static_cast<size_t>(n));
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(static_cast<int64_t>(i * 37 % 101) - 50) * 0.02f;
  return x;
}

// Rows of a sample that products are timed with: a few megabytes of weights, and some billion operations: the rows must outweigh the quantising of x.
int64_t sample_rows(const Mat& w, int64_t T) {
  constexpr int64_t kBytes = 4 << 20, kOps = 4'000'000'000;
  const int64_t rows = std::min({w.rows, kBytes / std::max<int64_t>(1, w.row_bytes), kOps / (w.cols * T)});
  return std::min(w.rows, std::max<int64_t>(kPanelRows * 8, rows / kPanelRows * kPanelRows));
}

}  // namespace

KernelRoofs::KernelRoofs(Context& ctx, const Model& model) : ctx_(ctx), model_(model) {
  const int64_t D = model.config().hidden_size, T = 64;
  std::vector<float> x = numbers(T * D), y(x.size());
  const double norms = time_of([&] {
    for (int64_t t = 0; t < T; ++t) ctx.kernels.rms_norm(&x[t * D], nullptr, 1e-6f, D, &y[t * D]);
  });
  activation_gb_s_ = 2e-9 * sizeof(float) * static_cast<double>(T * D) / norms * ctx.pool.size();
  region_s_ = time_of([&] { ctx.pool.run([](int) {}); });
}

double KernelRoofs::product_gop_s(const ProductCost& product) {
  const Mat& w = *product.sample;
  for (const Product& p : products_) {
    if (p.dtype == w.dtype && p.layout == w.layout && p.rows == product.rows) return p.gop_s;
  }
  Mat part = w;
  part.rows = sample_rows(w, product.rows);
  const std::vector<float> x = numbers(product.rows * w.cols);
  std::vector<float> y(static_cast<size_t>(product.rows * part.rows));
  ctx_.fine = model_.fine();
  const double seconds = time_of([&] { linear(ctx_, part, x.data(), w.cols, product.rows, y.data(), part.rows); }) -
                         (product.rows == 1 ? region_s_ : 0);
  products_.push_back({w.dtype, w.layout, product.rows,
                       2e-9 * static_cast<double>(part.rows * w.cols * product.rows) / std::max(seconds, 1e-9)});
  return products_.back().gop_s;
}

// Seconds and operations of one call over `keys` float32 keys.
double KernelRoofs::time_attend(bool absorbed, int64_t keys, double* ops) const {
  const ModelConfig& c = model_.config();
  const int64_t H = c.num_attention_heads;
  AttendArgs args;
  args.n_q = static_cast<int>(absorbed ? H : c.mla() ? 1 : H / c.num_key_value_heads);
  args.k_dim = absorbed ? c.kv_width() : c.qk_head_dim();
  args.v_dim = absorbed ? c.kv_lora_rank : c.mla() ? c.v_head_dim : c.head_dim;
  args.v_offset = absorbed ? 0 : args.k_dim;
  args.row_stride = absorbed ? args.k_dim : args.k_dim + args.v_dim;
  args.q_stride = args.k_dim;
  args.out_stride = args.v_dim;
  args.n_keys = args.page_tokens = keys;
  const std::vector<float> q = numbers(args.n_q * args.k_dim), cache = numbers(keys * args.row_stride);
  std::vector<float> out(args.n_q * args.v_dim), scratch(args.n_q * keys);
  const float* page = cache.data();
  args.q = q.data();
  args.pages = &page;
  args.out = out.data();
  args.scratch = scratch.data();
  *ops = 2.0 * static_cast<double>(keys * args.n_q * (args.k_dim + args.v_dim));
  return time_of([&] { ctx_.kernels.attend(args); });
}

// The same over int8 keys: one block of them, again and again.
double KernelRoofs::time_attend_q8(MlaForm form, int64_t keys, double* ops) const {
  const ModelConfig& c = model_.config();
  const int64_t hd = c.head_dim, lora = c.kv_lora_rank, heads = c.num_attention_heads;
  const int64_t nope = c.qk_nope_head_dim, rope = c.qk_rope_head_dim, v = c.v_head_dim;
  const bool expanded = c.mla() && form == MlaForm::kExpanded && model_.prompt_form(kKvBlock * kKvBlock) == form;
  AttendQ8Args args{expanded  ? Q8Group{0, 2, {nope, rope}, {0, 1}, nope + rope, v, 2}
                    : c.mla() ? Q8Group{0, 2, {lora, rope}, {0, 1}, 0, lora, 0}
                              : Q8Group{0, 1, {hd, 0}, {0, 0}, hd, hd, 1}};
  args.heads = expanded ? 1 : c.mla() ? heads : heads / c.num_key_value_heads;
  args.n_q = args.heads * (form == MlaForm::kExpanded ? std::max<int64_t>(1, 64 / args.heads) : 1);  // many tokens
  args.q_stride = args.k_dim();
  args.row_bytes = expanded ? nope + rope + v : c.mla() ? c.kv_width() : 2 * hd;
  args.page_tokens = kKvBlock;
  args.n_keys = args.end = keys;
  args.scale = 1e-3f;
  std::vector<float> page(kKvBlock * (args.row_bytes / 4 + 3), 0.01f), q = numbers(args.n_q * args.k_dim());
  const std::vector<const float*> pages(keys / kKvBlock + 1, page.data());
  std::vector<float> max(args.n_q), sum(args.n_q), out(args.n_q * args.v_dim);
  std::vector<std::byte> scratch(args.scratch_bytes());
  args.q = q.data();
  args.pages = pages.data();
  args.max = max.data();
  args.sum = sum.data();
  args.out = out.data();
  args.scratch = scratch.data();
  *ops = 2.0 * static_cast<double>(keys * args.n_q * (args.k_dim() + args.v_dim));
  return time_of([&] { ctx_.kernels.attend_q8(args); });
}

double KernelRoofs::attend_gop_s(MlaForm form) {
  double& known = attend_gop_s_[static_cast<int>(form)];
  if (known > 0) return known;
  constexpr int64_t kKeys = 512;
  double ops = 0;
  const double seconds = model_.q8_cache()
                             ? time_attend_q8(form, kKeys, &ops)
                             : time_attend(model_.config().mla() && form == MlaForm::kAbsorbed, kKeys, &ops);
  return known = 1e-9 * ops / seconds * ctx_.pool.size();
}

double KernelRoofs::seconds(const StepCost& cost, double read_gb_s, MlaForm form) {
  const double read = read_gb_s * kReadShare;
  double sum = 0;  // nanoseconds
  for (const ProductCost& p : cost.products)
    sum += std::max(static_cast<double>(p.ops) / product_gop_s(p), static_cast<double>(p.bytes) / read);
  const double attend = static_cast<double>(cost.attention_ops) / attend_gop_s(form);
  const double keys = static_cast<double>(cost.cache_bytes) / read;
  sum += cost.q8_attention ? attend + keys : std::max(attend, keys);  // of int8 keys hardly any come meanwhile
  if (cost.rebuild_ops > 0) {  // as fast as products of many rows are
    double fastest = 1;
    for (const ProductCost& p : cost.products) fastest = std::max(fastest, product_gop_s(p));
    sum += static_cast<double>(cost.rebuild_ops) / fastest;
  }
  sum += static_cast<double>(cost.activation_bytes) / activation_gb_s_;
  return 1e-9 * sum + static_cast<double>(cost.regions) * region_s_;
}

Prediction predict(Context& ctx, const Model& model, const Roof& roof, int64_t prefill, int64_t chunk, int64_t decode) {
  KernelRoofs kernels(ctx, model);
  const StepCost prompt = prefill_cost(model, prefill, chunk, ctx.exact);
  // The cost of a token grows evenly with the positions before it: the middle one stands for all.
  const StepCost token = step_cost(model, {.start = prefill + decode / 2}, ctx.exact);
  const auto tokens = static_cast<double>(prefill);
  return {tokens / kernels.seconds(prompt, roof.read_gb_s, MlaForm::kExpanded),
          1 / kernels.seconds(token, roof.read_gb_s, MlaForm::kAbsorbed),
          tokens / roof_seconds(prompt, roof, ctx.exact), 1 / roof_seconds(token, roof, ctx.exact)};
}

}  // namespace westlake
