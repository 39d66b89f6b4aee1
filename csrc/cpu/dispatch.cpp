// Chooses the kernels at run time: what the processor can run, unless MMKERNELS_CPU_ISA or use_isa() names another.

#include <cstdlib>
#include <cstring>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "kernels.h"

namespace mmkernels {

// The kernels of an instruction set stand in the namespace named after it (core/namespace.h).
#define MMK_TABLE(name)                                                    \
  namespace name {                                                         \
  void attention_forward(const AttentionProblem&, const Threads&);         \
  void attention_backward(const AttentionProblem&, const Threads&);        \
  void fusion_forward(const FusionProblem&, const Threads&);               \
  void fusion_backward(const FusionProblem&, const Threads&);              \
  void contrastive_forward(const ContrastiveProblem&, const Threads&);     \
  void contrastive_backward(const ContrastiveProblem&, const Threads&);    \
  int64_t fma_peak(int64_t, const Threads&);                               \
  int64_t bf16_peak(int64_t, const Threads&);                              \
  int64_t read_peak(const float*, int64_t, const Threads&);                \
  constexpr Kernels kTable = {#name,                                       \
                              {attention_forward, attention_backward},     \
                              {fusion_forward, fusion_backward},           \
                              {contrastive_forward, contrastive_backward}, \
                              {fma_peak, bf16_peak, read_peak}};           \
  }
#if defined(__x86_64__)
MMK_TABLE(avx512bf16)
MMK_TABLE(avx512)
MMK_TABLE(avx2)
#endif
#if defined(MMK_HAS_vec16)
MMK_TABLE(vec16)
#endif
MMK_TABLE(baseline)
#undef MMK_TABLE

namespace {

struct Candidate {
  const Kernels* kernels;
  bool runs;
};

#if defined(__x86_64__)
// clang learnt __builtin_cpu_supports("f16c") late. What the system must save for it, avx2 has asked.
bool has_f16c() {
  unsigned a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

// Best first. vec16 is compiled with AVX2 on x86, where it is the test double of the AVX-512 kernels, with bf16 in pairs,
// and not in wheels.
const Candidate* candidates(int& count) {
#if defined(__x86_64__)
  static const bool kAvx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
  static const bool kAvx512 = kAvx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                              __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  static const bool kAvx512Bf16 = kAvx512 && __builtin_cpu_supports("avx512bf16");
#else
  static const bool kAvx2 = true;
#endif
  static const Candidate kAll[] = {
#if defined(__x86_64__)
      {&avx512bf16::kTable, kAvx512Bf16},
      {&avx512::kTable, kAvx512},
      {&avx2::kTable, kAvx2},
#endif
      {&baseline::kTable, true},
#if defined(MMK_HAS_vec16)
      {&vec16::kTable, kAvx2},
#endif
  };
  count = static_cast<int>(sizeof(kAll) / sizeof(kAll[0]));
  return kAll;
}

const Kernels* find(const char* name) {
  int count;
  const Candidate* all = candidates(count);
  for (int i = 0; i < count; ++i) {
    if (all[i].runs && (!*name || !strcmp(name, all[i].kernels->isa))) return all[i].kernels;
  }
  return nullptr;
}

const Kernels* initial() {
  const char* name = std::getenv("MMKERNELS_CPU_ISA");
  const Kernels* chosen = find(name ? name : "");
  return chosen ? chosen : find("");  // Python refuses an unknown name with a sentence when it loads the library
}

const Kernels*& current() {
  static const Kernels* chosen = initial();
  return chosen;
}

}  // namespace

const Kernels& kernels() { return *current(); }

const char* available_isas() {
  static char names[64] = "";
  if (!*names) {
    int count;
    const Candidate* all = candidates(count);
    for (int i = 0; i < count; ++i) {
      if (!all[i].runs) continue;
      if (*names) strcat(names, " ");
      strcat(names, all[i].kernels->isa);
    }
  }
  return names;
}

bool use_isa(const char* name) {
  const Kernels* chosen = *name ? find(name) : initial();
  if (chosen) current() = chosen;
  return chosen != nullptr;
}

}  // namespace mmkernels
