// The backward's steps before its products: dz = gate * act'(z) * dy, and sums of rows over what is broadcast.
#pragma once

#include "../../core/activation.h"
#include "norm.h"

MMK_NAMESPACE_BEGIN

/// Rows of dz: those of grad_out where they are the same, or a copy in the type that products multiply.
struct SlopeRows {
  const FusionProblem& p;
  const void* copy;  // dense, or nullptr
  DType dtype;

  const SlopeRows& part(int) const { return *this; }
  const void* data() const { return copy ? copy : p.grad_out.data; }
  int64_t offset(int64_t row) const { return copy ? row * p.out : offset_of(p, p.grad_out.stride, row); }
  const float* numbers(int64_t row, int64_t first, int64_t count, float* buffer) const {
    return read_numbers(data(), dtype, offset(row) + first, count, buffer);
  }
  const uint16_t* bits(int64_t row, int64_t first) const {
    if (dtype != DType::kBFloat16) return nullptr;
    return static_cast<const uint16_t*>(data()) + offset(row) + first;
  }
  void prefetch(int64_t row, int64_t first, int64_t count) const {
    prefetch_run(at(data(), dtype, offset(row) + first), count * element_size(dtype));
  }
};

/// z = u + constant of a row, in kLanes columns.
MMK_ALWAYS_INLINE Float pre_activation(const FusionProblem& p, const float* constant, int64_t row, int64_t column,
                                       int64_t count) {
  const Float u = load_numbers(p.saved_product, p.dtype, row * p.out + column, count);
  return constant ? u + load(constant + column) : u;
}

/// Rows of grad_out * act(z), whose sums are the gradient of the gate; one number a row for a gate without columns.
template <Activation activation>
struct GateRows {
  const FusionProblem& p;
  const float* constant;  // padded to whole panels, or nullptr

  const float* numbers(int64_t row, int64_t first, int64_t count, float* buffer) const {
    const int64_t offset = offset_of(p, p.grad_out.stride, row);
    const int64_t columns = p.gate.column ? count : p.out;
    Float total = splat(0.0f);
    for (int64_t i = 0; i < columns; i += kLanes) {
      const int64_t column = first + i, rest = columns - i;
      const Float y = activate<activation>(pre_activation(p, constant, row, column, rest));
      Float term = load_numbers(p.grad_out.data, p.grad_out.dtype, offset + column, rest) * y;
      if (p.gate.column) {
        store_numbers(buffer, DType::kFloat32, i, rest, term);
      } else {
        if (rest < kLanes) term = select(lane_indices() < splat(static_cast<int32_t>(rest)), term, splat(0.0f));
        total = total + term;
      }
    }
    if (!p.gate.column) buffer[0] = horizontal_sum(total);
    return buffer;
  }
};

/// Means over the features that the norm's backward subtracts: dx = rstd (dz W) g - slope (x - mean) - level.
struct NormSlopes {
  float *slope = nullptr, *level = nullptr;  // of every row, or nullptr: not wanted
  const float* weight_sums = nullptr;        // W g, padded to whole panels; LayerNorm only
};

/// dz of every row into `dz` (nullptr: it is grad_out), and the norm's means.
template <Activation activation>
inline void slopes(const FusionProblem& p, const float* constant, void* dz, DType dtype, const NormSlopes& norm,
                   const Threads& threads) {
  constexpr int64_t kRows = 8;
  parallel(threads, ceil_div(p.rows, kRows), 20.0 * static_cast<double>(p.rows * p.out), [&](Claim& claim) {
    for (int64_t item; (item = claim.next()) >= 0;) {
      for (int64_t row = item * kRows; row < smaller((item + 1) * kRows, p.rows); ++row) {
        const int64_t offset = offset_of(p, p.grad_out.stride, row);
        const int64_t gate = p.gate.data ? offset_of(p, p.gate.stride, row) : 0;
        Float along_u = splat(0.0f), along_weight = splat(0.0f);
        for (int64_t i = 0; i < p.out; i += kLanes) {
          const int64_t rest = p.out - i;
          Float d = load_numbers(p.grad_out.data, p.grad_out.dtype, offset + i, rest);
          if (p.gate.data) d = d * load_broadcast(p.gate, gate, i, rest);
          if (activation != Activation::kNone) {
            d = activation_backward<activation>(d, pre_activation(p, constant, row, i, rest));
          }
          if (dz) store_numbers(dz, dtype, row * p.out + i, rest, d);
          if (!norm.slope) continue;
          if (rest < kLanes) d = select(lane_indices() < splat(static_cast<int32_t>(rest)), d, splat(0.0f));
          along_u = multiply_add(d, load_numbers(p.saved_product, p.dtype, row * p.out + i, rest), along_u);
          if (norm.level) along_weight = multiply_add(d, load(norm.weight_sums + i), along_weight);
        }
        if (!norm.slope) continue;
        const float rstd = p.rstd[row], width = static_cast<float>(p.width);
        norm.slope[row] = horizontal_sum(along_u) * (rstd * rstd) / width;
        if (norm.level) norm.level[row] = horizontal_sum(along_weight) * rstd / width;
      }
    }
  });
}

/// to[q][n] = sum of factor[row] * reader(row, n) over the rows that share own row q, `width` numbers each: chains over
/// kSumRows rows, added in order.
template <class Reader>
inline void sum_rows(const FusionProblem& p, const int64_t* own, int64_t own_rows, const Reader& reader,
                     const float* factor, int64_t width, float* to, const Threads& threads) {
  constexpr int64_t kSumRows = 256, kColumns = 256;
  const int64_t sharing = own_rows ? p.rows / own_rows : 0, chunks = larger<int64_t>(ceil_div(sharing, kSumRows), 1);
  const int64_t blocks = ceil_div(width, kColumns);
  Memory memory;
  float* sums = chunks == 1 ? to : memory.take(own_rows * chunks * width);
  parallel(threads, own_rows * chunks * blocks, 4.0 * static_cast<double>(p.rows * width), [&](Claim& claim) {
    Arena arena(2 * round_up(kColumns + kLanes, 16));
    float *buffer = arena.take(kColumns + kLanes), *sum = arena.take(kColumns + kLanes);
    for (int64_t item; (item = claim.next()) >= 0;) {
      const int64_t first = item % blocks * kColumns, chunk = item / blocks % chunks, q = item / blocks / chunks;
      const int64_t columns = smaller(kColumns, width - first);
      const SharingRows rows(p, own, q);
      memset(sum, 0, static_cast<size_t>(columns) * sizeof(float));
      for (int64_t i = chunk * kSumRows; i < smaller((chunk + 1) * kSumRows, sharing); ++i) {
        const int64_t row = rows.row(i);
        const float* x = reader.numbers(row, first, columns, buffer);
        const float by = factor ? factor[row] : 1.0f;
        int64_t n = 0;
        for (; n + kLanes <= columns; n += kLanes) store(sum + n, multiply_add(load(x + n), splat(by), load(sum + n)));
        for (; n < columns; ++n) sum[n] = std::fma(x[n], by, sum[n]);
      }
      memcpy(sums + (q * chunks + chunk) * width + first, sum, static_cast<size_t>(columns) * sizeof(float));
    }
  });
  if (chunks == 1) return;
  for (int64_t q = 0; q < own_rows; ++q) {
    const float* part = sums + q * chunks * width;
    for (int64_t n = 0; n < width; ++n) {
      float total = part[n];
      for (int64_t chunk = 1; chunk < chunks; ++chunk) total += part[chunk * width + n];
      to[q * width + n] = total;
    }
  }
}

/// to[k] = sum_n v[n] W[n, k], chains over 256 outputs, added in order.
inline void times_weight(const FusionProblem& p, const float* v, float* to, const Threads& threads) {
  constexpr int64_t kColumns = 256, kChain = 256;
  parallel(threads, ceil_div(p.width, kColumns), 2.0 * static_cast<double>(p.out * p.width), [&](Claim& claim) {
    Arena arena(3 * kColumns);
    float *buffer = arena.take(kColumns), *sum = arena.take(kColumns), *total = arena.take(kColumns);
    const StoredRows weight = weight_rows(p, 0);
    for (int64_t item; (item = claim.next()) >= 0;) {
      const int64_t first = item * kColumns, columns = smaller(kColumns, p.width - first);
      memset(total, 0, kColumns * sizeof(float));
      for (int64_t begin = 0; begin < p.out; begin += kChain) {
        memset(sum, 0, kColumns * sizeof(float));
        for (int64_t n = begin; n < smaller(begin + kChain, p.out); ++n) {
          const float* w = weight.numbers(n, first, columns, buffer);
          for (int64_t k = 0; k < columns; ++k) sum[k] += w[k] * v[n];
        }
        for (int64_t k = 0; k < columns; ++k) total[k] += sum[k];
      }
      memcpy(to + first, total, static_cast<size_t>(columns) * sizeof(float));
    }
  });
}

MMK_NAMESPACE_END
