// Operands, products and the arena: the parts of training that are the same at every level.
#include "kernels/training.h"

#include <sys/mman.h>

#include <cstdlib>

#include "base/check.h"

namespace westlake {
namespace {

// Rows of C and panels of B of one task: 8192 entries of C, so that A's rows stay in L1 and B's panels in L2.
constexpr int64_t kTaskRows = 128;
constexpr int64_t kTaskPanels = 4;
// Rows and panels of one packing task: where x is read across its rows, 256 and 512 bytes of each.
constexpr int64_t kPackRows = 64;
constexpr int64_t kPackPanels = 4;

constexpr int64_t kHugePage = 2 << 20;

constexpr int64_t pieces(int64_t n, int64_t piece) {
  return (n + piece - 1) / piece;
}

// Rows of the matrix stay in L2 between its two operands: 384 KB at D = 3072.
template <typename Real>
void pack_tokens(TrainContext<Real>& ctx, const Real* x, int64_t ldx, int64_t T, int64_t D, std::byte* rows,
                 std::byte* columns, bool columns_left) {
  ctx.for_pieces(T, kOperandK, [&](int64_t begin, int64_t end, int64_t, int) {
    ctx.kernels.pack_both(ctx.precision, x + begin * ldx, ldx, begin, end - begin, T, D, rows, columns, columns_left);
  });
}

}  // namespace

Arena::~Arena() {
  std::free(data_);
}

std::byte* Arena::take_bytes(int64_t bytes) {
  CHECK(bytes >= 0);
  const int64_t at = used_;
  used_ += pieces(bytes, 64) * 64;
  peak_ = std::max(peak_, used_);
  if (data_ == nullptr) return reinterpret_cast<std::byte*>(64 + at);  // told apart from null, read by nobody
  CHECK(used_ <= capacity_);
  return data_ + at;
}

void Arena::reserve(int64_t bytes) {
  CHECK(used_ == 0);
  std::free(data_);
  capacity_ = std::max<int64_t>(pieces(bytes, 64) * 64, 64);
  const int64_t page = capacity_ < kHugePage ? 64 : kHugePage;
  data_ = static_cast<std::byte*>(std::aligned_alloc(page, pieces(capacity_, page) * page));
  CHECK(data_ != nullptr);
  if (page == kHugePage)
    madvise(data_, pieces(capacity_, page) * page, MADV_HUGEPAGE);  // not being granted is no error
}

template <typename Real>
int64_t left_bytes(Precision p, int64_t M, int64_t K) {
  return M * left_row_bytes<Real>(p, K);
}

template <typename Real>
int64_t right_bytes(Precision p, int64_t K, int64_t N) {
  return pieces(N, kPanelN) * right_panel_bytes<Real>(p, K);
}

template <typename Real>
LeftOperand pack_left(TrainContext<Real>& ctx, const Real* x, int64_t ldx, int64_t M, int64_t K, bool transposed,
                      std::byte* to) {
  if (to == nullptr) to = ctx.arena.template take<std::byte>(left_bytes<Real>(ctx.precision, M, K));
  ctx.for_pieces(M, kPackRows, [&](int64_t begin, int64_t end, int64_t, int) {
    ctx.kernels.pack_left(ctx.precision, x, ldx, transposed, begin, end - begin, K, to);
  });
  return {to, M, K, left_row_bytes<Real>(ctx.precision, K)};
}

template <typename Real>
RightOperand pack_right(TrainContext<Real>& ctx, const Real* x, int64_t ldx, int64_t K, int64_t N, bool transposed,
                        std::byte* to) {
  if (to == nullptr) to = ctx.arena.template take<std::byte>(right_bytes<Real>(ctx.precision, K, N));
  ctx.for_pieces(pieces(N, kPanelN), kPackPanels, [&](int64_t begin, int64_t end, int64_t, int) {
    ctx.kernels.pack_right(ctx.precision, x, ldx, transposed, begin, end - begin, K, N, to);
  });
  return {to, K, N, right_panel_bytes<Real>(ctx.precision, K)};
}

template <typename Real>
InputOperands pack_input(TrainContext<Real>& ctx, const Real* x, int64_t ldx, int64_t T, int64_t D, std::byte* rows,
                         std::byte* columns) {
  const Precision p = ctx.precision;
  if (columns == nullptr) columns = ctx.arena.template take<std::byte>(right_bytes<Real>(p, T, D));
  if (rows == nullptr) rows = ctx.arena.template take<std::byte>(left_bytes<Real>(p, T, D));
  pack_tokens(ctx, x, ldx, T, D, rows, columns, false);
  return {{rows, T, D, left_row_bytes<Real>(p, D)}, {columns, T, D, right_panel_bytes<Real>(p, T)}};
}

template <typename Real>
GradOperands pack_grad(TrainContext<Real>& ctx, const Real* dy, int64_t ldy, int64_t T, int64_t D, std::byte* rows,
                       std::byte* columns) {
  const Precision p = ctx.precision;
  if (columns == nullptr) columns = ctx.arena.template take<std::byte>(left_bytes<Real>(p, D, T));
  if (rows == nullptr) rows = ctx.arena.template take<std::byte>(left_bytes<Real>(p, T, D));
  pack_tokens(ctx, dy, ldy, T, D, rows, columns, true);
  return {{rows, T, D, left_row_bytes<Real>(p, D)}, {columns, D, T, left_row_bytes<Real>(p, T)}};
}

template <typename Real>
void multiply(TrainContext<Real>& ctx, std::span<const Product<Real>> products) {
  if (ctx.planning) return;
  int64_t tasks = 0, operations = 0;
  for (const Product<Real>& p : products) {
    CHECK(p.a.K == p.b.K && p.b.panel_bytes > 0);
    tasks += pieces(p.a.M, kTaskRows) * pieces(pieces(p.b.N, kPanelN), kTaskPanels);
    operations += 2 * p.a.M * p.b.N * p.a.K;
  }
  if (ctx.profile != nullptr) ctx.profile->count({0, 0, operations});
  ctx.pool.for_each_chunk(tasks, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t task = begin; task < end; ++task) {
      int64_t index = task;
      size_t i = 0;
      int64_t columns = 0;
      for (;; ++i) {
        columns = pieces(pieces(products[i].b.N, kPanelN), kTaskPanels);
        const int64_t own = pieces(products[i].a.M, kTaskRows) * columns;
        if (index < own) break;
        index -= own;
      }
      const Product<Real>& p = products[i];
      const int64_t row = index / columns * kTaskRows, panel = index % columns * kTaskPanels;
      ctx.kernels.multiply(ctx.precision, p, row, std::min(kTaskRows, p.a.M - row), panel,
                           std::min(kTaskPanels, pieces(p.b.N, kPanelN) - panel));
    }
  });
}

#define WESTLAKE_FOR_REAL(Real)                                                                                    \
  template int64_t left_bytes<Real>(Precision, int64_t, int64_t);                                                  \
  template int64_t right_bytes<Real>(Precision, int64_t, int64_t);                                                 \
  template LeftOperand pack_left(TrainContext<Real>&, const Real*, int64_t, int64_t, int64_t, bool, std::byte*);   \
  template RightOperand pack_right(TrainContext<Real>&, const Real*, int64_t, int64_t, int64_t, bool, std::byte*); \
  template InputOperands pack_input(TrainContext<Real>&, const Real*, int64_t, int64_t, int64_t, std::byte*,       \
                                    std::byte*);                                                                   \
  template GradOperands pack_grad(TrainContext<Real>&, const Real*, int64_t, int64_t, int64_t, std::byte*,         \
                                  std::byte*);                                                                     \
  template void multiply(TrainContext<Real>&, std::span<const Product<Real>>);
WESTLAKE_FOR_REAL(float)
WESTLAKE_FOR_REAL(double)
#undef WESTLAKE_FOR_REAL

}  // namespace westlake
