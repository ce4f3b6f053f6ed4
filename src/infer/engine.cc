#include "infer/engine.h"

#include <algorithm>

#include "base/clock.h"
#include "infer/mtp_drafts.h"
#include "infer/session.h"

namespace westlake {
namespace {

Status check_positive(const char* name, int64_t value) {
  if (value >= 1) return {};
  return make_error(Code::kInvalidArgument, "{} is {}, expected at least 1", name, value);
}

}  // namespace

// ------------------------------------------------------------------------------------------------------- coming, going

Engine::Engine(Context& context, const Model& model, EngineOptions options, std::unique_ptr<Scheduler> scheduler)
    : ctx_(&context),
      model_(&model),
      options_(std::move(options)),
      scheduler_(scheduler ? std::move(scheduler) : std::make_unique<FairScheduler>()),
      pools_(std::make_unique<CachePools>(model, options_.speculation.kind == Speculation::kMtp,
                                          options_.cache_limit_bytes)) {}

Result<Engine> Engine::create(Context& context, const Model& model, EngineOptions options,
                              std::unique_ptr<Scheduler> scheduler) {
  TRY_ASSIGN(options.context, checked_context(model.config(), options.context));
  TRY(check_positive("max_sequences", options.max_sequences));
  TRY(check_positive("prompt_tokens", options.prompt_tokens));
  TRY(check_positive("prompt_tokens_beside_answers", options.prompt_tokens_beside_answers));
  if (options.cache_limit_bytes < 0)
    return make_error(Code::kInvalidArgument, "a cache limit of {} bytes", options.cache_limit_bytes);
  TRY(check_speculation(options.speculation, model));
  return Engine(context, model, std::move(options), std::move(scheduler));
}

int64_t Engine::Request::prompt_left() const {
  return std::max<int64_t>(0, static_cast<int64_t>(prompt.size()) - sequence->length());
}

Result<SequenceId> Engine::submit(std::span<const int32_t> prompt, const GenerateOptions& options,
                                  const Tokenizer* tokenizer, int64_t tag) {
  const auto n = static_cast<int64_t>(prompt.size());
  const int64_t V = model_->config().vocab_size;
  if (n == 0) return make_error(Code::kInvalidArgument, "the prompt is empty: nothing to continue");
  TRY(check_prompt(prompt, V));
  if (n > context()) return make_error(Code::kExhausted, "prompt is {} tokens, context {}", n, context());
  TRY_ASSIGN(Answer answer, Answer::create(options, prompt, context(), V, tokenizer));
  auto request = std::make_unique<Request>(last_id_ + 1, tag, prompt, std::move(answer));
  // The last token of an answer needs no place.
  const int64_t left = request->answer.tokens_left(), positions = n + std::max<int64_t>(left - 1, 0);
  request->pages = (positions + kPageTokens - 1) / kPageTokens;
  if (options_.cache_limit_bytes > 0 && request->pages > pools_->most_pages()) {
    return make_error(Code::kExhausted,
                      "a prompt of {} tokens and an answer of up to {} need {} positions of cache, there are {}. Hint: "
                      "a smaller max_tokens, a shorter prompt, or a higher limit",
                      n, left, positions, pools_->most_pages() * kPageTokens);
  }
  waiting_.push_back(std::move(request));
  return ++last_id_;
}

bool Engine::cancel(SequenceId id) {
  if (std::erase_if(waiting_, [&](const auto& r) { return r->id == id; }) > 0) return true;
  const auto found = std::find_if(running_.begin(), running_.end(), [&](const auto& r) { return r->id == id; });
  if (found == running_.end()) return false;
  pages_set_aside_ -= (*found)->pages;
  running_.erase(found);
  return true;
}

// The request's last event: the one it has, or one more.
void Engine::end(Request& request, StepResult* result) {
  std::vector<SequenceEvent>& events = request.events;
  if (events.empty() || request.error) events.push_back({.id = request.id});
  SequenceEvent& last = events.back();
  if (request.error) {
    last.error = std::move(request.error);
  } else {
    GenerateStats& stats = request.answer.generated().stats;
    if (!request.answer.generated().ids.empty()) stats.decode_s = seconds_since(request.begin_ns);
    last.finish = request.answer.generated().finish_reason;
    last.stats = stats;
  }
  std::move(events.begin(), events.end(), std::back_inserter(result->events));
  events.clear();
}

void Engine::hear_cancels(StepResult* result) {
  auto heard = [&](const std::unique_ptr<Request>& r) {
    if (!r->answer.cancelled()) return false;
    r->answer.finish(FinishReason::kCancelled, [&](int32_t token, std::string_view text) {
      r->events.push_back({.id = r->id, .token = token, .text = std::string(text)});
    });
    end(*r, result);
    pages_set_aside_ -= r->sequence ? r->pages : 0;
    return true;
  };
  std::erase_if(running_, heard);
  std::erase_if(waiting_, heard);
}

void Engine::admit(StepResult* result) {
  std::vector<SequenceLoad> loads;
  while (!waiting_.empty() && static_cast<int64_t>(running_.size()) < options_.max_sequences) {
    loads.clear();
    for (const auto& r : waiting_) loads.push_back(r->load());
    const size_t chosen = scheduler_->next(loads);
    CHECK(chosen < waiting_.size(), "{} of {} that wait", chosen, waiting_.size());
    Request& request = *waiting_[chosen];
    if (options_.cache_limit_bytes > 0 && pages_set_aside_ + request.pages > pools_->most_pages()) return;
    std::unique_ptr<Request> admitted = std::move(waiting_[chosen]);
    waiting_.erase(waiting_.begin() + static_cast<ptrdiff_t>(chosen));
    if (admitted->answer.finished()) {  // no tokens were asked for
      end(*admitted, result);
      continue;
    }
    pages_set_aside_ += admitted->pages;
    admitted->sequence = std::make_unique<Sequence>(*model_, *pools_);
    admitted->begin_ns = now_ns();
    running_.push_back(std::move(admitted));
  }
}

void Engine::retire(StepResult* result) {
  std::erase_if(running_, [&](const std::unique_ptr<Request>& r) {
    if (!r->error && !r->answer.finished()) {
      std::move(r->events.begin(), r->events.end(), std::back_inserter(result->events));
      r->events.clear();
      return false;
    }
    end(*r, result);
    pages_set_aside_ -= r->pages;
    return true;
  });
}

// -------------------------------------------------------------------------------------------------------------- a step

StepResult Engine::step() {
  const int64_t begin_ns = now_ns();
  StepResult result;
  hear_cancels(&result);
  admit(&result);
  result.cost.running = static_cast<int64_t>(running_.size());
  plan();
  draft();
  const std::vector<Segment> segments = lay_out();
  if (!segments.empty()) {
    const int64_t forward_ns = now_ns();
    model_->forward(*ctx_, segments, kPageTokens, logits_.data(), pools_->mtp ? normed_.data() : nullptr);
    const double seconds = seconds_since(forward_ns);
    settle(&result);
    if (result.cost.prompt_tokens == 0) times_.add(result.cost.decode_tokens, seconds);
  }
  retire(&result);
  StepCost& cost = result.cost;
  cost.waiting = static_cast<int64_t>(waiting_.size());
  cost.used_pages = pools_->model->used_pages();
  cost.free_pages = options_.cache_limit_bytes > 0 ? pools_->most_pages() - cost.used_pages : -1;
  cost.kv_bytes = cost.used_pages * pools_->model->page_bytes();
  if (pools_->mtp) cost.kv_bytes += pools_->mtp->used_pages() * pools_->mtp->page_bytes();
  cost.seconds = seconds_since(begin_ns);
  return result;
}

// How much of the step each gets.
void Engine::plan() {
  std::vector<SequenceLoad> loads;
  std::vector<int64_t> shares(running_.size());
  bool writing = false;
  for (const auto& r : running_) {
    loads.push_back(r->load());
    writing = writing || loads.back().prompt_left == 0;
  }
  if (running_.empty()) return;
  scheduler_->share(loads, writing ? options_.prompt_tokens_beside_answers : options_.prompt_tokens, shares);
  for (size_t i = 0; i < running_.size(); ++i)
    running_[i]->share = prompt_piece(std::max<int64_t>(loads[i].prompt_left, 1), std::max<int64_t>(shares[i], 0));
}

// Guesses for those that write, as many as pay in this batch.
void Engine::draft() {
  std::vector<Request*> writers;
  for (const auto& r : running_) {
    r->drafts.clear();
    if (r->share > 0 && r->prompt_left() == 0) writers.push_back(r.get());
  }
  const auto n = static_cast<int64_t>(writers.size());
  StepEstimate step{times_.seconds(n), static_cast<double>(n)};
  std::vector<DraftRequest> requests;
  std::vector<Request*> askers;
  for (Request* r : writers) {
    // The last row must have a place, and its logits a token that may still come.
    const int64_t most = std::min(r->answer.tokens_left(), context() - r->sequence->length()) - 1;
    const int64_t wanted = r->governor.decide(times_, options_.speculation, most, &step);
    if (wanted == 0) continue;
    if (!pools_->mtp) {
      r->drafts = lookup_drafts(r->sequence->tokens(), r->answer.next(), wanted);
    } else {
      requests.push_back({r->sequence.get(), r->answer.next(), wanted, {}});
      askers.push_back(r);
    }
  }
  if (requests.empty()) return;
  const int64_t begin_ns = now_ns();
  mtp_drafts(*ctx_, *model_, requests);
  int64_t drafted = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    drafted += static_cast<int64_t>(requests[i].drafts.size());
    askers[i]->drafts = std::move(requests[i].drafts);
  }
  times_.add_drafting(drafted, seconds_since(begin_ns));
}

// Adds a request's rows to the batch: the last token and its drafts, or the next piece of the prompt.
void Engine::add_part(Request& request, std::vector<Segment>* segments) {
  Part part{.request = &request};
  Result<Segment> segment = make_error(Code::kInvalidArgument, "no rows");
  if (request.prompt_left() == 0) {
    std::vector<int32_t> rows = {request.answer.next()};
    rows.insert(rows.end(), request.drafts.begin(), request.drafts.end());
    part.rows = part.logits = static_cast<int64_t>(rows.size());
    segment = request.sequence->extend(rows, MlaForm::kAbsorbed, 0);
  } else {
    const auto rows = std::span<const int32_t>(request.prompt)
                          .subspan(static_cast<size_t>(request.sequence->length()), static_cast<size_t>(request.share));
    part.rows = request.share;
    part.logits = request.share == request.prompt_left() ? 1 : 0;
    segment = request.sequence->extend(rows, model_->prompt_form(static_cast<int64_t>(request.prompt.size())),
                                       part.rows - part.logits);
  }
  if (!segment.ok()) {
    request.error = segment.error();
    return;
  }
  if (!parts_.empty()) {
    part.first_row = parts_.back().first_row + parts_.back().rows;
    part.first_logits = parts_.back().first_logits + parts_.back().logits;
  }
  parts_.push_back(part);
  segments->push_back(*segment);
}

// The batch: answers first, so that their absorbed segments stand together.
std::vector<Segment> Engine::lay_out() {
  std::vector<Segment> segments;
  parts_.clear();
  for (const bool writing : {true, false}) {
    for (const auto& r : running_) {
      if (r->share > 0 && (r->prompt_left() == 0) == writing) add_part(*r, &segments);
    }
  }
  if (parts_.empty()) return segments;
  const Part& last = parts_.back();
  const ModelConfig& c = model_->config();
  logits_.resize(static_cast<size_t>((last.first_logits + last.logits) * c.vocab_size));
  if (pools_->mtp) normed_.resize(static_cast<size_t>((last.first_row + last.rows) * c.hidden_size));
  return segments;
}

// Samples from a part's logits. Touches nothing that another part does: threads share the parts.
void Engine::verify(Part& part) {
  Request& r = *part.request;
  if (part.logits == 0) return;
  const auto V = static_cast<size_t>(model_->config().vocab_size);
  const auto rows = std::span<const float>(logits_).subspan(static_cast<size_t>(part.first_logits) * V,
                                                            static_cast<size_t>(part.logits) * V);
  const Result<int64_t> right = r.answer.verify(r.drafts, rows, [&](int32_t token, std::string_view text) {
    r.events.push_back({.id = r.id, .token = token, .text = std::string(text)});
  });
  if (right.ok()) {
    part.right = *right;
  } else {
    r.error = right.error();
  }
}

// Puts the rows that hold into the sequence.
void Engine::keep(Part& part, StepCost* cost) {
  Request& r = *part.request;
  const bool prompt = r.prompt_left() > 0;
  const auto drafted = static_cast<int64_t>(r.drafts.size());
  (prompt ? cost->prompt_tokens : cost->decode_tokens) += part.rows;
  cost->drafted_tokens += drafted;
  cost->accepted_tokens += part.right;
  r.governor.add(drafted, part.right);
  if (options_.on_logits && part.logits > 0 && !r.error) {
    const auto V = static_cast<size_t>(model_->config().vocab_size);
    for (int64_t i = 0; i <= part.right; ++i) {
      const auto row = static_cast<size_t>(part.first_logits + i) * V;
      options_.on_logits(r.id, r.sequence->length() + part.rows - part.logits + i, {logits_.data() + row, V});
    }
  }
  if (prompt && part.logits > 0) {
    r.answer.generated().stats.prefill_s = seconds_since(r.begin_ns);
    r.begin_ns = now_ns();
  }
  if (r.error || r.answer.finished()) return;
  const int64_t D = model_->config().hidden_size;
  r.sequence->keep(prompt ? part.rows : 1 + part.right, pools_->mtp ? normed_.data() + part.first_row * D : nullptr);
  if (pools_->mtp) mtp_follow(*ctx_, *model_, *r.sequence);
}

void Engine::settle(StepResult* result) {
  const auto n = static_cast<int64_t>(parts_.size());
  ctx_->pool.for_each_chunk(n, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) verify(parts_[static_cast<size_t>(i)]);
  });
  for (Part& part : parts_) keep(part, &result->cost);
}

}  // namespace westlake
