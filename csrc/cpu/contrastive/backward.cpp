// Contrastive loss, backward: gradients from the statistics of rows and columns, logits computed again.
//
//   for each block of 256 rows of image                    (in order: a barrier after each)
//     for each group of columns                            (a work item; at most 16, whatever the number of threads)
//       for each block of columns                          (a tile of dot products in scratch, as in the forward)
//         dx = d loss / d x; sums of dx and dx * dot
//         grad_text[columns] += dx^T image[rows]           (fp32, where the gradient is, or in a buffer of 16-bit ones)
//         part[group] += dx text[columns]
//     grad_image[rows] = scale * the parts, added in the order of the groups
//   grad_text *= scale
//
// Four products of the batch for the three that keeping the logits would take: the price of memory O(batch).

#include "../../core/activation.h"
#include "../kernels.h"
#include "tile.h"

MMK_NAMESPACE_BEGIN
namespace contrastive {
namespace {

/// Rows of a gradient before they are scaled and rounded: in the gradient itself where that is fp32.
struct Sums {
  float* data = nullptr;
  int64_t stride = 0;
};

/// to[i][j] (+)= c(i, j), a tile of `columns` columns.
inline void add_tile(const float* c, int64_t rows, int64_t columns, bool first, float* to, int64_t stride) {
  for (int64_t j = 0; j < columns; j += kLanes) {
    const float* from = c + j / kPanel * kPanel * rows + j % kPanel;
    const int64_t width = smaller<int64_t>(kLanes, columns - j);
    for (int64_t i = 0; i < rows; ++i) {
      float* target = to + i * stride + j;
      const float* more = from + i * kPanel;
      if (width == kLanes) {
        store(target, first ? load(more) : load(target) + load(more));
      } else {
        for (int64_t k = 0; k < width; ++k) target[k] = first ? more[k] : target[k] + more[k];
      }
    }
  }
}

/// to[row] = scale * from, in the gradient's type; `from` may be `to`. `buffer` holds a row.
inline void finish_row(float scale, const float* from, const ContrastiveGradient& to, int64_t row, int64_t dim,
                       float* buffer) {
  widen_run(from, DType::kFloat32, dim, scale, buffer);
  narrow_run(buffer, dim, const_cast<char*>(at(to.data, to.dtype, row * dim)), to.dtype);
}

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

class Worker {
 public:
  static constexpr int64_t floats() {
    return BlockScratch::floats() + 2 * kBlock * kBlock + kBlock * kPanel + 5 * kBlock + 256;
  }
  Worker(const ContrastiveProblem& problem, Arena& arena)
      : p_(problem),
        block_(arena),
        side_(arena),
        tile_(arena.take(kBlock * kBlock)),
        product_(arena.take(kBlock * kBlock)),
        dots_(arena.take(kBlock * kPanel)) {}

  /// Leaves dx in the tile, and adds to the sums of dx * dot and dx.
  void slopes(const Place& at, double* sums) {
    dot_products(p_, at, block_, tile_);
    const bool softmax = p_.kind == ContrastiveKind::kSoftmax;
    if (softmax) side_.read(p_.column_side, at.column, at.columns);
    for (int64_t c = 0; c < at.columns; c += kPanel) {
      softmax ? softmax_slopes(at, c) : sigmoid_slopes(at, c);
      if (p_.sums || p_.levels) finish_panel(at, c, sums);
    }
  }

  void add_to_text(const Place& at, bool first, const Sums& sums) {
    const Across<TileNumbers> dx{{tile_, at.rows}};
    const Across<StoredRows> image{embeddings(p_.image, at.row)};
    multiply(at.columns, at.rows, dx, image, first, sums.data + at.column * sums.stride, sums.stride);
  }
  void add_to_image(const Place& at, bool first, float* part, int64_t stride) {
    const Along<TileNumbers> dx{{tile_, at.rows}};
    const Across<StoredRows> text{embeddings(p_.text, at.column)};
    multiply(at.rows, at.columns, dx, text, first, part, stride);
  }

 private:
  template <class Left>
  void multiply(int64_t rows, int64_t depth, const Left& dx, const Across<StoredRows>& other, bool first, float* to,
                int64_t stride) {
    for (int64_t d = 0; d < p_.dim; d += kBlock) {
      const int64_t width = smaller(kBlock, p_.dim - d);
      product_block(element_of(p_), Depth{&depth, 1}, dx, other, 0, rows, d, width, block_, product_);
      add_tile(product_, rows, width, first, to + d, stride);
    }
  }

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
  void sigmoid_slopes(const Place& at, int64_t first) {
    float* panel = tile_ + first * at.rows;
    const Float scale = splat(p_.scale), bias = splat(p_.bias), half_smoothing = splat(0.5f * p_.smoothing);
    const auto negate = [&](int64_t r, int64_t c) { panel[r * kPanel + c] = -panel[r * kPanel + c]; };
    for (int64_t i = 0; i < at.rows * kPanel; i += kLanes) {
      const Float dot = load(panel + i);
      store(dots_ + i, dot);
      store(panel + i, dot * scale + bias);
    }
    visit_panel(at, first, negate);
    for (int64_t r = 0; r < at.rows; ++r) {
      const Float grad = splat(p_.row_side.grad[at.row + r]);
      for (int v = 0; v < kTileVectors; ++v) {
        float* y = panel + r * kPanel + v * kLanes;
        store(y, (sigmoid(load(y)) - half_smoothing) * grad);
      }
    }
    visit_panel(at, first, negate);
  }

  template <class Visit>
  void visit_panel(const Place& at, int64_t first, const Visit& visit) const {
    visit_positives(p_.positives, at, first, smaller<int64_t>(kPanel, at.columns - first), visit);
  }

  /// Takes the levels off, after the positives: p - 1 is exact. A chain of a sum is kChain rows of a column: slopes of one
  /// size, as at a scale of 0, drift by an ulp of the sum with every term.
  void finish_panel(const Place& at, int64_t first, double* sums) {
    constexpr int64_t kChain = 16;
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
  BlockScratch block_;
  ColumnSide side_;
  float *tile_, *product_, *dots_;
};

class Backward {
 public:
  Backward(const ContrastiveProblem& problem, const Threads& threads)
      : p_(problem), threads_(threads), cut_(problem.columns), stride_(round_up(problem.dim, kLanes)) {
    if (p_.grad_image.data) parts_ = parts_memory_.take(cut_.groups * kBlock * stride_);
    if (!p_.grad_text.data) return;
    if (p_.grad_text.dtype == DType::kFloat32) {
      text_ = {static_cast<float*>(p_.grad_text.data), p_.dim};
    } else {
      text_ = {text_memory_.take(p_.columns * stride_), stride_};
    }
  }

  void run() {
    for (int64_t row = 0; row < p_.rows; row += kBlock) {
      const int64_t rows = smaller(kBlock, p_.rows - row);
      const double operations =
          6.0 * static_cast<double>(rows) * static_cast<double>(p_.columns) * static_cast<double>(p_.dim + 8);
      parallel(threads_, cut_.groups, operations, [&](Claim& claim) {
        Arena arena(Worker::floats());
        Worker worker(p_, arena);
        for (int64_t g; (g = claim.next()) >= 0;) step(worker, row, rows, g);
      });
      if (parts_) add_parts(row, rows);
    }
    if (p_.grad_text.data) finish_text();
    if (!p_.sums) return;
    p_.sums[0] = p_.sums[1] = 0.0;
    for (int g = 0; g < cut_.groups; ++g) {
      p_.sums[0] += sums_[g][0];
      p_.sums[1] += sums_[g][1];
    }
  }

 private:
  /// A block of rows and a group of columns.
  void step(Worker& worker, int64_t row, int64_t rows, int64_t group) {
    for (int64_t b = cut_.first_block(group); b < cut_.first_block(group + 1); ++b) {
      const int64_t column = b * cut_.block;
      const Place at{row, rows, column, smaller(cut_.block, p_.columns - column)};
      worker.slopes(at, sums_[group]);
      if (text_.data) worker.add_to_text(at, row == 0, text_);
      if (parts_) {
        worker.add_to_image(at, b == cut_.first_block(group), parts_ + group * kBlock * stride_, stride_);
      }
    }
  }

  void add_parts(int64_t row, int64_t rows) {
    constexpr int64_t kRows = 16;  // of a work item
    const double operations = static_cast<double>(rows * stride_ * cut_.groups);
    parallel(threads_, ceil_div(rows, kRows), operations, [&](Claim& claim) {
      Arena arena(stride_);
      float* buffer = arena.take(stride_);
      for (int64_t item; (item = claim.next()) >= 0;) {
        for (int64_t r = item * kRows; r < smaller((item + 1) * kRows, rows); ++r) {
          float* sum = parts_ + r * stride_;
          for (int64_t d = 0; d < p_.dim; d += kLanes) {
            Float total = load(sum + d);
            for (int g = 1; g < cut_.groups; ++g) total = total + load(sum + g * kBlock * stride_ + d);
            store(sum + d, total);
          }
          finish_row(p_.scale, sum, p_.grad_image, row + r, p_.dim, buffer);
        }
      }
    });
  }

  void finish_text() {
    constexpr int64_t kRows = 64;
    parallel(threads_, ceil_div(p_.columns, kRows), static_cast<double>(p_.columns * p_.dim), [&](Claim& claim) {
      Arena arena(stride_);
      float* buffer = arena.take(stride_);
      for (int64_t item; (item = claim.next()) >= 0;) {
        for (int64_t j = item * kRows; j < smaller((item + 1) * kRows, p_.columns); ++j) {
          finish_row(p_.scale, text_.data + j * text_.stride, p_.grad_text, j, p_.dim, buffer);
        }
      }
    });
  }

  const ContrastiveProblem& p_;
  const Threads& threads_;
  const Cut cut_;
  const int64_t stride_;               // of rows in scratch
  Memory parts_memory_, text_memory_;  // text: where its gradient is narrower
  float* parts_ = nullptr;             // of grad_image, one per group of columns
  Sums text_;
  double sums_[kMaxGroups][2] = {};  // of dx * dot and of dx
};

}  // namespace
}  // namespace contrastive

void contrastive_backward(const ContrastiveProblem& p, const Threads& threads) {
  if (p.rows > 0 && p.columns > 0) contrastive::Backward(p, threads).run();
}

MMK_NAMESPACE_END
