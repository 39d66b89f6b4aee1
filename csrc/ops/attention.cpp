// mmkernels_cpu::attention_forward and attention_backward on torch's stable ABI. Schema: docs/architecture.md.

#include <string>

#include "../cpu/kernels.h"
#include "lower_attention.h"
#include "threads.h"

namespace mmkernels {
namespace {

void attention_forward(Tensor query, std::vector<Tensor> keys, std::vector<Tensor> values, OptionalTensor start,
                       OptionalTensor stop, OptionalTensor visible, OptionalTensor interval_exact,
                       std::vector<Tensor> bias, int64_t bias_kind, int64_t relative_zero, OptionalTensor seed,
                       OptionalTensor cu_seqlens_q, OptionalTensor cu_seqlens_k, double scale, double softcap,
                       double dropout_p, bool unmask_empty_rows, std::vector<int64_t> offsets, Tensor out,
                       OptionalTensor lse) {
  Lowered call({query, keys, values, start, stop, visible, interval_exact, bias, bias_kind, relative_zero, seed,
                cu_seqlens_q, cu_seqlens_k, scale, softcap, dropout_p, unmask_empty_rows, offsets});
  call.outputs(out, lse);
  kernels().attention.forward(call.problem, torch_threads());
}

void attention_backward(Tensor grad_out, OptionalTensor grad_lse, Tensor query, std::vector<Tensor> keys,
                        std::vector<Tensor> values, OptionalTensor start, OptionalTensor stop, OptionalTensor visible,
                        OptionalTensor interval_exact, std::vector<Tensor> bias, int64_t bias_kind,
                        int64_t relative_zero, OptionalTensor seed, OptionalTensor cu_seqlens_q,
                        OptionalTensor cu_seqlens_k, double scale, double softcap, double dropout_p,
                        bool unmask_empty_rows, std::vector<int64_t> offsets, Tensor out, Tensor lse,
                        std::vector<Tensor> grad_query, std::vector<Tensor> grad_keys, std::vector<Tensor> grad_values,
                        std::vector<Tensor> grad_bias) {
  Lowered call({query, keys, values, start, stop, visible, interval_exact, bias, bias_kind, relative_zero, seed,
                cu_seqlens_q, cu_seqlens_k, scale, softcap, dropout_p, unmask_empty_rows, offsets});
  call.outputs(out, lse);
  AttentionProblem& p = call.problem;
  const bool packed = p.cu_q != nullptr;
  p.grad_out = view_of(grad_out, "grad_out", packed, p.batch, p.heads_q, p.len_q, p.dim_v);
  MMK_CHECK(p.grad_out.dtype == p.query.dtype, "grad_out has another dtype than query: they must share one");
  if (grad_lse) p.grad_lse = call.row_vector(*grad_lse, "grad_lse", p.grad_lse_stride);
  if (!grad_query.empty()) {
    p.grad_query = view_of(grad_query[0], "grad_query", packed, p.query_batches, p.heads_q, p.len_q, p.dim_qk);
  }
  for (size_t s = 0; s < call.segments.size(); ++s) {
    Segment& segment = call.segments[s];
    if (!grad_keys.empty()) {
      MMK_CHECK(grad_keys.size() == call.segments.size(), "grad_keys must have one tensor a segment");
      segment.grad_key =
          view_of(grad_keys[s], "grad_key", packed, segment.key_batches, p.heads_k, segment.length, p.dim_qk);
    }
    if (!grad_values.empty()) {
      MMK_CHECK(grad_values.size() == call.segments.size(), "grad_values must have one tensor a segment");
      segment.grad_value =
          view_of(grad_values[s], "grad_value", packed, segment.value_batches, p.heads_k, segment.length, p.dim_v);
    }
  }
  for (size_t i = 0; i < grad_bias.size(); ++i) {
    MMK_CHECK(grad_bias.size() == bias.size() && grad_bias[i].numel() == bias[i].numel() &&
                  grad_bias[i].is_contiguous() && grad_bias[i].scalar_type() == bias[i].scalar_type(),
              "grad_bias must be contiguous and like the bias");
    if (grad_bias[i].numel() > 0) p.bias.grad[i] = grad_bias[i].mutable_data_ptr();
  }
  kernels().attention.backward(p, torch_threads());
}

const OptionalTensor kAbsent;
const std::vector<int64_t> kNoOffsets{0, 0, 0, 0};

/// attention_forward without mask, bias, softcap and dropout: on tiny problems reading the schema is half of a call.
void attention_forward_plain(Tensor query, Tensor key, Tensor value, double scale, Tensor out, OptionalTensor lse) {
  attention_forward(query, {key}, {value}, kAbsent, kAbsent, kAbsent, kAbsent, {}, 0, 0, kAbsent, kAbsent, kAbsent,
                    scale, 0.0, 0.0, false, kNoOffsets, out, lse);
}

void attention_backward_plain(Tensor grad_out, Tensor query, Tensor key, Tensor value, double scale, Tensor out,
                              Tensor lse, OptionalTensor grad_query, OptionalTensor grad_key,
                              OptionalTensor grad_value) {
  const auto listed = [](const OptionalTensor& t) { return t ? std::vector<Tensor>{*t} : std::vector<Tensor>{}; };
  attention_backward(grad_out, kAbsent, query, {key}, {value}, kAbsent, kAbsent, kAbsent, kAbsent, {}, 0, 0, kAbsent,
                     kAbsent, kAbsent, scale, 0.0, 0.0, false, kNoOffsets, out, lse, listed(grad_query),
                     listed(grad_key), listed(grad_value), {});
}

std::string isas() { return available_isas(); }
std::string isa() { return kernels().isa; }
void use(std::string name) {
  MMK_CHECK(use_isa(name.c_str()), "instruction set '", name,
            "' is not available, expected one of: ", available_isas());
}

// clang-format off
#define MMK_LOWERED_CALL \
  "Tensor query, Tensor[] keys, Tensor[] values, " \
  "Tensor? start, Tensor? stop, Tensor? visible, Tensor? interval_exact, " \
  "Tensor[] bias, int bias_kind, int relative_zero, " \
  "Tensor? seed, Tensor? cu_seqlens_q, Tensor? cu_seqlens_k, " \
  "float scale, float softcap, float dropout_p, bool unmask_empty_rows, int[] offsets, "
// clang-format on

}  // namespace

STABLE_TORCH_LIBRARY(mmkernels_cpu, m) {
  m.def("attention_forward(" MMK_LOWERED_CALL "Tensor(a!) out, Tensor(b!)? lse) -> ()");
  m.def("attention_backward(Tensor grad_out, Tensor? grad_lse, " MMK_LOWERED_CALL
        "Tensor out, Tensor lse, Tensor(a!)[] grad_query, Tensor(b!)[] grad_keys, Tensor(c!)[] grad_values, "
        "Tensor(d!)[] grad_bias) -> ()");
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
  m.impl("attention_forward", TORCH_BOX(&attention_forward));
  m.impl("attention_backward", TORCH_BOX(&attention_backward));
  m.impl("attention_forward_plain", TORCH_BOX(&attention_forward_plain));
  m.impl("attention_backward_plain", TORCH_BOX(&attention_backward_plain));
}

STABLE_TORCH_LIBRARY_IMPL(mmkernels_cpu, CompositeExplicitAutograd, m) {
  m.impl("isas", TORCH_BOX(&isas));
  m.impl("isa", TORCH_BOX(&isa));
  m.impl("use_isa", TORCH_BOX(&use));
}

}  // namespace mmkernels
