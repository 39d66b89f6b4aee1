// Contrastive loss of the softmax kind, forward: statistics of every row and column of x = scale * image text^T in one sweep.
//
//   for each group of rows                 (a work item; at most 16, whatever the number of threads)
//     for each block of rows               (row states start empty)
//       for each block of 256 columns      (a tile of dot products in scratch)
//         x = scale * dot; maxima of the tile's rows and columns
//         old sums of rows and columns are brought to the new maxima; sums += exp(x - maximum)
//       a row's state is complete
//   columns: the states of the groups are merged in order
//
// A row's state is one (maximum, sum) per lane, merged when the row is complete: no reduction across lanes in a tile. A
// column is a lane anyway. The sigmoid kind needs no statistics: see backward.cpp.
// Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018.

#include "../kernels.h"
#include "tile.h"

MMK_NAMESPACE_BEGIN
namespace contrastive {
namespace {

/// What a group of rows knows of the columns, one number each.
struct ColumnState {
  float *maximum, *sum, *hit, *total;

  static int64_t width(const ContrastiveProblem& p) { return round_up(p.columns, kPanel); }
  static int64_t floats(const ContrastiveProblem& p) { return 4 * width(p); }
  ColumnState(const ContrastiveProblem& p, float* memory)
      : maximum(memory), sum(memory + width(p)), hit(sum + width(p)), total(hit + width(p)) {}
  void reset(int64_t count) const {
    for (int64_t i = 0; i < count; ++i) {
      maximum[i] = -INFINITY;
      sum[i] = hit[i] = total[i] = 0.0f;
    }
  }
};

/// What a block of rows knows: one number per row and lane, but for the positives.
struct RowState {
  float *maximum, *sum, *total, *shift;  // shift: of the tile at hand, to subtract before exponentials
  double hit[kBlock];

  static constexpr int64_t floats() { return 4 * kBlock * kLanes; }
  explicit RowState(Arena& arena) {
    float** parts[] = {&maximum, &sum, &total, &shift};
    for (float** part : parts) *part = arena.take(kBlock * kLanes);
  }
  void reset() {
    for (int64_t i = 0; i < kBlock * kLanes; ++i) {
      maximum[i] = -INFINITY;
      sum[i] = total[i] = 0.0f;
    }
    for (double& x : hit) x = 0.0;
  }
};

/// The lanes of a row, or the groups of a column, as one: kept like reference.py's, maximum and logarithm apart.
struct Whole {
  float maximum, log_sum;
};
inline Whole whole_of(const float* maxima, const float* sums) {
  const Float lanes = load(maxima);
  const float maximum = horizontal_maximum(lanes);
  const Float weighted = load(sums) * exponential(lanes - splat(safe_shift(maximum)));
  float sum = 0.0f;
  for (int i = 0; i < kLanes; ++i) sum += weighted[i];
  return {maximum, std::log(sum)};
}

class Worker {
 public:
  static constexpr int64_t floats() {
    return BlockScratch::floats() + RowState::floats() + kBlock * kBlock + 2 * kBlock + 256;
  }
  Worker(const ContrastiveProblem& problem, Arena& arena)
      : p_(problem),
        block_(arena),
        row_(arena),
        tile_(arena.take(kBlock * kBlock)),
        maximum_(arena.take(kBlock)),
        hit_(arena.take(kBlock)) {}

  /// A block of rows against every column.
  void run(int64_t first, int64_t rows, const ColumnState& column) {
    row_.reset();
    for (int64_t j = 0; j < p_.columns; j += kBlock) {
      const Place at{first, rows, j, smaller(kBlock, p_.columns - j)};
      dot_products(p_, at, block_, tile_);
      for (int64_t i = 0; i < rows * kLanes; ++i) row_.shift[i] = -INFINITY;
      for (int64_t c = 0; c < at.columns; c += kPanel) find_maxima(at, c, column);
      rescale_rows(rows);
      for (int64_t c = 0; c < at.columns; c += kPanel) add_exponentials(at, c, column);
    }
    for (int64_t r = 0; r < rows; ++r) {
      const Whole whole = whole_of(row_.maximum + r * kLanes, row_.sum + r * kLanes);
      p_.row.maximum[first + r] = whole.maximum;
      p_.row.log_sum[first + r] = whole.log_sum;
      p_.row.hit[first + r] = static_cast<float>(row_.hit[r]);
      if (p_.row.total) p_.row.total[first + r] = sum_of_lanes(row_.total + r * kLanes);
    }
  }

 private:
  static float sum_of_lanes(const float* x) { return sum_in_four_chains(x, kLanes); }

  /// x = scale * dot in place, -inf beyond the last column; maxima of rows and columns, sums of logits.
  void find_maxima(const Place& at, int64_t first, const ColumnState& column) {
    const PanelLanes lanes(at.columns - first);
    float* panel = tile_ + first * at.rows;
    const Float scale = splat(p_.scale);
    Float maxima[kTileVectors];
    for (int v = 0; v < kTileVectors; ++v) maxima[v] = splat(-INFINITY);
    for (int64_t r = 0; r < at.rows; ++r) {
      Float row_maximum = load(row_.shift + r * kLanes);
      for (int v = 0; v < kTileVectors; ++v) {
        float* x = panel + r * kPanel + v * kLanes;
        const Float logit = lanes.keep(v, load(x) * scale, splat(-INFINITY));
        store(x, logit);
        maxima[v] = maximum(maxima[v], logit);
        row_maximum = maximum(row_maximum, logit);
      }
      store(row_.shift + r * kLanes, row_maximum);
    }
    for (int v = 0; v < kTileVectors; ++v) store(maximum_ + first + v * kLanes, maxima[v]);
    if (p_.row.total) add_totals(at, first, lanes, column);
    add_positives(at, first, column);
  }

  void add_totals(const Place& at, int64_t first, const PanelLanes& lanes, const ColumnState& column) {
    const float* panel = tile_ + first * at.rows;
    Float totals[kTileVectors];
    for (int v = 0; v < kTileVectors; ++v) totals[v] = splat(0.0f);
    for (int64_t r = 0; r < at.rows; ++r) {
      Float row_total = splat(0.0f);
      for (int v = 0; v < kTileVectors; ++v) {
        const Float x = lanes.keep(v, load(panel + r * kPanel + v * kLanes), splat(0.0f));
        totals[v] = totals[v] + x;
        row_total = row_total + x;
      }
      store(row_.total + r * kLanes, load(row_.total + r * kLanes) + row_total);
    }
    float* to = column.total + at.column + first;
    for (int v = 0; v < kTileVectors; ++v) store(to + v * kLanes, load(to + v * kLanes) + totals[v]);
  }

  void add_positives(const Place& at, int64_t first, const ColumnState& column) {
    const float* panel = tile_ + first * at.rows;
    const int64_t columns = smaller<int64_t>(kPanel, at.columns - first);
    if (!p_.positives.matrix) {  // a column's are added up from the rows' (finish_columns)
      visit_positives(p_.positives, at, first, columns,
                      [&](int64_t r, int64_t c) { row_.hit[r] += static_cast<double>(panel[r * kPanel + c]); });
      return;
    }
    for (int64_t c = 0; c < columns; ++c) hit_[c] = 0.0f;
    visit_positives(p_.positives, at, first, columns, [&](int64_t r, int64_t c) {
      row_.hit[r] += static_cast<double>(panel[r * kPanel + c]);
      hit_[c] += panel[r * kPanel + c];
    });
    for (int64_t c = 0; c < columns; ++c) column.hit[at.column + first + c] += hit_[c];
  }

  /// The rows' sums at the tile's new maxima.
  void rescale_rows(int64_t rows) {
    for (int64_t i = 0; i < rows * kLanes; i += kLanes) {
      const Float before = load(row_.maximum + i), now = maximum(before, load(row_.shift + i));
      const Float shift = safe_shift(now);
      store(row_.maximum + i, now);
      store(row_.shift + i, shift);
      store(row_.sum + i, load(row_.sum + i) * exponential(before - shift));
    }
  }

  void add_exponentials(const Place& at, int64_t first, const ColumnState& column) {
    const float* panel = tile_ + first * at.rows;
    float *column_maximum = column.maximum + at.column + first, *column_sum = column.sum + at.column + first;
    Float shift[kTileVectors], sum[kTileVectors], factor[kTileVectors];
    for (int v = 0; v < kTileVectors; ++v) {
      const Float before = load(column_maximum + v * kLanes);
      const Float now = maximum(before, load(maximum_ + first + v * kLanes));
      store(column_maximum + v * kLanes, now);
      shift[v] = safe_shift(now);
      factor[v] = exponential(before - shift[v]);
      sum[v] = splat(0.0f);
    }
    for (int64_t r = 0; r < at.rows; ++r) {
      const Float row_shift = load(row_.shift + r * kLanes);
      Float row_sum = load(row_.sum + r * kLanes);
      for (int v = 0; v < kTileVectors; ++v) {
        const Float x = load(panel + r * kPanel + v * kLanes);
        row_sum = row_sum + softmax_weight(x - row_shift);
        sum[v] = sum[v] + softmax_weight(x - shift[v]);
      }
      store(row_.sum + r * kLanes, row_sum);
    }
    for (int v = 0; v < kTileVectors; ++v) {
      store(column_sum + v * kLanes, multiply_add(load(column_sum + v * kLanes), factor[v], sum[v]));
    }
  }

  const ContrastiveProblem& p_;
  BlockScratch block_;
  RowState row_;
  float *tile_, *maximum_, *hit_;
};

/// The positives of columns from those of rows, where a row has one at most. Many rows may share a column.
void add_up_hits(const ContrastiveProblem& p) {
  Memory memory;
  double* sum = reinterpret_cast<double*>(memory.take(2 * p.columns));
  for (int64_t j = 0; j < p.columns; ++j) sum[j] = 0.0;
  visit_positives(p.positives, Place{0, p.rows, 0, p.columns}, 0, p.columns,
                  [&](int64_t r, int64_t c) { sum[c] += static_cast<double>(p.row.hit[r]); });
  for (int64_t j = 0; j < p.columns; ++j) p.column.hit[j] = static_cast<float>(sum[j]);
}

/// Columns from the groups' states, in the order of the groups.
void finish_columns(const ContrastiveProblem& p, const Cut& cut, float* states) {
  const auto state = [&](int g) { return ColumnState(p, states + g * ColumnState::floats(p)); };
  const int64_t width = ColumnState::width(p);
  const ColumnState whole = state(0);
  for (int g = 1; g < cut.groups; ++g) {
    const ColumnState next = state(g);
    for (int64_t j = 0; j < width; j += kLanes) {
      const Merge<Float> merge = merge_factors(load(whole.maximum + j), load(next.maximum + j));
      store(whole.maximum + j, merge.row_max);
      store(whole.sum + j, merged(merge, load(whole.sum + j), load(next.sum + j)));
      store(whole.hit + j, load(whole.hit + j) + load(next.hit + j));
      store(whole.total + j, load(whole.total + j) + load(next.total + j));
    }
  }
  for (int64_t j = 0; j < p.columns; ++j) {
    p.column.maximum[j] = whole.maximum[j];
    p.column.log_sum[j] = std::log(whole.sum[j]);
    p.column.hit[j] = whole.hit[j];
    if (p.column.total) p.column.total[j] = whole.total[j];
  }
  if (!p.positives.matrix) add_up_hits(p);
}

}  // namespace
}  // namespace contrastive

void contrastive_forward(const ContrastiveProblem& p, const Threads& threads) {
  using namespace contrastive;
  if (p.rows == 0 || p.columns == 0) return;
  const Cut cut(p.rows);
  Memory memory;
  float* states = memory.take(cut.groups * ColumnState::floats(p));
  const double operations = 2.0 * static_cast<double>(p.rows) * static_cast<double>(p.columns) *
                            static_cast<double>(p.dim + 16);  // an exponential is about 16
  parallel(threads, cut.groups, operations, [&](Claim& claim) {
    Arena arena(Worker::floats());
    Worker worker(p, arena);
    for (int64_t g; (g = claim.next()) >= 0;) {
      const ColumnState column(p, states + g * ColumnState::floats(p));
      column.reset(ColumnState::width(p));
      for (int64_t b = cut.first_block(g); b < cut.first_block(g + 1); ++b) {
        worker.run(b * cut.block, smaller(cut.block, p.rows - b * cut.block), column);
      }
    }
  });
  finish_columns(p, cut, states);
}

MMK_NAMESPACE_END
