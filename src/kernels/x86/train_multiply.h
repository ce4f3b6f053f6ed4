// A product of training by whatever the level has: matrix tiles for bfloat16 (WESTLAKE_TILES), registers otherwise.
// Included inside the level's namespace and target region, after train_products.h and train_tiles.h; includes nothing
// itself.

template <Precision P>
inline void multiply_packed(const Block& p) {
  if constexpr (P == Precision::kFull) {
    multiply_block<FullUnit>(p);
  } else {
#if WESTLAKE_TILES
    multiply_tiles(p);
#else
    multiply_block<Bf16Unit>(p);
#endif
  }
}

// Operands are padded with zeros beyond this.
template <Precision P>
inline int64_t words_of(int64_t K) {
  return ((K + kNumbers<P> - 1) / kNumbers<P> + 3) / 4 * 4;
}

template <Precision P>
inline void multiply_at(const Product<float>& product, int64_t row, int64_t m, int64_t panel, int64_t n) {
  const int64_t begin = panel * kPanelN, last = begin + n * kPanelN;
  multiply_packed<P>({.a = product.a.data + row * product.a.row_bytes,
                      .a_row = product.a.row_bytes,
                      .m = m,
                      .b = product.b.data + panel * product.b.panel_bytes,
                      .panel_bytes = product.b.panel_bytes,
                      .n = (last < product.b.N ? last : product.b.N) - begin,
                      .words = words_of<P>(product.a.K),
                      .c = product.c + row * product.ldc + begin,
                      .ldc = product.ldc,
                      .add = product.add,
                      .c_far = true});
}
inline void multiply(Precision p, const Product<float>& product, int64_t row, int64_t m, int64_t panel, int64_t n) {
  if (p == Precision::kBf16) return multiply_at<Precision::kBf16>(product, row, m, panel, n);
  multiply_at<Precision::kFull>(product, row, m, panel, n);
}
