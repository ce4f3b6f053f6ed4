// Which levels this machine can run. A level is named, never guessed: the names are those WESTLAKE_ISA takes.
#include "base/cpu.h"
#include "kernels/levels.h"

namespace westlake {

const std::vector<const KernelTable*>& available_kernels() {
  static const std::vector<const KernelTable*> levels = [] {
    std::vector<const KernelTable*> found = {&kRefKernels};
#if defined(__x86_64__)
    const CpuFeatures& cpu = cpu_features();
    if (cpu.avx2) found.push_back(&kAvx2Kernels);
    if (cpu.avx512) found.push_back(&kAvx512Kernels);
    if (cpu.avx512_vnni) found.push_back(&kAvx512VnniKernels);
#endif
    return found;
  }();
  return levels;
}

const KernelTable* kernels_by_name(std::string_view name) {
  const std::vector<const KernelTable*>& levels = available_kernels();
  if (name.empty()) return levels.back();
  for (const KernelTable* level : levels) {
    if (level->name == name) return level;
  }
  return nullptr;
}

std::span<const TrainKernels<float>* const> available_train_kernels() {
  static const std::vector<const TrainKernels<float>*> levels = [] {
    std::vector<const TrainKernels<float>*> found = {&kRefTrainKernels};
#if defined(__x86_64__)
    const CpuFeatures& cpu = cpu_features();
    if (cpu.avx2) found.push_back(&kAvx2TrainKernels);
    if (cpu.avx512) found.push_back(&kAvx512TrainKernels);
    if (cpu.avx512_bf16) found.push_back(&kAvx512Bf16TrainKernels);
    if (cpu.avx512_bf16 && cpu.amx_bf16) found.push_back(&kAvx512AmxTrainKernels);
#endif
    return found;
  }();
  return levels;
}

const TrainKernels<float>* train_kernels_by_name(std::string_view name) {
  const std::span<const TrainKernels<float>* const> levels = available_train_kernels();
  if (name.empty()) return levels.back();
  if (name == "avx512_vnni") name = "avx512";  // integers add nothing to training
  for (const TrainKernels<float>* level : levels) {
    if (level->name == name) return level;
  }
#if defined(__x86_64__)
  if (name == kAvx512AmxEmulatedTrainKernels.name && cpu_features().avx512) return &kAvx512AmxEmulatedTrainKernels;
#endif
  return nullptr;
}

}  // namespace westlake
