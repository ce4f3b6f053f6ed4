// The table of a file's tensors: names in file order, found by name in constant time.
// Idea: every reader of this room ends in one of these; what a model asks for is find(name). The overflow-safe size and
// the quoting of names from files stand here too, because each reader needs both.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "tensor/view.h"

namespace westlake {

struct NamedTensor {
  std::string name;
  TensorView view;  // the bytes belong to the file's reader
};

// What a writer is told before it gets the bytes.
struct TensorSpec {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;  // outermost first
};

// Owns: names and shapes, not the tensors' bytes. Movable, not copyable.
class TensorTable {
 public:
  // Keeps the order given. Errors: kCorrupt when a name occurs twice.
  static Result<TensorTable> build(std::vector<NamedTensor> tensors, std::string_view place);

  TensorTable() = default;
  TensorTable(TensorTable&&) = default;
  TensorTable& operator=(TensorTable&&) = default;
  TensorTable(const TensorTable&) = delete;
  TensorTable& operator=(const TensorTable&) = delete;

  // Null when there is none of that name.
  const TensorView* find(std::string_view name) const;
  const std::vector<NamedTensor>& all() const { return tensors_; }

 private:
  std::vector<NamedTensor> tensors_;
  std::unordered_map<std::string_view, size_t> index_;  // views of the names in tensors_
};

// Bytes of a tensor of that shape. Nothing when an extent is negative, a product leaves int64_t, or the last extent is
// no whole number of blocks; afterwards TensorView::elements() is safe.
std::optional<int64_t> tensor_bytes(DType dtype, const std::vector<int64_t>& shape);

// A name out of a file for a message: in single quotes, shortened, control characters replaced.
std::string quote_name(std::string_view name);

}  // namespace westlake
