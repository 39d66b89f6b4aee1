// Contrastive loss, backward: gradients from the statistics of rows and columns, logits computed again. The sigmoid kind
// needs no statistics, so that its losses come out of the same sweep: with gradients, or alone.
//
//   for each block of 256 rows of image                    (in order: a barrier after each)
//     for each group of columns                            (a work item; at most 16, whatever the number of threads)
//       for each block of columns                          (a tile of dot products in scratch, as in the forward)
//         dx = d loss / d x; sums of dx and dx * dot, and of losses (sigmoid)
//         grad_text[columns] += dx^T image[rows]           (fp32, where the gradient is, or in a buffer of 16-bit ones)
//         part[group] += dx text[columns]
//     grad_image[rows] = scale * the parts, added in the order of the groups; losses likewise
//   grad_text *= scale
//
// After a forward of one product that makes four of the batch for the three that keeping the logits would take: the price
// of memory O(batch), but not for a sigmoid loss whose gradients are made with it.

#include "../kernels.h"
#include "slopes.h"

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

class Worker {
 public:
  static constexpr int64_t floats() { return BlockScratch::floats() + Slopes::floats() + 2 * kBlock * kBlock + 256; }
  Worker(const ContrastiveProblem& problem, Arena& arena)
      : p_(problem),
        block_(arena),
        slopes_(problem, arena),
        tile_(arena.take(kBlock * kBlock)),
        product_(arena.take(kBlock * kBlock)) {}

  /// Leaves dx in the tile, and adds to the sums of dx * dot and dx, and to the losses of the tile's rows.
  void slopes(const Place& at, double* sums, double* losses) {
    dot_products(p_, at, block_, tile_);
    slopes_.replace(at, tile_, sums, losses);
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

  const ContrastiveProblem& p_;
  BlockScratch block_;
  Slopes slopes_;
  float *tile_, *product_;
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
    const double products = 1.0 + (parts_ ? 1.0 : 0.0) + (text_.data ? 1.0 : 0.0);
    for (int64_t row = 0; row < p_.rows; row += kBlock) {
      const int64_t rows = smaller(kBlock, p_.rows - row);
      const double operations = 2.0 * products * static_cast<double>(rows) * static_cast<double>(p_.columns) *
                                static_cast<double>(p_.dim + 8);
      parallel(threads_, cut_.groups, operations, [&](Claim& claim) {
        Arena arena(Worker::floats());
        Worker worker(p_, arena);
        for (int64_t g; (g = claim.next()) >= 0;) step(worker, row, rows, g);
      });
      if (parts_) add_parts(row, rows);
      if (p_.row_loss) add_losses(row, rows);
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
    for (double& loss : losses_[group]) loss = 0.0;
    for (int64_t b = cut_.first_block(group); b < cut_.first_block(group + 1); ++b) {
      const int64_t column = b * cut_.block;
      const Place at{row, rows, column, smaller(cut_.block, p_.columns - column)};
      worker.slopes(at, sums_[group], losses_[group]);
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

  void add_losses(int64_t row, int64_t rows) {
    for (int64_t r = 0; r < rows; ++r) {
      double total = 0.0;
      for (int g = 0; g < cut_.groups; ++g) total += losses_[g][r];
      p_.row_loss[row + r] = static_cast<float>(total);
    }
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
  double sums_[kMaxGroups][2] = {};    // of dx * dot and of dx
  double losses_[kMaxGroups][kBlock];  // of the rows at hand
};

}  // namespace
}  // namespace contrastive

void contrastive_backward(const ContrastiveProblem& p, const Threads& threads) {
  if (p.rows > 0 && p.columns > 0) contrastive::Backward(p, threads).run();
}

MMK_NAMESPACE_END
