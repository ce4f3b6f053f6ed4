#include "tensor/panels.h"

#include <cstring>

#include "base/check.h"

namespace westlake {
namespace {

constexpr int64_t kWord = 4, kHalf = 2, kLine = kPanelRows * kWord;

// Calls f(offset in the row, offset of row 0's piece in the panel, bytes of the piece, distance of rows in the panel)
// for every piece of a row.
template <typename F>
void for_each_piece(const Mat& w, F&& f) {
  const int64_t unit = dtype_info(w.dtype).block_bytes, units = w.row_bytes / unit;
  const int64_t half_at = panel_half_at(w.dtype), halves = half_at < 0 ? 0 : kPanelRows * kHalf;
  for (int64_t u = 0; u < units; ++u) {
    const int64_t row = u * unit, panel = u * unit * kPanelRows;  // where the unit begins
    if (half_at >= 0) f(row + half_at, panel, kHalf, kHalf);
    for (int64_t i = 0; i < unit / kWord; ++i)
      f(row + i * kWord + (half_at == 0 ? kHalf : 0), panel + halves + i * kLine, kWord, kWord);
  }
}

}  // namespace

bool can_be_panels(const Mat& w) {
  return w && w.layout == MatLayout::kRows && is_quantised(w.dtype) && w.rows % kPanelRows == 0 && w.rows > 0 &&
         w.row_bytes == dtype_bytes(w.dtype, w.cols);
}

void write_panel(const Mat& w, int64_t p, std::byte* out) {
  CHECK(can_be_panels(w), "[{}, {}] of {}", w.rows, w.cols, dtype_name(w.dtype));
  const std::byte* rows = w.row(p * kPanelRows);
  for_each_piece(w, [&](int64_t in_row, int64_t in_panel, int64_t bytes, int64_t distance) {
    const std::byte* from = rows + in_row;
    std::byte* to = out + in_panel;
    if (bytes == kWord) {
      for (int64_t r = 0; r < kPanelRows; ++r) std::memcpy(to + r * distance, from + r * w.row_bytes, kWord);
    } else {
      for (int64_t r = 0; r < kPanelRows; ++r) std::memcpy(to + r * distance, from + r * w.row_bytes, kHalf);
    }
  });
}

void read_panel_row(const Mat& w, int64_t i, std::byte* out) {
  CHECK(w.layout == MatLayout::kPanels && i >= 0 && i < w.rows, "row {} of {}", i, w.rows);
  const std::byte* panel = w.row(i / kPanelRows * kPanelRows);
  for_each_piece(w, [&](int64_t in_row, int64_t in_panel, int64_t bytes, int64_t distance) {
    std::memcpy(out + in_row, panel + in_panel + i % kPanelRows * distance, static_cast<size_t>(bytes));
  });
}

}  // namespace westlake
