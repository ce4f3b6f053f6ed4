// Progress: one line on stderr for long work, with rate and time left. Silent when stderr is not a terminal.
#pragma once

#include <cstdint>
#include <string>

namespace westlake {

class Progress {
 public:
  // `total` in `unit` ("bytes" are shown as MB); 0 when not known. `already` was done before: it is no part of the rate.
  Progress(std::string label, uint64_t total, std::string unit, uint64_t already = 0);
  ~Progress();  // ends the line
  void update(uint64_t done);

 private:
  std::string label_, unit_;
  uint64_t total_, already_;
  int64_t start_ns_, last_ns_ = 0;
  bool shown_ = false, terminal_;
};

// "1.50 GB", "312 MB": decimal units.
std::string human_bytes(uint64_t bytes);

}  // namespace westlake
