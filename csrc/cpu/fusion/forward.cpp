// concat_fusion forward: out = residual + gate * act(z), z = norm(cat(sources)) W^T + bias.
//
// One product (product.h) whose axis of features walks from source to source; the concatenation never exists. With
// norm(x) = (x - mean) rstd g + b,
//
//     z = rstd [ sum_s ((x_s - m_s) g_s) W_s^T + (m_s - mean) (W_s g_s) ] + (W b + bias)
//
// where m_s is `mean` itself for a source that has every row, centred while it is staged, so that its second term is 0,
// and the mean of the own row for a shared one. A shared source is multiplied once for its own rows, in a product before,
// and joins in the sink of the main one, which also applies the constant, the activation, gate and residual, and rounds
// once. Centring before the product keeps the accuracy of the two-pass norm where |mean| >> std.

#include "../../core/activation.h"
#include "../kernels.h"
#include "shared.h"

MMK_NAMESPACE_BEGIN
namespace {

/// The sink of the main product.
struct Epilogue {
  const FusionProblem& p;
  const Shared& shared;
  const float* constant;  // padded to whole panels, or nullptr

  void operator()(int64_t row, int64_t rows, int64_t column, int64_t columns, const Block& c) const {
    with_activation(p.activation, [&](auto chosen) { write<decltype(chosen)::kValue>(row, rows, column, columns, c); });
  }

  template <Activation activation>
  void write(int64_t row, int64_t rows, int64_t column, int64_t columns, const Block& c) const {
    alignas(64) float with_shared[larger(kMaxBlockRows, kMaxBlockColumns)];
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t at_row = row + r;
      const int64_t result = offset_of(p, p.result.stride, at_row);
      const int64_t gate = p.gate.data ? offset_of(p, p.gate.stride, at_row) : 0;
      const int64_t residual = p.residual.data ? offset_of(p, p.residual.stride, at_row) : 0;
      if (r + kRowsAhead < rows) {
        const int64_t next = at_row + kRowsAhead;
        prefetch_result(p.result.data, p.result.dtype, offset_of(p, p.result.stride, next) + column, columns);
        if (p.product) prefetch_result(p.product, p.dtype, next * p.out + column, columns);
      }
      if (shared.any()) shared.add(at_row, column, columns, c, r, with_shared);
      for (int64_t i = 0; i < columns; i += kLanes) {
        const int64_t count = columns - i;
        Float u = shared.any() ? load(with_shared + i) : load(c.at(r, i));
        if (p.rstd) u = u * splat(p.rstd[at_row]);
        if (p.product) store_numbers(p.product, p.dtype, at_row * p.out + column + i, count, u);
        const Float z = constant ? u + load(constant + column + i) : u;
        Float y = activate<activation>(z);
        if (p.gate.data) y = y * load_broadcast(p.gate, gate, column + i, count);
        if (p.residual.data) y = load_broadcast(p.residual, residual, column + i, count) + y;
        store_numbers(p.result.data, p.result.dtype, result + column + i, count, y);
      }
    }
  }
};

}  // namespace

void fusion_forward(const FusionProblem& p, const Threads& threads) {
  if (p.rows == 0) return;
  const Norm norm(p, threads);
  if (p.out == 0) return;
  Memory constant;
  if (p.bias || p.norm_bias) {
    float* row = constant.take(round_up(p.out, kPanel));
    weight_sums(p, 0, p.width, {row, p.norm_bias, p.bias, p.norm_bias != nullptr}, {}, threads);
  }
  const Shared shared(p, norm, threads);
  const FullSources full(p);
  product(threads, element_of(p), p.rows, p.out, full.depth(), Along<Parts<SourceRows>>{full.rows()},
          Along<Parts<StoredRows>>{full.weights()}, Epilogue{p, shared, constant.get()});
}

MMK_NAMESPACE_END
