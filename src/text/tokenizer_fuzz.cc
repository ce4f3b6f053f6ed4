// libFuzzer target; see tokenizer_fuzz_body.h.
#include "text/tokenizer_fuzz_body.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  westlake::fuzz_tokenizer({reinterpret_cast<const char*>(data), size});
  return 0;
}
