// The two kinds of sources of a call: those that have every row of the output, and those shared by several rows.
#pragma once

#include "norm.h"

MMK_NAMESPACE_BEGIN

/// The norm's statistics, into p.mean and p.rstd, and the moments of the shared sources, which a LayerNorm centres by.
class Norm {
 public:
  Norm(const FusionProblem& p, const Threads& threads) : own_(p.num_sources), centred_(p.norm == NormKind::kLayer) {
    if (p.norm == NormKind::kNone) return;
    for (int i = 0; i < p.num_sources; ++i) {
      if (p.sources[i].shared) own_.add(p, p.sources[i], threads);
    }
    statistics(p, own_.data(), threads);
  }
  /// Means of the own rows of the shared source that is the i-th, or nullptr where nothing is centred.
  const float* own_mean(int64_t i) const { return centred_ ? own_[i].mean : nullptr; }

 private:
  List<OwnMoments> own_;
  const bool centred_;
};

/// The sources that have every row, as parts of a product's depth. Centred and scaled, but for rstd, by a norm.
class FullSources {
 public:
  explicit FullSources(const FusionProblem& p) : rows_(p.num_sources), weights_(p.num_sources), widths_(p.num_sources) {
    const bool centred = p.norm == NormKind::kLayer;
    for (int i = 0; i < p.num_sources; ++i) {
      const Source& s = p.sources[i];
      if (s.shared || s.width == 0) continue;
      const float* scale = p.norm_weight ? p.norm_weight + s.first : nullptr;
      rows_.add(p, s, centred ? p.mean : nullptr, nullptr, scale);
      weights_.add(weight_rows(p, s.first));
      widths_.add(s.width);
    }
  }
  Depth depth() const { return {widths_.data(), static_cast<int>(widths_.size())}; }
  Parts<SourceRows> rows() const { return {rows_.data()}; }
  Parts<StoredRows> weights() const { return {weights_.data()}; }

 private:
  List<SourceRows> rows_;
  List<StoredRows> weights_;
  List<int64_t> widths_;
};

/// The products of the shared sources, multiplied once for their own rows.
class Shared {
 public:
  Shared(const FusionProblem& p, const Norm& norm, const Threads& threads)
      : p_(p), width_(round_up(p.out, kPanel)), parts_(p.num_sources) {
    for (int i = 0, index = 0; i < p.num_sources; ++i) {
      const Source& s = p.sources[i];
      if (!s.shared) continue;
      const float* mean = norm.own_mean(index++);
      const float* scale = p.norm_weight ? p.norm_weight + s.first : nullptr;
      Part& part = parts_.add(&s, mean);
      float* product_rows = part.product.take(s.own_rows * width_);
      const int64_t width = width_;
      const auto keep = [=](int64_t row, int64_t rows, int64_t column, int64_t columns, const Block& c) {
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t j = 0; j < columns; j += kLanes) {
            store(product_rows + (row + r) * width + column + j, load(c.at(r, j)));
          }
        }
      };
      product(threads, element_of(p), s.own_rows, p.out, Depth{&s.width, 1},
              Along<SourceRows>{{p, s, mean, nullptr, scale}}, Along<StoredRows>{weight_rows(p, s.first)}, keep);
      if (mean) {
        weight_sums(p, s.first, s.width, {part.level.take(width_), scale, nullptr}, {}, threads);
      }
    }
  }

  bool any() const { return parts_.size() > 0; }

  /// Columns [column, column + columns) of a row of a block, and what the shared sources add to them before rstd.
  void add(int64_t row, int64_t column, int64_t columns, const Block& c, int64_t block_row, float* to) const {
    for (int64_t i = 0; i < columns; i += kLanes) store(to + i, load(c.at(block_row, i)));
    for (const Part& part : parts_) {
      const int64_t own = offset_of(p_, part.source->own, row);
      const float* rows = part.product.get() + own * width_ + column;
      for (int64_t i = 0; i < columns; i += kLanes) store(to + i, load(to + i) + load(rows + i));
      if (!part.mean) continue;
      const Float shift = splat(part.mean[own] - p_.mean[row]);
      const float* level = part.level.get() + column;
      for (int64_t i = 0; i < columns; i += kLanes) store(to + i, multiply_add(shift, load(level + i), load(to + i)));
    }
  }

 private:
  struct Part {
    Part(const Source* s, const float* m) : source(s), mean(m) {}
    const Source* source;
    const float* mean;      // of the own rows, or nullptr: not centred
    Memory product, level;  // (own rows, width_); W g, what a difference of means is multiplied by
  };
  const FusionProblem& p_;
  const int64_t width_;
  List<Part> parts_;
};

MMK_NAMESPACE_END
