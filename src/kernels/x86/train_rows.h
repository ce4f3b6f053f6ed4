// Training's row kernels and updates. Included inside the level's namespace and target region, after rows.h; includes
// nothing itself. All stream: every array once, except that norms read their row twice and logits are read and written
// three times while they are in the L2 cache. The layouts and formulas are those of ref.
namespace training {

// f(i, n) over pieces of kLanes of [0, n): n is kLanes, or less at the end. Loads and stores by load_some, store_some:
// inlined, the whole pieces keep their plain moves.
template <typename F>
KERNEL_INLINE void for_lanes(int64_t n, F&& f) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) f(i, int64_t{kLanes});
  if (i < n) f(i, n - i);
}

inline float rms_norm(const float* x, const float* weight, float eps, int64_t n, float* y) {
  const float inv = 1.0f / __builtin_sqrtf(dot(x, x, n) / static_cast<float>(n) + eps);
  for_lanes(n, [&](int64_t i, int64_t m) {
    store_some(y + i, mul(mul(load_some(x + i, m), set(inv)), load_some(weight + i, m)), m);
  });
  return inv;
}

// dx += inv (w dy) - x inv^3 / n (x . w dy),  dw += x inv dy
inline void rms_norm_backward(const float* x, const float* weight, float inv, const float* dy, int64_t n, float* dx,
                              float* dweight) {
  Floats sums[2] = {zero(), zero()};
  int64_t turn = 0;
  for_lanes(n, [&](int64_t i, int64_t m) {
    Floats& part = sums[turn ^= 1];
    part = fma(mul(load_some(x + i, m), load_some(weight + i, m)), load_some(dy + i, m), part);
  });
  const float along = -(sum(add(sums[0], sums[1])) * inv * inv * inv / static_cast<float>(n));
  for_lanes(n, [&](int64_t i, int64_t m) {
    const Floats at = load_some(x + i, m), g = mul(set(inv), load_some(dy + i, m));
    store_some(dx + i, fma(at, set(along), fma(g, load_some(weight + i, m), load_some(dx + i, m))), m);
    store_some(dweight + i, fma(at, g, load_some(dweight + i, m)), m);
  });
}

// silu'(g) = s (1 + g (1 - s)), s = sigmoid(g)
inline void silu_mul_backward(const float* gate, const float* up, const float* dy, int64_t n, float* dgate,
                              float* dup) {
  const Floats one = set(1.0f);
  for_lanes(n, [&](int64_t i, int64_t m) {
    const Floats g = load_some(gate + i, m), u = load_some(up + i, m), d = load_some(dy + i, m);
    const Floats s = div(one, add(one, exp(sub(zero(), g))));
    const Floats ds = mul(d, s);
    store_some(dgate + i, mul(mul(ds, u), fma(g, sub(one, s), one)), m);
    store_some(dup + i, mul(ds, g), m);
  });
}

inline void rope(float* x, const float* cos, const float* sin, int64_t n, bool halves, bool back) {
  if (!back) return halves ? rope_halves(x, cos, sin, n) : rope_interleaved(x, cos, sin, n);
  // Back: the angle's sine is negative. In pieces, so that the copy stays in L1.
  constexpr int64_t kPiece = 64;
  const int64_t pairs = n / 2;
  float turned[kPiece];
  for (int64_t i = 0; i < pairs; i += kPiece) {
    const int64_t count = pairs - i < kPiece ? pairs - i : kPiece;
    for (int64_t j = 0; j < count; ++j) turned[j] = -sin[i + j];
    if (!halves) {
      rope_interleaved(x + 2 * i, cos + i, turned, 2 * count);
      continue;
    }
    float both[2 * kPiece];
    std::memcpy(both, x + i, static_cast<size_t>(count) * 4);
    std::memcpy(both + count, x + pairs + i, static_cast<size_t>(count) * 4);
    rope_halves(both, cos + i, turned, 2 * count);
    std::memcpy(x + i, both, static_cast<size_t>(count) * 4);
    std::memcpy(x + pairs + i, both + count, static_cast<size_t>(count) * 4);
  }
}

inline double cross_entropy(float* logits, int64_t n, int64_t target, float scale) {
  const float top = largest_of(logits, n), at_target = logits[target];
  Floats sums = zero();
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Floats e = exp(sub(load(logits + i), set(top)));
    store(logits + i, e);
    sums = add(sums, e);
  }
  if (i < n) {  // stored and loaded again: the lanes beyond n must not count
    store_part(logits + i, exp(sub(load_part(logits + i, n - i), set(top))), n - i);
    sums = add(sums, load_part(logits + i, n - i));
  }
  const float total = sum(sums);
  const Floats factor = set(scale / total);
  for_lanes(n, [&](int64_t j, int64_t m) { store_some(logits + j, mul(load_some(logits + j, m), factor), m); });
  logits[target] -= scale;
  return static_cast<double>(std::log(total)) + static_cast<double>(top - at_target);
}

// In float32 over pieces of kPiece numbers, in double over the pieces.
inline double sum_squares(const float* x, int64_t n) {
  constexpr int64_t kPiece = 4096;
  double total = 0;
  for (int64_t i = 0; i < n; i += kPiece) {
    const int64_t count = n - i < kPiece ? n - i : kPiece;
    total += static_cast<double>(dot(x + i, x + i, count));
  }
  return total;
}

KERNEL_INLINE Floats constant(double x) {
  return set(static_cast<float>(x));
}

inline void adamw(const AdamWArgs& args, const float* g, int64_t n, float* p, float* m, float* v) {
  const double t = static_cast<double>(args.step);
  const Floats b1 = constant(args.beta1), b2 = constant(args.beta2), eps = constant(args.eps);
  const Floats c1 = sub(set(1.0f), b1), c2 = sub(set(1.0f), b2), scale = constant(args.grad_scale);
  const Floats decay = constant(1 - args.lr * args.weight_decay);
  const Floats rate = constant(-args.lr / (1 - std::pow(args.beta1, t)));
  const Floats second = constant(1 / std::sqrt(1 - std::pow(args.beta2, t)));
  for_lanes(n, [&](int64_t i, int64_t count) {
    const Floats x = mul(load_some(g + i, count), scale);
    const Floats mean = fma(b1, load_some(m + i, count), mul(c1, x));
    const Floats square = fma(b2, load_some(v + i, count), mul(mul(c2, x), x));
    store_some(m + i, mean, count);
    store_some(v + i, square, count);
    const Floats step = div(mul(rate, mean), fma(sqrt(square), second, eps));
    store_some(p + i, fma(load_some(p + i, count), decay, step), count);
  });
}

}  // namespace training
