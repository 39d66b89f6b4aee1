// attention_forward and attention_backward as the dispatcher calls them: one text for every library of kernels.
//
// A Backend says whether the host may read its tensors (`kValues`) and runs a problem:
// `forward(const AttentionProblem&, const Tensor& query)`, and `backward`. Schema: docs/architecture.md.
#pragma once

#include <vector>

#include "lower_attention.h"

namespace mmkernels {

// clang-format off
#define MMK_LOWERED_CALL \
  "Tensor query, Tensor[] keys, Tensor[] values, " \
  "Tensor? start, Tensor? stop, Tensor? visible, Tensor? interval_exact, " \
  "Tensor[] bias, int bias_kind, int relative_zero, " \
  "Tensor? seed, Tensor? cu_seqlens_q, Tensor? cu_seqlens_k, " \
  "float scale, float softcap, float dropout_p, bool unmask_empty_rows, int[] offsets, "
// clang-format on
#define MMK_FORWARD_SCHEMA "attention_forward(" MMK_LOWERED_CALL "Tensor(a!) out, Tensor(b!)? lse) -> ()"
#define MMK_BACKWARD_SCHEMA                                                                             \
  "attention_backward(Tensor grad_out, Tensor? grad_lse, " MMK_LOWERED_CALL                             \
  "Tensor out, Tensor lse, Tensor(a!)[] grad_query, Tensor(b!)[] grad_keys, Tensor(c!)[] grad_values, " \
  "Tensor(d!)[] grad_bias) -> ()"

template <class Backend>
void attention_forward(Tensor query, std::vector<Tensor> keys, std::vector<Tensor> values, OptionalTensor start,
                       OptionalTensor stop, OptionalTensor visible, OptionalTensor interval_exact,
                       std::vector<Tensor> bias, int64_t bias_kind, int64_t relative_zero, OptionalTensor seed,
                       OptionalTensor cu_seqlens_q, OptionalTensor cu_seqlens_k, double scale, double softcap,
                       double dropout_p, bool unmask_empty_rows, std::vector<int64_t> offsets, Tensor out,
                       OptionalTensor lse) {
  if constexpr (Backend::kValues == Values::kOnDevice) {
    check_device(query, {keys, values, bias},
                 {start, stop, visible, interval_exact, seed, cu_seqlens_q, cu_seqlens_k, out, lse});
  }
  Lowered call({query, keys, values, start, stop, visible, interval_exact, bias, bias_kind, relative_zero, seed,
                cu_seqlens_q, cu_seqlens_k, scale, softcap, dropout_p, unmask_empty_rows, offsets},
               Backend::kValues);
  call.outputs(out, lse);
  Backend::forward(call.problem, query);
}

template <class Backend>
void attention_backward(Tensor grad_out, OptionalTensor grad_lse, Tensor query, std::vector<Tensor> keys,
                        std::vector<Tensor> values, OptionalTensor start, OptionalTensor stop, OptionalTensor visible,
                        OptionalTensor interval_exact, std::vector<Tensor> bias, int64_t bias_kind,
                        int64_t relative_zero, OptionalTensor seed, OptionalTensor cu_seqlens_q,
                        OptionalTensor cu_seqlens_k, double scale, double softcap, double dropout_p,
                        bool unmask_empty_rows, std::vector<int64_t> offsets, Tensor out, Tensor lse,
                        std::vector<Tensor> grad_query, std::vector<Tensor> grad_keys, std::vector<Tensor> grad_values,
                        std::vector<Tensor> grad_bias) {
  if constexpr (Backend::kValues == Values::kOnDevice) {
    check_device(
        query, {keys, values, bias, grad_query, grad_keys, grad_values, grad_bias},
        {start, stop, visible, interval_exact, seed, cu_seqlens_q, cu_seqlens_k, grad_out, grad_lse, out, lse});
  }
  Lowered call({query, keys, values, start, stop, visible, interval_exact, bias, bias_kind, relative_zero, seed,
                cu_seqlens_q, cu_seqlens_k, scale, softcap, dropout_p, unmask_empty_rows, offsets},
               Backend::kValues);
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
  Backend::backward(p, query);
}

}  // namespace mmkernels
