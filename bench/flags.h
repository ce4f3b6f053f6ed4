// The command line of the programs that time kernels: [--isa NAME] [--threads N] [--seconds S] [WORD...]; only cases
// whose names have all the words are timed.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "base/thread_pool.h"

namespace westlake {

struct Options {
  std::string_view isa;
  int threads = hardware_threads();
  double seconds = 0.3;  // of a line
  std::vector<std::string_view> words;
};

inline Options parse_flags(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string_view arg = argv[i];
    const bool more = i + 1 < argc;
    if (arg == "--isa" && more) {
      options.isa = argv[++i];
    } else if (arg == "--threads" && more) {
      options.threads = std::clamp(std::atoi(argv[++i]), 1, 1024);
    } else if (arg == "--seconds" && more) {
      options.seconds = std::atof(argv[++i]);
    } else {
      options.words.push_back(arg);
    }
  }
  return options;
}

}  // namespace westlake
