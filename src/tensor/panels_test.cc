#include "tensor/panels.h"

#include <gtest/gtest.h>

#include <cstring>

#include "base/rng.h"

namespace westlake {
namespace {

constexpr DType kFormats[] = {DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1, DType::kQ8_0,   DType::kQ2_K,
                              DType::kQ3_K, DType::kQ4_K, DType::kQ5_K, DType::kQ6_K, DType::kIQ4_NL, DType::kIQ4_XS};

Mat matrix(DType dtype, int64_t rows, int64_t cols, const std::byte* data) {
  Mat w;
  w.dtype = dtype;
  w.rows = rows;
  w.cols = cols;
  w.data = data;
  w.row_bytes = dtype_bytes(dtype, cols);
  return w;
}

TEST(Panels, RowsComeBackAsTheyWere) {
  Rng rng(1);
  for (DType dtype : kFormats) {
    const int64_t cols = 3 * dtype_info(dtype).block_elements, rows = 2 * kPanelRows;
    std::vector<std::byte> file(static_cast<size_t>(rows * dtype_bytes(dtype, cols))), panels(file.size());
    for (std::byte& b : file) b = static_cast<std::byte>(rng.next() >> 40);
    const Mat w = matrix(dtype, rows, cols, file.data());
    ASSERT_TRUE(can_be_panels(w)) << dtype_name(dtype);
    for (int64_t p = 0; p < rows / kPanelRows; ++p) write_panel(w, p, panels.data() + p * kPanelRows * w.row_bytes);
    Mat in_panels = w;
    in_panels.data = panels.data();
    in_panels.layout = MatLayout::kPanels;
    std::vector<std::byte> row(static_cast<size_t>(w.row_bytes));
    for (int64_t i = 0; i < rows; ++i) {
      read_panel_row(in_panels, i, row.data());
      ASSERT_EQ(std::memcmp(row.data(), w.row(i), row.size()), 0) << dtype_name(dtype) << " row " << i;
    }
    // Panel 1 is at the address of row 16, and its first line holds the same four bytes of sixteen rows.
    const int head = panel_half_at(dtype) == 0 ? 2 : 0, halves = panel_half_at(dtype) >= 0 ? 2 * kPanelRows : 0;
    for (int64_t r = 0; r < kPanelRows; ++r)
      EXPECT_EQ(std::memcmp(in_panels.row(kPanelRows) + halves + 4 * r, w.row(kPanelRows + r) + head, 4), 0);
  }
}

TEST(Panels, OnlyWholePanelsOfQuantisedRows) {
  const std::byte byte{};
  EXPECT_FALSE(can_be_panels(matrix(DType::kQ4_0, 24, 32, &byte)));
  EXPECT_FALSE(can_be_panels(matrix(DType::kBF16, 32, 32, &byte)));
  EXPECT_FALSE(can_be_panels(Mat()));
  Mat already = matrix(DType::kQ4_0, 32, 32, &byte);
  EXPECT_TRUE(can_be_panels(already));
  already.layout = MatLayout::kPanels;
  EXPECT_FALSE(can_be_panels(already));
}

}  // namespace
}  // namespace westlake
