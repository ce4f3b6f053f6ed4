// libFuzzer: config.json.
#include <cstddef>
#include <cstdint>

#include "model/config_fuzz_body.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  westlake::fuzz_config({reinterpret_cast<const char*>(data), size});
  return 0;
}
