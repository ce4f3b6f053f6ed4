// Conversations as documents to learn answers from: the model's own chat template, and which tokens are the answers'.
// Idea: the template is not understood, it is asked. Rendered up to an answer, with what invites the assistant to
// speak, it gives the context; rendered with the answer, it must give the same tokens and more: these are the answer,
// up to the token that ends its turn, and they alone are targets. A template that writes earlier answers differently
// once the conversation has gone on (without their reasoning) makes a document of each, as the model will see it.
// A line is {"messages": [{"role": "user", "content": "..."}, ...], "tools": [...]}.
// Source: Hugging Face transformers, apply_chat_template and its conversational data sets.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/thread_pool.h"
#include "model/text_bundle.h"
#include "train/token_cache.h"

namespace westlake {

// Appends the documents of one line to `pieces`: ids with kContextOnly on all but the assistant's. What follows the
// last answer is left out. An answer that the template leaves without an end gets the tokenizer's eos. Errors, opened
// by `place`: kCorrupt for JSON that is no conversation, kInvalidArgument for one without an answer and for a template
// that does not continue its own prompt.
Status add_conversation(const TextBundle& bundle, std::string_view line, std::string_view place,
                        std::vector<TokenPiece>* pieces);

// As open_tokens. Requires: bundle has a template. Errors besides: those of add_conversation with file and line.
Result<TokenStore> open_conversations(ThreadPool& pool, const TextBundle& bundle, const std::vector<std::string>& files,
                                      const std::string& folder, const TokenizeProgress& progress = {});

}  // namespace westlake
