// concat_fusion backward. With dz = gate * act'(z) * dy, z from the forward's product u, and per source s
//
//     P_s  = rstd * dz, summed over the rows that share an own row of s
//     dx_s = (P_s W_s) g_s - sum over the sharing rows of [ slope (x_s - m_s) + level + slope (m_s - mean) ]
//     Q_s  = P_s^T (x_s - m_s) + sum over rows of rstd (m_s - mean) dz  (outer) 1
//     dW_s = Q_s g_s + dbias (outer) b_s,   dg_s = sum_out W_s Q_s,   db = dbias W
//     slope = rstd^2 (dz . u) / K,   level = rstd (dz . W g) / K
//
// m_s is `mean` for a source that has every row, the mean of the own row for a shared one. Two products (product.h) a
// source write its gradient and its columns of dW where they belong. Sums over rows and outputs are cut in fixed chunks:
// no bit depends on threads.

#include "../kernels.h"
#include "gradients.h"
#include "shared.h"

MMK_NAMESPACE_BEGIN
namespace {

/// One source, its operands of the two products: full sources and shared ones differ in these alone.
struct Side {
  const Source& source;
  int64_t rows;        // own rows
  const float* mean;   // of these, or nullptr
  const float* slope;  // of these, or nullptr: no norm
  const float* level;  // of these, or nullptr: LayerNorm alone has it
  const float* shift;  // (out,) the second term of Q, or nullptr
};

class Backward {
 public:
  Backward(const FusionProblem& p, const Threads& threads)
      : p_(p), threads_(threads), scaled_(p.norm != NormKind::kNone), dz_{p, nullptr, p.grad_out.dtype} {}

  void run() {
    find_needs();
    find_slopes();
    sum_outputs();
    for (int i = 0; i < p_.num_sources; ++i) {
      const Source& s = p_.sources[i];
      if (s.width == 0 || !(s.grad.data || weight_)) continue;
      if (s.shared) {
        shared_source(s);
      } else {
        const Side side{s,      p_.rows, p_.norm == NormKind::kLayer ? p_.mean : nullptr, slope_.get(), level_.get(),
                        nullptr};
        input_gradient(side, dz_, p_.rstd);
        weight_gradient(side, dz_, p_.rstd);
      }
    }
    if (p_.grad_norm_bias) times_weight(p_, sums_.get(), p_.grad_norm_bias, threads_);
  }

 private:
  void find_needs() {
    weight_ = p_.grad_weight || p_.grad_norm_weight;
    for (int i = 0; i < p_.num_sources; ++i) inputs_ = inputs_ || p_.sources[i].grad.data;
  }

  void find_slopes() {
    const int64_t padded = round_up(p_.out, kPanel);
    Memory level_weights;
    WeightSum constant{}, level{};
    if ((p_.bias || p_.norm_bias) && (p_.activation != Activation::kNone || p_.grad_gate)) {
      constant = {constant_.take(padded), p_.norm_bias, p_.bias, p_.norm_bias != nullptr};
    }
    NormSlopes norm;
    if (scaled_ && inputs_) {
      norm.slope = slope_.take(p_.rows);
      if (p_.norm == NormKind::kLayer) {
        norm.level = level_.take(p_.rows);
        norm.weight_sums = level_weights.take(padded);
        level = {level_weights.get(), p_.norm_weight, nullptr};
      }
    }
    weight_sums(p_, 0, p_.width, constant, level, threads_);
    const bool copies = p_.activation != Activation::kNone || p_.gate.data;
    if (copies) {
      dz_.dtype = element_of(p_) == Element::kPair ? DType::kBFloat16 : DType::kFloat32;
      dz_.copy = copy_.take(p_.rows * p_.out * element_size(dz_.dtype) / static_cast<int64_t>(sizeof(float)) + 1);
    }
    if (!copies && !norm.slope) return;
    with_activation(p_.activation, [&](auto chosen) {
      constexpr Activation kActivation = decltype(chosen)::kValue;
      slopes<kActivation>(p_, constant_.get(), copy_.get(), dz_.dtype, norm, threads_);
      if (p_.grad_gate) gate_gradient(GateRows<kActivation>{p_, constant_.get()});
    });
  }

  template <class Reader>
  void gate_gradient(const Reader& reader) {
    sum_rows(p_, p_.gate_own, p_.gate_rows, reader, nullptr, p_.gate.column ? p_.out : 1, p_.grad_gate, threads_);
  }

  /// dz summed over all rows.
  void sum_outputs() {
    const bool outer = p_.norm_bias && p_.grad_weight;
    if (!(p_.grad_bias || p_.grad_norm_bias || outer)) return;
    const int64_t none[kMaxRowAxes] = {};
    sum_rows(p_, none, 1, dz_, nullptr, p_.out, sums_.take(p_.out), threads_);
    if (p_.grad_bias) memcpy(p_.grad_bias, sums_.get(), static_cast<size_t>(p_.out) * sizeof(float));
  }

  void shared_source(const Source& s) {
    Memory summed, mean, slope, level, shift;
    float* rows = summed.take(s.own_rows * p_.out);
    sum_rows(p_, s.own, s.own_rows, dz_, p_.rstd, p_.out, rows, threads_);
    if (p_.norm == NormKind::kLayer) {
      const OwnMoments own(p_, s, threads_);
      memcpy(mean.take(s.own_rows), own.mean, static_cast<size_t>(s.own_rows) * sizeof(float));
      if (weight_) sum_shifts(s, mean.get(), shift.take(p_.out));
    }
    if (slope_.get()) {
      slope.take(s.own_rows);
      if (mean.get()) level.take(s.own_rows);
      sum_slopes(s, mean.get(), slope.get(), level.get());
    }
    const Side side{s, s.own_rows, mean.get(), slope.get(), level.get(), shift.get()};
    const StoredRows summed_rows{rows, DType::kFloat32, p_.out};
    input_gradient(side, summed_rows, nullptr);
    weight_gradient(side, summed_rows, nullptr);
  }

  /// The second term of Q: sum over rows of rstd (m_s - mean) dz.
  void sum_shifts(const Source& s, const float* own_mean, float* to) {
    Memory shifts;
    float* shift = shifts.take(p_.rows);
    for (int64_t row = 0; row < p_.rows; ++row) {
      shift[row] = p_.rstd[row] * (own_mean[offset_of(p_, s.own, row)] - p_.mean[row]);
    }
    const int64_t none[kMaxRowAxes] = {};
    sum_rows(p_, none, 1, dz_, shift, p_.out, to, threads_);
  }

  /// slope, and slope (m_s - mean) + level, summed over the rows that share an own row.
  void sum_slopes(const Source& s, const float* own_mean, float* slope, float* level) {
    for (int64_t q = 0; q < s.own_rows; ++q) {
      const SharingRows sharing(p_, s.own, q);
      double slopes = 0.0, levels = 0.0;
      for (int64_t i = 0; i < sharing.count(); ++i) {
        const int64_t row = sharing.row(i);
        slopes += slope_.get()[row];
        if (level) levels += level_.get()[row] + slope_.get()[row] * (own_mean[q] - p_.mean[row]);
      }
      slope[q] = static_cast<float>(slopes);
      if (level) level[q] = static_cast<float>(levels);
    }
  }

  /// `factor`: what rows of dz are still to be multiplied by, or nullptr.
  template <class Rows>
  void input_gradient(const Side& side, const Rows& dz, const float* factor) {
    const Source& s = side.source;
    if (!s.grad.data) return;
    const float* scale = p_.norm_weight ? p_.norm_weight + s.first : nullptr;
    const auto write = [&](int64_t row, int64_t rows, int64_t column, int64_t columns, const Block& c) {
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t at_row = row + r;
        const int64_t target = source_offset(p_, s, s.grad.stride, at_row);
        const int64_t from = source_offset(p_, s, s.x.stride, at_row);
        const float mean = side.mean ? side.mean[at_row] : 0.0f;
        for (int64_t i = 0; i < columns; i += kLanes) {
          const int64_t count = columns - i;
          Float dx = load(c.at(r, i));
          if (factor) dx = dx * splat(factor[at_row]);
          if (scale) dx = dx * load_numbers(scale, DType::kFloat32, column + i, count);
          if (side.slope) {
            const Float x = load_numbers(s.x.data, p_.dtype, from + column + i, count) - splat(mean);
            dx = dx - x * splat(side.slope[at_row]);
            if (side.level) dx = dx - splat(side.level[at_row]);
          }
          store_numbers(s.grad.data, p_.dtype, target + column + i, count, dx);
        }
      }
    };
    product(threads_, element_of(p_), side.rows, s.width, Depth{&p_.out, 1}, Along<Rows>{dz},
            Across<StoredRows>{weight_rows(p_, s.first)}, write);
  }

  template <class Rows>
  void weight_gradient(const Side& side, const Rows& dz, const float* factor) {
    if (!weight_) return;
    const Source& s = side.source;
    const float* scale = p_.norm_weight ? p_.norm_weight + s.first : nullptr;
    const float* base = p_.norm_bias ? p_.norm_bias + s.first : nullptr;
    Memory groups;  // of kPanel outputs each, what they add to dg
    float* parts = p_.grad_norm_weight ? groups.take(ceil_div(p_.out, kPanel) * s.width) : nullptr;
    const auto write = [&](int64_t row, int64_t rows, int64_t column, int64_t columns, const Block& c) {
      alignas(64) float sums[larger(kMaxBlockRows, kMaxBlockColumns)];
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t n = row + r;
        if (p_.grad_weight && r + kRowsAhead < rows) {
          const int64_t next = (n + kRowsAhead) * p_.width + s.first + column;
          prefetch_result(p_.grad_weight, p_.dtype, next, columns);
        }
        const bool starts = n % kPanel == 0, ends = (n + 1) % kPanel == 0 || n + 1 == p_.out;
        for (int64_t i = 0; i < columns; i += kLanes) {
          const int64_t count = columns - i, feature = column + i, at_weight = s.first + feature;
          Float q = load(c.at(r, i));
          if (side.shift) q = q + splat(side.shift[n]);
          if (parts) {
            const Float w = load_numbers(p_.weight, p_.dtype, n * p_.weight_stride + at_weight, count);
            const Float sum = multiply_add(w, q, starts ? splat(0.0f) : load(sums + i));
            store(sums + i, sum);
            if (ends) store_numbers(parts, DType::kFloat32, n / kPanel * s.width + feature, count, sum);
          }
          if (!p_.grad_weight) continue;
          if (scale) q = q * load_numbers(scale, DType::kFloat32, feature, count);
          if (base) q = q + splat(sums_.get()[n]) * load_numbers(base, DType::kFloat32, feature, count);
          store_numbers(p_.grad_weight, p_.dtype, n * p_.width + at_weight, count, q);
        }
      }
    };
    product(threads_, element_of(p_), p_.out, s.width, Depth{&side.rows, 1}, Across<Rows>{dz},
            Across<SourceRows>{{p_, s, side.mean, factor, nullptr}}, write);
    if (!parts) return;
    for (int64_t k = 0; k < s.width; ++k) {
      float total = 0.0f;
      for (int64_t g = 0; g < ceil_div(p_.out, kPanel); ++g) total += parts[g * s.width + k];
      p_.grad_norm_weight[s.first + k] = total;
    }
  }

  const FusionProblem& p_;
  const Threads& threads_;
  const bool scaled_;
  bool inputs_ = false, weight_ = false;
  SlopeRows dz_;
  Memory constant_, copy_, slope_, level_, sums_;
};

}  // namespace

/// Rows and outputs exist: without them every gradient is 0, which the caller writes.
void fusion_backward(const FusionProblem& p, const Threads& threads) { Backward(p, threads).run(); }

MMK_NAMESPACE_END
