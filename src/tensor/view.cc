#include "tensor/view.h"

#include <fmt/ranges.h>

#include "base/check.h"

namespace westlake {

std::string shape_text(const std::vector<int64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

Mat matrix_of(const TensorView& view) {
  CHECK(view.shape.size() == 2, "{} is no matrix", shape_text(view.shape));
  CHECK(view.shape[1] % dtype_info(view.dtype).block_elements == 0, "{} in {}", shape_text(view.shape),
        dtype_name(view.dtype));
  Mat mat;
  mat.dtype = view.dtype;
  mat.rows = view.shape[0];
  mat.cols = view.shape[1];
  mat.data = view.data;
  mat.row_bytes = dtype_bytes(view.dtype, mat.cols);
  return mat;
}

}  // namespace westlake
