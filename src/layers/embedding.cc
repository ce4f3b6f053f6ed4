#include "layers/embedding.h"

#include "base/check.h"

namespace westlake {

void embedding_forward(Context& ctx, const Mat& embed_tokens, std::span<const int32_t> tokens, float* x) {
  for (size_t t = 0; t < tokens.size(); ++t) {
    CHECK(tokens[t] >= 0 && tokens[t] < embed_tokens.rows, "token {} of {}", tokens[t], embed_tokens.rows);
    ctx.kernels.dequantise(embed_tokens, tokens[t], x + static_cast<int64_t>(t) * embed_tokens.cols);
  }
}

}  // namespace westlake
