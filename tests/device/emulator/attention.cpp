// The attention kernels on numpy arrays: `attention_forward(run, call)`, where `call` is a dict (attention_arrays.cpp).
#include "attention_forward.h"
#include "module.h"

namespace emulator {

void bind_attention(py::module_& module) {
  define_forward(module, [](const mmkernels::AttentionProblem& p, const auto& f) { with_type_and_dim(p, f); });
}

}  // namespace emulator
