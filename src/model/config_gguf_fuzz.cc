// libFuzzer target: a GGUF as a model.
#include <cstdint>

#include "model/config_gguf_fuzz_body.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  westlake::fuzz_config_gguf({reinterpret_cast<const std::byte*>(data), size});
  return 0;
}
