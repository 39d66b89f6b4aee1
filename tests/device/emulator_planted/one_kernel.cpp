// mmk_planted: the attention forward kernels of fp16 and head dim 64 alone, which compile in seconds, from sources in which
// tests/device/planting.py has planted a bug.
#include "attention_forward.h"
#include "module.h"

PYBIND11_MODULE(mmk_planted, module) {
  using namespace emulator;
  bind_machine(module);
  define_forward(module, [](const mmkernels::AttentionProblem&, const auto& f) {
    f(mmkernels::device::TypeOf<mmkernels::Half>{}, std::integral_constant<int, 64>{});
  });
}
