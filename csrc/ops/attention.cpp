// mmkernels_cpu::attention_forward and attention_backward on torch's stable ABI. Schema: docs/architecture.md.

#include <string>

#include "../cpu/kernels.h"
#include "attention_entry.h"
#include "threads.h"

namespace mmkernels {
namespace {

struct Cpu {
  static constexpr Values kValues = Values::kOnHost;
  static void forward(const AttentionProblem& p, const Tensor&) { kernels().attention.forward(p, torch_threads()); }
  static void backward(const AttentionProblem& p, const Tensor&) { kernels().attention.backward(p, torch_threads()); }
};

const OptionalTensor kAbsent;
const std::vector<int64_t> kNoOffsets{0, 0, 0, 0};

/// attention_forward without mask, bias, softcap and dropout: on tiny problems reading the schema is half of a call.
void attention_forward_plain(Tensor query, Tensor key, Tensor value, double scale, Tensor out, OptionalTensor lse) {
  attention_forward<Cpu>(query, {key}, {value}, kAbsent, kAbsent, kAbsent, kAbsent, {}, 0, 0, kAbsent, kAbsent, kAbsent,
                         scale, 0.0, 0.0, false, kNoOffsets, out, lse);
}

void attention_backward_plain(Tensor grad_out, Tensor query, Tensor key, Tensor value, double scale, Tensor out,
                              Tensor lse, OptionalTensor grad_query, OptionalTensor grad_key,
                              OptionalTensor grad_value) {
  const auto listed = [](const OptionalTensor& t) { return t ? std::vector<Tensor>{*t} : std::vector<Tensor>{}; };
  attention_backward<Cpu>(grad_out, kAbsent, query, {key}, {value}, kAbsent, kAbsent, kAbsent, kAbsent, {}, 0, 0,
                          kAbsent, kAbsent, kAbsent, scale, 0.0, 0.0, false, kNoOffsets, out, lse, listed(grad_query),
                          listed(grad_key), listed(grad_value), {});
}

std::string isas() { return available_isas(); }
std::string isa() { return kernels().isa; }
void use(std::string name) {
  MMK_CHECK(use_isa(name.c_str()), "instruction set '", name,
            "' is not available, expected one of: ", available_isas());
}

}  // namespace

STABLE_TORCH_LIBRARY(mmkernels_cpu, m) {
  m.def(MMK_FORWARD_SCHEMA);
  m.def(MMK_BACKWARD_SCHEMA);
  m.def(
      "attention_forward_plain(Tensor query, Tensor key, Tensor value, float scale, "
      "Tensor(a!) out, Tensor(b!)? lse) -> ()");
  m.def(
      "attention_backward_plain(Tensor grad_out, Tensor query, Tensor key, Tensor value, float scale, "
      "Tensor out, Tensor lse, Tensor(a!)? grad_query, Tensor(b!)? grad_key, Tensor(c!)? grad_value) -> ()");
  m.def("isas() -> str");
  m.def("isa() -> str");
  m.def("use_isa(str name) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(mmkernels_cpu, CPU, m) {
  m.impl("attention_forward", TORCH_BOX(&attention_forward<Cpu>));
  m.impl("attention_backward", TORCH_BOX(&attention_backward<Cpu>));
  m.impl("attention_forward_plain", TORCH_BOX(&attention_forward_plain));
  m.impl("attention_backward_plain", TORCH_BOX(&attention_backward_plain));
}

STABLE_TORCH_LIBRARY_IMPL(mmkernels_cpu, CompositeExplicitAutograd, m) {
  m.impl("isas", TORCH_BOX(&isas));
  m.impl("isa", TORCH_BOX(&isa));
  m.impl("use_isa", TORCH_BOX(&use));
}

}  // namespace mmkernels
