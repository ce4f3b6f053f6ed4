#include "westlake/energy.h"

#include <cstdlib>
#include <filesystem>

#include "base/file.h"

namespace westlake {
namespace {

// 0: not readable.
uint64_t read_number(const std::string& path) {
  const Result<std::string> text = read_file(path, 64);
  return text.ok() ? std::strtoull(text->c_str(), nullptr, 10) : 0;
}

}  // namespace

EnergyMeter::EnergyMeter() {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/sys/class/powercap", error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("intel-rapl:") || name.find(':') != name.rfind(':')) continue;  // packages, not their parts
    const std::string path = entry.path().string() + "/energy_uj";
    const uint64_t now = read_number(path);
    if (now > 0) counters_.push_back({path, now, read_number(entry.path().string() + "/max_energy_range_uj")});
  }
}

double EnergyMeter::joules() const {
  double sum = 0;
  for (const Counter& c : counters_) {
    const uint64_t now = read_number(c.path);
    sum += static_cast<double>(now >= c.start_uj ? now - c.start_uj : now + c.range_uj - c.start_uj) * 1e-6;
  }
  return sum;
}

}  // namespace westlake
