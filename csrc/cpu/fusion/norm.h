// The norm's statistics over the virtual concatenation, and the sums over the weight's rows that it needs.
//
// A row is read once: its sources that have every row meet in scratch, where the mean comes first and the sum of squares
// around it second. A shared source's own rows are summed once each, and joined (Chan, Golub, LeVeque 1979):
//     mean = sum_s K_s mean_s / K,   var = sum_s [SS_s + K_s (mean_s - mean)^2] / K
// RMSNorm is the case of all means 0.
#pragma once

#include "rows.h"

MMK_NAMESPACE_BEGIN

/// Mean, and sum of squares around it, of some features.
struct Moments {
  float mean, squares;
};

inline float horizontal_sum(Float x) {
  alignas(64) float lanes[kLanes];
  store(lanes, x);
  return sum_in_four_chains(lanes, kLanes);
}

/// sum of (x - centre)^power, power 1 or 2, in one chain a lane.
template <int power>
inline float sum_of(const float* x, int64_t count, float centre) {
  Float sum = splat(0.0f);
  const auto term = [&](Float v) {
    v = v - splat(centre);
    return power == 1 ? v : v * v;
  };
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) sum = sum + term(load(x + i));
  if (i < count) {
    Float rest = splat(centre);
    memcpy(&rest, x + i, static_cast<size_t>(count - i) * sizeof(float));
    sum = sum + term(rest);
  }
  return horizontal_sum(sum);
}

inline Moments moments_of(const FusionProblem& p, const float* x, int64_t count) {
  if (p.norm == NormKind::kRms) return {0.0f, sum_of<2>(x, count, 0.0f)};
  const float number = static_cast<float>(larger<int64_t>(count, 1));
  const float rough = sum_of<1>(x, count, 0.0f) / number;
  // A sum of thousands of large numbers loses digits that the deviations around it need: they are added back
  const float mean = rough + sum_of<1>(x, count, rough) / number;
  return {mean, sum_of<2>(x, count, mean)};
}

/// Moments of every own row of a shared source.
struct OwnMoments {
  const float *mean, *squares;

  OwnMoments(const FusionProblem& p, const Source& s, const Threads& threads) {
    float* means = memory_.take(2 * s.own_rows);
    float* sums = means + s.own_rows;
    mean = means;
    squares = sums;
    parallel(threads, s.own_rows, 4.0 * static_cast<double>(s.own_rows * s.width), [&](Claim& claim) {
      Arena arena(s.width + kLanes);
      float* buffer = arena.take(s.width);
      for (int64_t row; (row = claim.next()) >= 0;) {
        const float* x = read_numbers(s.x.data, p.dtype, source_offset(p, s, s.x.stride, row), s.width, buffer);
        const Moments m = moments_of(p, x, s.width);
        means[row] = m.mean;
        sums[row] = m.squares;
      }
    });
  }

 private:
  Memory memory_;
};

/// Fills p.mean (LayerNorm) and p.rstd. `own` holds the moments of the shared sources, in their order.
inline void statistics(const FusionProblem& p, const OwnMoments* own, const Threads& threads) {
  constexpr int64_t kRows = 16;  // of a work item
  int64_t width = 0;
  for (int i = 0; i < p.num_sources; ++i) width += p.sources[i].shared ? 0 : p.sources[i].width;
  const double operations = 6.0 * static_cast<double>(p.rows) * static_cast<double>(width + kLanes);
  parallel(threads, ceil_div(p.rows, kRows), operations, [&](Claim& claim) {
    Arena arena(width + kLanes);
    float* buffer = arena.take(width);
    for (int64_t item; (item = claim.next()) >= 0;) {
      for (int64_t row = item * kRows; row < smaller((item + 1) * kRows, p.rows); ++row) {
        int64_t filled = 0;
        for (int i = 0; i < p.num_sources; ++i) {
          const Source& s = p.sources[i];
          if (s.shared) continue;
          widen_run(at(s.x.data, p.dtype, offset_of(p, s.x.stride, row)), p.dtype, s.width, 1.0f, buffer + filled);
          filled += s.width;
        }
        const Moments m = moments_of(p, buffer, width);
        const float total = static_cast<float>(p.width);
        const OwnMoments* shared = own;
        float mean = m.mean * (static_cast<float>(width) / total);
        for (int i = 0; i < p.num_sources; ++i) {
          const Source& s = p.sources[i];
          if (!s.shared) continue;
          mean += shared++->mean[offset_of(p, s.own, row)] * (static_cast<float>(s.width) / total);
        }
        const auto around = [&](float own_mean, int64_t count) {
          const float d = own_mean - mean;
          return static_cast<float>(count) * (d * d);
        };
        float squares = m.squares + around(m.mean, width);
        shared = own;
        for (int i = 0; i < p.num_sources; ++i) {
          const Source& s = p.sources[i];
          if (!s.shared) continue;
          const int64_t q = offset_of(p, s.own, row);
          squares += shared->squares[q] + around(shared->mean[q], s.width);
          ++shared;
        }
        if (p.norm == NormKind::kLayer) p.mean[row] = mean;
        p.rstd[row] = 1.0f / std::sqrt(squares / total + p.eps);
      }
    }
  });
}

/// A row that goes through the weight: to[n] = start[n] + sum_k W[n, first + k] v[k], padded to whole panels with 0.
struct WeightSum {
  float* to;            // nullptr: not wanted
  const float* v;       // nullptr: ones
  const float* start;   // nullptr: 0
  bool product = true;  // false: `start` alone
};

/// Up to two of them, of features [first, first + width), in one pass over the weight.
inline void weight_sums(const FusionProblem& p, int64_t first, int64_t width, const WeightSum& one,
                        const WeightSum& other, const Threads& threads) {
  constexpr int64_t kRows = 32;
  const bool reads = (one.to && one.product) || (other.to && other.product);
  const int64_t features = reads ? width : 0;
  parallel(threads, ceil_div(p.out, kRows), 4.0 * static_cast<double>(p.out * features), [&](Claim& claim) {
    Arena arena(features + kLanes);
    float* buffer = arena.take(features);
    const StoredRows weight = weight_rows(p, first);
    const auto sum = [&](const WeightSum& s, int64_t n, const float* w) {
      if (!s.to) return;
      float total = s.start ? s.start[n] : 0.0f;
      if (s.product) {
        Float chain[2] = {splat(0.0f), splat(0.0f)};
        const auto factor = [&](int64_t k) { return s.v ? load(s.v + k) : splat(1.0f); };
        int64_t k = 0;
        for (; k + 2 * kLanes <= width; k += 2 * kLanes) {
          chain[0] = multiply_add(load(w + k), factor(k), chain[0]);
          chain[1] = multiply_add(load(w + k + kLanes), factor(k + kLanes), chain[1]);
        }
        float rest = 0.0f;
        for (; k < width; ++k) rest += w[k] * (s.v ? s.v[k] : 1.0f);
        total += horizontal_sum(chain[0] + chain[1]) + rest;
      }
      s.to[n] = total;
    };
    for (int64_t item; (item = claim.next()) >= 0;) {
      for (int64_t n = item * kRows; n < smaller((item + 1) * kRows, p.out); ++n) {
        const float* w = reads ? weight.numbers(n, 0, width, buffer) : nullptr;
        sum(one, n, w);
        sum(other, n, w);
      }
    }
  });
  for (int64_t n = p.out; n < round_up(p.out, kPanel); ++n) {
    if (one.to) one.to[n] = 0.0f;
    if (other.to) other.to[n] = 0.0f;
  }
}

MMK_NAMESPACE_END
