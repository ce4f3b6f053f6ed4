// What a block keeps while it runs: its scope, and `loop` inside a for block.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "text/jinja_interpreter.h"

namespace westlake {

// What `loop` stands for.
struct JinjaLoop {
  const JinjaStatement* statement = nullptr;
  JinjaScope* outer = nullptr;
  std::shared_ptr<JinjaListBody> source;
  size_t taken = 0;                // items of the source that were looked at
  std::vector<JinjaValue> passed;  // those that the loop's condition let through so far
  size_t index0 = 0;
  std::optional<JinjaValue> changed;
  bool ended = false;  // its items are gone, so that nothing that outlives the loop can hold on to itself
};

// A block's own scope; it moves to the interpreter when a macro has seen it.
class JinjaInterpreter::ScopeOfBlock {
 public:
  ScopeOfBlock(JinjaInterpreter* owner, JinjaScope* parent) : owner_(owner), scope_(std::make_unique<JinjaScope>()) {
    scope_->parent = parent;
  }
  ~ScopeOfBlock() {
    if (scope_->captured) owner_->captured_scopes_.push_back(std::move(scope_));
  }
  JinjaScope& operator*() { return *scope_; }

  // An empty scope for the next round of a loop.
  void renew() {
    if (!scope_->captured) {
      scope_->variables.clear();
      return;
    }
    auto fresh = std::make_unique<JinjaScope>();
    fresh->parent = scope_->parent;
    owner_->captured_scopes_.push_back(std::move(scope_));
    scope_ = std::move(fresh);
  }

 private:
  JinjaInterpreter* owner_;
  std::unique_ptr<JinjaScope> scope_;
};

}  // namespace westlake
