// What a tile of dot products becomes: d loss / d x, in place, and the sums that are made on the way: of dx and dx * dot,
// and of the sigmoid kind's losses, which need no statistics.
#pragma once

#include "../../core/activation.h"
#include "../../core/softplus.h"
#include "tile.h"

MMK_NAMESPACE_BEGIN
namespace contrastive {

/// Terms of a sum in fp32, before it goes to one in fp64: terms of one size, as at a scale of 0, drift by an ulp of the
/// sum with every term.
constexpr int64_t kChain = 16;

/// One direction's numbers for the columns of a tile, 0 beyond the last one.
struct ColumnSide {
  float *maximum, *log_sum, *grad, *hit, *level;

  explicit ColumnSide(Arena& arena) {
    float** parts[] = {&maximum, &log_sum, &grad, &hit, &level};
    for (float** part : parts) *part = arena.take(kBlock);
  }
  void read(const ContrastiveSide& side, int64_t first, int64_t columns) const {
    const float* from[] = {side.maximum, side.log_sum, side.grad, side.hit, side.level};
    float* to[] = {maximum, log_sum, grad, hit, level};
    for (int i = 0; i < 5; ++i) {
      for (int64_t c = 0; c < kBlock; ++c) to[i][c] = c < columns ? from[i][first + c] : 0.0f;
    }
  }
};

class Slopes {
 public:
  static constexpr int64_t floats() { return kBlock * (kPanel + kLanes + 5) + 256; }
  Slopes(const ContrastiveProblem& problem, Arena& arena)
      : p_(problem), side_(arena), dots_(arena.take(kBlock * kPanel)), chains_(arena.take(kBlock * kLanes)) {}

  /// Leaves dx in a tile of dot products, and adds to the sums of dx * dot and dx, and to the losses of the tile's rows.
  void replace(const Place& at, float* tile, double* sums, double* losses) {
    tile_ = tile;
    if (p_.kind == ContrastiveKind::kSoftmax) side_.read(p_.column_side, at.column, at.columns);
    for (int64_t c = 0; c < at.columns; c += kPanel) {
      p_.kind == ContrastiveKind::kSoftmax ? softmax_slopes(at, c) : sigmoid_slopes(at, c, losses);
      if (p_.sums || p_.levels) finish_panel(at, c, sums);
    }
  }

 private:
  /// Both directions' probabilities less the positives, in place of the dot products, which go to dots_.
  void softmax_slopes(const Place& at, int64_t first) {
    float* panel = tile_ + first * at.rows;
    const Float scale = splat(p_.scale);
    const ContrastiveSide& row = p_.row_side;
    Float maximum[kTileVectors], log_sum[kTileVectors], grad[kTileVectors];
    for (int v = 0; v < kTileVectors; ++v) {
      maximum[v] = load(side_.maximum + first + v * kLanes);
      log_sum[v] = load(side_.log_sum + first + v * kLanes);
      grad[v] = load(side_.grad + first + v * kLanes);
    }
    for (int64_t r = 0; r < at.rows; ++r) {
      const Float row_maximum = splat(row.maximum[at.row + r]), row_log_sum = splat(row.log_sum[at.row + r]);
      const Float row_grad = splat(row.grad[at.row + r]);
      for (int v = 0; v < kTileVectors; ++v) {
        const Float dot = load(panel + r * kPanel + v * kLanes), x = dot * scale;
        store(dots_ + r * kPanel + v * kLanes, dot);
        const Float by_row = softmax_weight((x - row_maximum) - row_log_sum);
        const Float by_column = softmax_weight((x - maximum[v]) - log_sum[v]);
        store(panel + r * kPanel + v * kLanes, multiply_add(by_row, row_grad, by_column * grad[v]));
      }
    }
    visit_panel(at, first,
                [&](int64_t r, int64_t c) { panel[r * kPanel + c] -= row.hit[at.row + r] + side_.hit[first + c]; });
  }

  /// With y = x for negatives and -x for positives: dx = +-(sigmoid(y) - smoothing / 2) * grad.
  void sigmoid_slopes(const Place& at, int64_t first, double* losses) {
    float* panel = tile_ + first * at.rows;
    const Float scale = splat(p_.scale), bias = splat(p_.bias), half_smoothing = splat(0.5f * p_.smoothing);
    const auto negate = [&](int64_t r, int64_t c) { panel[r * kPanel + c] = -panel[r * kPanel + c]; };
    for (int64_t i = 0; i < at.rows * kPanel; i += kLanes) {
      const Float dot = load(panel + i);
      store(dots_ + i, dot);
      store(panel + i, dot * scale + bias);
    }
    visit_panel(at, first, negate);
    if (p_.row_loss) add_losses(at, first, losses);
    if (!p_.row_side.grad) return;
    for (int64_t r = 0; r < at.rows; ++r) {
      const Float grad = splat(p_.row_side.grad[at.row + r]);
      for (int v = 0; v < kTileVectors; ++v) {
        float* y = panel + r * kPanel + v * kLanes;
        store(y, (sigmoid(load(y)) - half_smoothing) * grad);
      }
    }
    visit_panel(at, first, negate);
  }

  /// softplus(y) - smoothing / 2 * y of the panel, by rows. A chain is kChain columns of a lane, or what the tile has.
  void add_losses(const Place& at, int64_t first, double* losses) {
    constexpr int64_t kColumns = kChain * kLanes;
    static_assert(kColumns % kPanel == 0);
    const PanelLanes lanes(at.columns - first);
    const float* panel = tile_ + first * at.rows;
    const Float smoothing = splat(-0.5f * p_.smoothing);
    const int64_t next = first + kPanel;
    const bool begins = first % kColumns == 0, ends = next % kColumns == 0 || next >= at.columns;
    for (int64_t r = 0; r < at.rows; ++r) {
      Float sum = splat(0.0f);
      for (int v = 0; v < kTileVectors; ++v) {
        const Float y = load(panel + r * kPanel + v * kLanes);
        Float term = softplus(y);
        if (p_.smoothing != 0.0f) term = multiply_add(y, smoothing, term);
        sum = sum + lanes.keep(v, term, splat(0.0f));
      }
      if (!begins) sum = load(chains_ + r * kLanes) + sum;
      store(chains_ + r * kLanes, sum);
      for (int i = 0; ends && i < kLanes; ++i) losses[r] += static_cast<double>(sum[i]);
    }
  }

  template <class Visit>
  void visit_panel(const Place& at, int64_t first, const Visit& visit) const {
    visit_positives(p_.positives, at, first, smaller<int64_t>(kPanel, at.columns - first), visit);
  }

  /// Takes the levels off, after the positives: p - 1 is exact. A chain of a sum is kChain rows of a column.
  void finish_panel(const Place& at, int64_t first, double* sums) {
    const PanelLanes lanes(at.columns - first);
    float* panel = tile_ + first * at.rows;
    for (int64_t begin = 0; begin < at.rows; begin += kChain) {
      Float with_dot[kTileVectors], alone[kTileVectors];
      for (int v = 0; v < kTileVectors; ++v) with_dot[v] = alone[v] = splat(0.0f);
      for (int64_t r = begin; r < smaller(begin + kChain, at.rows); ++r) {
        for (int v = 0; v < kTileVectors; ++v) {
          float* x = panel + r * kPanel + v * kLanes;
          Float dx = load(x);
          if (p_.levels) {
            dx = dx - (splat(p_.row_side.level[at.row + r]) + load(side_.level + first + v * kLanes));
            store(x, dx);
          }
          const Float dot = lanes.keep(v, load(dots_ + r * kPanel + v * kLanes), splat(0.0f));
          dx = lanes.keep(v, dx, splat(0.0f));
          with_dot[v] = multiply_add(dx, dot, with_dot[v]);
          alone[v] = alone[v] + dx;
        }
      }
      for (int v = 0; v < kTileVectors; ++v) {
        for (int i = 0; i < kLanes; ++i) {
          sums[0] += static_cast<double>(with_dot[v][i]);
          sums[1] += static_cast<double>(alone[v][i]);
        }
      }
    }
  }

  const ContrastiveProblem& p_;
  ColumnSide side_;
  float *tile_ = nullptr, *dots_, *chains_;
};

}  // namespace contrastive
MMK_NAMESPACE_END
