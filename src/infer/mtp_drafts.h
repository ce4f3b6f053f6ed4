// Drafts by a multi-token-prediction module: the layer behind the last, trained to guess one token further.
// Idea: the module's own one-layer cache follows the main model's, one row behind (MtpTrack). For the first draft it
// takes the main model's state and the token just sampled; for each draft after it its own output in place of a state,
// and the draft before. Many sequences go through it together. Source: DeepSeek-V3 report (arXiv 2412.19437) 2.2; the
// module fed with itself: Li et al., "EAGLE", 2024.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "infer/sequence.h"
#include "kernels/context.h"
#include "model/model.h"

namespace westlake {

struct DraftRequest {
  Sequence* sequence = nullptr;  // with an MTP track
  int32_t next = 0;              // the token behind sequence->tokens()
  int64_t wanted = 0;            // drafts
  std::vector<int32_t> drafts;   // the answer: as many as wanted, or none
};

// No drafts for a sequence whose last state is not there any more (it has drafted since its last row), or for which the
// cache has no pages left. Requires: the model has a module, every sequence an MTP track.
void mtp_drafts(Context& context, const Model& model, std::span<DraftRequest> requests);

// Computes the rows of which the token after them is in the cache already, once there are some: so the states of a long
// prompt, or of an answer without drafts, need not be kept. Without pages nothing happens.
void mtp_follow(Context& context, const Model& model, Sequence& sequence);

}  // namespace westlake
