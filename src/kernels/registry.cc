// Which levels this machine can run. A level is named, never guessed: the names are those WESTLAKE_ISA takes.
#include "base/cpu.h"
#include "kernels/levels.h"

namespace westlake {
namespace {

#if defined(__x86_64__)
KernelTable with(KernelTable base, std::string_view name, const LevelAdditions& additions) {
  base.name = name;
  if (additions.gemm_q8 != nullptr) base.gemm_q8 = additions.gemm_q8;
  base.round_bf16 = additions.round_bf16;
  base.gemm_bf16 = additions.gemm_bf16;
  return base;
}
#endif

}  // namespace

const std::vector<const KernelTable*>& available_kernels() {
  static const std::vector<const KernelTable*> levels = [] {
    std::vector<const KernelTable*> found = {&kRefKernels};
#if defined(__x86_64__)
    const CpuFeatures& cpu = cpu_features();
    if (cpu.avx2) found.push_back(&kAvx2Kernels);
    if (cpu.avx512) found.push_back(&kAvx512Kernels);
    if (cpu.avx512_vnni) found.push_back(&kAvx512VnniKernels);
    static const KernelTable bf16 = with(kAvx512VnniKernels, "avx512_bf16", kAvx512Bf16);
    static const KernelTable amx = with(bf16, "avx512_amx", kAvx512Amx);
    if (cpu.avx512_vnni && cpu.avx512_bf16) found.push_back(&bf16);
    if (cpu.avx512_vnni && cpu.avx512_bf16 && cpu.amx_int8 && cpu.amx_bf16) found.push_back(&amx);
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
#if defined(__x86_64__)
  static const KernelTable emulated = with(kAvx512VnniKernels, "avx512_amx_emulated", kAvx512AmxEmulated);
  if (name == emulated.name && cpu_features().avx512_vnni) return &emulated;
#endif
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
