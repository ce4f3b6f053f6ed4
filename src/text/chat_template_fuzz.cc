// libFuzzer: any template over a fixed conversation, or over the one behind "---".
#include <cstddef>
#include <cstdint>

#include "text/chat_template_fuzz_body.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  westlake::fuzz_chat_template({reinterpret_cast<const char*>(data), size});
  return 0;
}
