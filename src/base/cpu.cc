#include "base/cpu.h"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>

namespace westlake {
namespace {

#if defined(__x86_64__)
// Which states of registers the system saves. Requires: it uses XSAVE.
unsigned xcr0() {
  unsigned low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}
#endif

CpuFeatures detect() {
  CpuFeatures f;
#if defined(__x86_64__)
  __builtin_cpu_init();
  // clang 14 has no word for f16c: CPUID leaf 1, ecx bit 29.
  unsigned leaf = 1, unused = 0, leaf1_ecx = 0, leaf1_edx = 0;
  __asm__ volatile("cpuid" : "+a"(leaf), "=b"(unused), "+c"(leaf1_ecx), "=d"(leaf1_edx));
  const bool f16c = (leaf1_ecx >> 29) & 1;
  f.avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && f16c;
  f.avx512 = f.avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("avx512cd");
  f.avx512_vnni = f.avx512 && __builtin_cpu_supports("avx512vnni");
  f.avx512_vbmi = f.avx512 && __builtin_cpu_supports("avx512vbmi");
  f.avx512_bf16 = f.avx512 && __builtin_cpu_supports("avx512bf16");
  // Tiles: CPUID leaf 7 says that the units are there, XCR0 that the system saves their state (bit 17: the
  // configuration, 18: the tiles), and the kernel must grant it to the process (ARCH_REQ_XCOMP_PERM, feature 18), once
  // for all threads.
  unsigned eax = 7, ebx = 0, ecx = 0, edx = 0;
  __asm__ volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
  constexpr unsigned kTileState = 3u << 17;
  const bool xsave = (leaf1_ecx >> 27) & 1;  // the system uses it, so that XCR0 can be read
  if (((edx >> 24) & 1) && xsave && (xcr0() & kTileState) == kTileState) {
    constexpr long kArchReqXcompPerm = 0x1023, kXfeatureXtiledata = 18;
    f.amx_tile = syscall(SYS_arch_prctl, kArchReqXcompPerm, kXfeatureXtiledata) == 0;
    f.amx_bf16 = f.amx_tile && ((edx >> 22) & 1);
    f.amx_int8 = f.amx_tile && ((edx >> 25) & 1);
  }
#endif
  return f;
}

uint64_t meminfo_bytes(const char* key) {
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind(key, 0) == 0) return std::strtoull(line.c_str() + std::strlen(key), nullptr, 10) * 1024;
  }
  return 0;
}

}  // namespace

const CpuFeatures& cpu_features() {
  static const CpuFeatures features = detect();
  return features;
}

std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "unknown processor";
}

uint64_t total_memory_bytes() {
  return meminfo_bytes("MemTotal:");
}
uint64_t available_memory_bytes() {
  return meminfo_bytes("MemAvailable:");
}

uint64_t peak_rss_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<uint64_t>(usage.ru_maxrss) * 1024;
}

}  // namespace westlake
