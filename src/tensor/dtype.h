// Element types of tensors, as files hold them: plain numbers and blocks of quantised weights.
// Source: safetensors (names F32, BF16, F8_E4M3, F8_E8M0 ...) and ggml's block formats (Q4_0 ... IQ4_XS); the layouts
// of the blocks stand in blocks.h.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace westlake {

enum class DType : uint8_t {
  kF32, kF16, kBF16, kF8E4M3, kF8E8M0,  // numbers (E8M0: a power of two, only as a scale)
  kI8, kI32, kI64, kU8,                 // integers: token ids, flags; never weights
  kQ4_0, kQ4_1, kQ5_0, kQ5_1, kQ8_0,    // blocks of 32
  kQ2_K, kQ3_K, kQ4_K, kQ5_K, kQ6_K,    // superblocks of 256
  kIQ4_NL,                              // blocks of 32 over a table of 16 values
  kIQ4_XS,                              // superblocks of 256 over the same table
  kCount,
};

struct DTypeInfo {
  std::string_view name;  // lower case, as in --quant: "q4_k"
  int block_elements;     // elements that share a block; 1 for plain numbers
  int block_bytes;        // bytes of one block
};

const DTypeInfo& dtype_info(DType dtype);
inline std::string_view dtype_name(DType dtype) { return dtype_info(dtype).name; }
std::optional<DType> dtype_from_name(std::string_view name);

inline bool is_quantised(DType dtype) { return dtype_info(dtype).block_elements > 1; }

// Bytes of `elements` numbers in a row. Requires: elements is a multiple of the block.
inline int64_t dtype_bytes(DType dtype, int64_t elements) {
  const DTypeInfo& info = dtype_info(dtype);
  return elements / info.block_elements * info.block_bytes;
}

}  // namespace westlake
