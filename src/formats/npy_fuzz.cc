// libFuzzer target; see fuzz_bodies.h.
#include "formats/fuzz_bodies.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  westlake::fuzz_npy({reinterpret_cast<const std::byte*>(data), size});
  return 0;
}
