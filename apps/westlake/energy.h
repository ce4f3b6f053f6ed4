// Energy that the processors' own counters tell, where this process may read them (Linux powercap).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace westlake {

class EnergyMeter {
 public:
  EnergyMeter();
  // Joules of all packages since the meter was made; 0 where there are no counters to read.
  double joules() const;

 private:
  struct Counter {
    std::string path;
    uint64_t start_uj, range_uj;  // range: where the counter begins anew
  };
  std::vector<Counter> counters_;
};

}  // namespace westlake
