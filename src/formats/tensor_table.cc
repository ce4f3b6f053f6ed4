#include "formats/tensor_table.h"

#include <utility>

namespace westlake {

Result<TensorTable> TensorTable::build(std::vector<NamedTensor> tensors, std::string_view place) {
  TensorTable table;
  table.tensors_ = std::move(tensors);
  table.index_.reserve(table.tensors_.size());
  for (size_t i = 0; i < table.tensors_.size(); ++i) {
    const std::string& name = table.tensors_[i].name;
    if (!table.index_.emplace(name, i).second)
      return make_error(Code::kCorrupt, "{}: tensor {} occurs twice, expected each name once", place, quote_name(name));
  }
  return table;
}

const TensorView* TensorTable::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second].view;
}

std::optional<int64_t> tensor_bytes(DType dtype, const std::vector<int64_t>& shape) {
  const DTypeInfo& info = dtype_info(dtype);
  int64_t elements = 1;
  for (int64_t extent : shape) {
    if (extent < 0 || __builtin_mul_overflow(elements, extent, &elements)) return std::nullopt;
  }
  const int64_t row = shape.empty() ? 1 : shape.back();
  if (row % info.block_elements != 0) return std::nullopt;
  int64_t bytes = 0;
  if (__builtin_mul_overflow(elements / info.block_elements, int64_t{info.block_bytes}, &bytes)) return std::nullopt;
  return bytes;
}

std::string quote_name(std::string_view name) {
  constexpr size_t kShown = 120;
  std::string out = "'";
  size_t end = name.size();
  if (end > kShown) {
    end = kShown;
    while (end > 0 && (static_cast<unsigned char>(name[end]) & 0xc0) == 0x80) --end;  // not inside a character
  }
  for (char c : name.substr(0, end)) {
    const auto byte = static_cast<unsigned char>(c);
    out += byte < 0x20 || byte == 0x7f ? '?' : c;
  }
  if (end < name.size()) out += "...";
  return out + "'";
}

}  // namespace westlake
