// Chooses the kernels at run time: what the processor can run, unless MMKERNELS_CPU_ISA or use_isa() names another.

#include <cstdlib>
#include <cstring>

#include "kernels.h"

namespace mmkernels {

#define MMK_DECLARE(isa)                                            \
  namespace isa {                                                   \
  void attention_forward(const AttentionProblem&, const Threads&);  \
  void attention_backward(const AttentionProblem&, const Threads&); \
  int64_t fma_peak(int64_t, const Threads&);                        \
  int64_t bf16_peak(int64_t, const Threads&);                       \
  int64_t read_peak(const float*, int64_t, const Threads&);         \
  }
#if defined(__x86_64__)
MMK_DECLARE(avx512bf16)
MMK_DECLARE(avx512)
MMK_DECLARE(avx2)
#endif
MMK_DECLARE(vec16)
MMK_DECLARE(baseline)
#undef MMK_DECLARE

namespace {

struct Candidate {
  AttentionKernels kernels;
  PeakKernels peak;
  bool runs;
};

// Best first. vec16 is compiled with AVX2 on x86, where it is the test double of the AVX-512 kernels, with bf16 in pairs.
const Candidate* candidates(int& count) {
#if defined(__x86_64__)
  static const bool kAvx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  static const bool kAvx512 = kAvx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                              __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  static const bool kAvx512Bf16 = kAvx512 && __builtin_cpu_supports("avx512bf16");
#else
  static const bool kAvx2 = true;
#endif
  static const Candidate kAll[] = {
#if defined(__x86_64__)
      {{"avx512bf16", avx512bf16::attention_forward, avx512bf16::attention_backward},
       {avx512bf16::fma_peak, avx512bf16::bf16_peak, avx512bf16::read_peak},
       kAvx512Bf16},
      {{"avx512", avx512::attention_forward, avx512::attention_backward},
       {avx512::fma_peak, avx512::bf16_peak, avx512::read_peak},
       kAvx512},
      {{"avx2", avx2::attention_forward, avx2::attention_backward},
       {avx2::fma_peak, avx2::bf16_peak, avx2::read_peak},
       kAvx2},
#endif
      {{"baseline", baseline::attention_forward, baseline::attention_backward},
       {baseline::fma_peak, baseline::bf16_peak, baseline::read_peak},
       true},
      {{"vec16", vec16::attention_forward, vec16::attention_backward},
       {vec16::fma_peak, vec16::bf16_peak, vec16::read_peak},
       kAvx2},
  };
  count = static_cast<int>(sizeof(kAll) / sizeof(kAll[0]));
  return kAll;
}

const Candidate* find(const char* name) {
  int count;
  const Candidate* all = candidates(count);
  for (int i = 0; i < count; ++i) {
    if (all[i].runs && (!*name || !strcmp(name, all[i].kernels.name))) return &all[i];
  }
  return nullptr;
}

const Candidate* initial() {
  const char* name = std::getenv("MMKERNELS_CPU_ISA");
  const Candidate* chosen = find(name ? name : "");
  return chosen ? chosen : find("");  // Python refuses an unknown name with a sentence when it loads the library
}

const Candidate*& current() {
  static const Candidate* candidate = initial();
  return candidate;
}

}  // namespace

const AttentionKernels& attention_kernels() { return current()->kernels; }
const PeakKernels& peak_kernels() { return current()->peak; }

const char* available_isas() {
  static char names[64] = "";
  if (!*names) {
    int count;
    const Candidate* all = candidates(count);
    for (int i = 0; i < count; ++i) {
      if (!all[i].runs) continue;
      if (*names) strcat(names, " ");
      strcat(names, all[i].kernels.name);
    }
  }
  return names;
}

bool use_isa(const char* name) {
  const Candidate* chosen = *name ? find(name) : initial();
  if (chosen) current() = chosen;
  return chosen != nullptr;
}

}  // namespace mmkernels
