// mmkernels_cpu::measure_fma, measure_bf16 and measure_read: one measurement each, for a benchmark to time.

#include "../cpu/kernels.h"
#include "tensors.h"
#include "threads.h"

namespace mmkernels {
namespace {

/// Runs `steps` steps of independent multiply-add chains on every thread; the operations done, two a multiply-add.
int64_t measure_fma(int64_t steps) { return kernels().peak.fma(steps, torch_threads()); }

/// The same with the instructions that the kernels multiply bf16 with.
int64_t measure_bf16(int64_t steps) { return kernels().peak.bf16(steps, torch_threads()); }

/// Reads a tensor once, on every thread; the bytes read (a remainder of some KiB is left out).
int64_t measure_read(Tensor buffer) {
  MMK_CHECK(buffer.is_contiguous() && buffer.scalar_type() == ScalarType::Float,
            "measure_read takes a contiguous float32 tensor");
  return kernels().peak.read(static_cast<const float*>(buffer.data_ptr()), buffer.numel(), torch_threads());
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(mmkernels_cpu, m) {
  m.def("measure_fma(int steps) -> int");
  m.def("measure_bf16(int steps) -> int");
  m.def("measure_read(Tensor buffer) -> int");
}

STABLE_TORCH_LIBRARY_IMPL(mmkernels_cpu, CPU, m) { m.impl("measure_read", TORCH_BOX(&measure_read)); }

STABLE_TORCH_LIBRARY_IMPL(mmkernels_cpu, CompositeExplicitAutograd, m) {
  m.impl("measure_fma", TORCH_BOX(&measure_fma));
  m.impl("measure_bf16", TORCH_BOX(&measure_bf16));
}

}  // namespace mmkernels
