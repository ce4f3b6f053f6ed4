// Panels: quantised rows side by side, the order in which the kernels read them.
//
// Idea: a kernel works on sixteen rows at once, one row a lane. In a file the rows lie one after the other, so that the
// kernel gathers sixteen streams and transposes them in registers for every token. A panel holds the same bytes,
// sixteen rows together, transposed once: four bytes of each row make a line of 64 bytes, and the lines of a panel are
// read in order, one stream, each byte once.
//
//   rows      row 0: unit 0, unit 1 ..   row 1: unit 0, ..          a unit: one block of the format (blocks.h)
//   panel     unit 0: 16 halves, line 0, line 1 ..   unit 1: ..
//             halves: the lone half-precision scale of row 0, of row 1, .. of row 15, for the formats that have one and
//                     are therefore not a whole number of words
//             line i: bytes [4i, 4i + 4) of what is left of row 0, of row 1, .. of row 15
//
// A panel takes exactly the bytes of its rows, so panel p of a matrix is at the address of row 16 p.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tensor/view.h"

namespace westlake {

inline constexpr int64_t kPanelRows = 16;

// Where in a unit the lone half-precision scale is, or -1 for formats that are whole words.
constexpr int panel_half_at(DType dtype) {
  switch (dtype) {
    case DType::kQ4_0:
    case DType::kQ5_0:
    case DType::kQ8_0:
    case DType::kIQ4_NL:
      return 0;
    case DType::kQ3_K:
      return 108;
    case DType::kQ6_K:
      return 208;
    default:
      return -1;
  }
}

// True for matrices that can be laid out in panels: quantised, in plain rows, a whole number of panels.
bool can_be_panels(const Mat& w);

// Rows [16 p, 16 p + 16) of `w`, in plain rows, as a panel. out: 16 * row_bytes bytes. Requires: can_be_panels(w).
void write_panel(const Mat& w, int64_t p, std::byte* out);

// Row i of a matrix in panels, as it is in a file. out: row_bytes bytes.
void read_panel_row(const Mat& w, int64_t i, std::byte* out);

}  // namespace westlake
