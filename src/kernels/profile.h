// Profile: where the time of a forward pass goes, by the name of the operation.
//
// Idea: timers stand around what the layers do; a timer inside another takes its time away from it, so that the shares
// add up to the whole. Products and attention say what they read and compute, to whichever timer is innermost. Without
// a profile in the Context a timer is one comparison with null. All of it runs on the calling thread: the time of a
// parallel region is the caller's.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "base/clock.h"

namespace westlake {

// What an operation must read from memory and compute at the least. Multiply-adds count as two.
struct OpWork {
  int64_t bytes = 0;      // weights and cached positions, each once
  int64_t int8_ops = 0;   // products of quantised weights with quantised activations
  int64_t float_ops = 0;  // everything else
};

// Not Thread-safe.
class Profile {
 public:
  struct Entry {
    std::string_view name;
    int64_t calls = 0, ns = 0;
    OpWork work;
  };
  // In the order in which the operations first came.
  const std::vector<Entry>& entries() const { return entries_; }
  void clear() { entries_.clear(); }

  // Adds to the innermost timer that is running; nothing when none is.
  void count(const OpWork& work) {
    if (innermost_ < 0) return;
    OpWork& sum = entries_[innermost_].work;
    sum.bytes += work.bytes;
    sum.int8_ops += work.int8_ops;
    sum.float_ops += work.float_ops;
  }

 private:
  friend class OpTimer;
  std::vector<Entry> entries_;
  int64_t innermost_ = -1;  // entry of the running timer
  int64_t since_ns_ = 0;    // time up to here is accounted for

  // The time since the last change belongs to the timer that ran until now; from here on `entry` runs.
  void switch_to(int64_t entry) {
    const int64_t now = now_ns();
    if (innermost_ >= 0) entries_[innermost_].ns += now - since_ns_;
    since_ns_ = now;
    innermost_ = entry;
  }
  int64_t find(std::string_view name) {
    for (size_t i = 0; i < entries_.size(); ++i) {
      if (entries_[i].name == name) return static_cast<int64_t>(i);
    }
    entries_.push_back({name, 0, 0, {}});
    return static_cast<int64_t>(entries_.size()) - 1;
  }
};

// Times its scope. profile may be null. Requires: `name` is a literal.
class OpTimer {
 public:
  OpTimer(Profile* profile, std::string_view name, const OpWork& work = {}) : profile_(profile) {
    if (profile_ == nullptr) return;
    outer_ = profile_->innermost_;
    const int64_t entry = profile_->find(name);
    ++profile_->entries_[entry].calls;
    profile_->switch_to(entry);
    profile_->count(work);
  }
  ~OpTimer() {
    if (profile_ != nullptr) profile_->switch_to(outer_);
  }
  OpTimer(const OpTimer&) = delete;
  OpTimer& operator=(const OpTimer&) = delete;

 private:
  Profile* profile_;
  int64_t outer_ = -1;
};

}  // namespace westlake
