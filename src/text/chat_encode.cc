// Segments apart.
#include "text/chat_encode.h"

namespace westlake {

std::vector<int32_t> encode_segments(const Tokenizer& tokenizer, std::span<const ChatSegment> segments) {
  std::vector<int32_t> ids;
  for (const ChatSegment& segment : segments) {
    EncodeOptions options;
    options.parse_added_tokens = segment.origin == Origin::kTemplate;
    tokenizer.encode(segment.text, options, ids);
  }
  return ids;
}

}  // namespace westlake
