// A rendered conversation as token ids.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace westlake {

// Every segment is encoded alone: added tokens are recognised in the template's segments, content is only text. So a
// message that spells a control token stays a message. Nothing is put in front: templates write their own BOS.
std::vector<int32_t> encode_segments(const Tokenizer& tokenizer, std::span<const ChatSegment> segments);

}  // namespace westlake
