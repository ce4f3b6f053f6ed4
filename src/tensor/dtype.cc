#include "tensor/dtype.h"

#include <array>

#include "base/check.h"
#include "tensor/blocks.h"

namespace westlake {
namespace {

constexpr std::array<DTypeInfo, static_cast<size_t>(DType::kCount)> kInfo = {{
    {"f32", 1, 4},
    {"f16", 1, 2},
    {"bf16", 1, 2},
    {"f8_e4m3", 1, 1},
    {"f8_e8m0", 1, 1},
    {"i8", 1, 1},
    {"i32", 1, 4},
    {"i64", 1, 8},
    {"u8", 1, 1},
    {"q4_0", 32, sizeof(BlockQ4_0)},
    {"q4_1", 32, sizeof(BlockQ4_1)},
    {"q5_0", 32, sizeof(BlockQ5_0)},
    {"q5_1", 32, sizeof(BlockQ5_1)},
    {"q8_0", 32, sizeof(BlockQ8_0)},
    {"q2_k", 256, sizeof(BlockQ2_K)},
    {"q3_k", 256, sizeof(BlockQ3_K)},
    {"q4_k", 256, sizeof(BlockQ4_K)},
    {"q5_k", 256, sizeof(BlockQ5_K)},
    {"q6_k", 256, sizeof(BlockQ6_K)},
    {"iq4_nl", 32, sizeof(BlockIQ4_NL)},
    {"iq4_xs", 256, sizeof(BlockIQ4_XS)},
}};

}  // namespace

const DTypeInfo& dtype_info(DType dtype) {
  CHECK(dtype < DType::kCount, "dtype {}", static_cast<int>(dtype));
  return kInfo[static_cast<size_t>(dtype)];
}

std::optional<DType> dtype_from_name(std::string_view name) {
  for (size_t i = 0; i < kInfo.size(); ++i) {
    if (kInfo[i].name == name) return static_cast<DType>(i);
  }
  return std::nullopt;
}

}  // namespace westlake
