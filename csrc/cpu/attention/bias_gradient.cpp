// Gradient of a bias on its own: ds summed over every axis along which the bias was broadcast, or along the diagonals of
// a table. Serves the biases that the whole pass does not own (shared by heads, or too few items for the threads), and
// sums in the same order as it does.

#include "../parallel.h"
#include "backward_passes.h"

MMK_NAMESPACE_BEGIN
namespace {

/// Adds to the strip of one item (batch, head, rows [first, first + count) of the bias) all that reads it.
void fill_strip(const AttentionProblem& p, const Statistics& stats, const BiasPart& owner, int64_t batch, int64_t head,
                int64_t first, int64_t count, BackwardScratch& scratch, float* strip, double* total) {
  const int64_t group = p.heads_q / p.heads_k, last = first + count;
  Targets to;
  to.bias[0] = owner;
  to.strip[0] = strip;
  for (int64_t row = first; row < last; row += kBlockRows) {
    for (int64_t b = owner.size[0] == 1 ? 0 : batch; b < (owner.size[0] == 1 ? p.batch : batch + 1); ++b) {
      const Sequence sequence = sequence_of(p, b);
      const int64_t rows = smaller<int64_t>(kBlockRows, smaller(last, sequence.len_q) - row);
      if (rows <= 0) continue;
      for (int64_t h = owner.size[1] == 1 ? 0 : head; h < (owner.size[1] == 1 ? p.heads_q : head + 1); ++h) {
        init_rows(p, sequence, h / group, h % group * sequence.len_q + row, rows, scratch.rows.tile);
        accumulate_tile(p, all_keys(p), stats, scratch, to);
        if (total) empty_strip(strip, owner.entries, total);
      }
    }
  }
}

}  // namespace

void bias_gradient(const AttentionProblem& p, const Threads& threads, const Statistics& stats, int part) {
  const BiasPart owner(p, part);
  int64_t rows = owner.size[2];
  if (!owner.has_rows) {
    rows = 0;
    for (int64_t b = 0; b < p.batch; ++b) rows = larger(rows, sequence_of(p, b).len_q);
  }
  const int64_t rows_per_item = owner.has_rows ? kBlockRows : kChunkRows;
  const int64_t chunks =
      larger<int64_t>(1, ceil_div(rows, rows_per_item));  // no rows: one empty chunk writes the zeros
  const int64_t owners = owner.size[0] * owner.size[1], items = owners * chunks, entries = owner.entries;
  const double operations = 4.0 * p.batch * p.heads_q * p.len_q * p.len_k * p.dim_qk;
  const int64_t strip_floats = (owner.has_rows ? kBlockRows : 1) * entries;
  double* totals = owner.has_rows
                       ? nullptr
                       : static_cast<double*>(std::calloc(static_cast<size_t>(items * entries + 1), sizeof(double)));
  parallel(threads, items, operations, [&](Claim& claim) {
    Arena arena(BackwardScratch::floats(p) + strip_floats + 64);
    BackwardScratch scratch(p, arena);
    float* strip = arena.take(strip_floats);
    for (int64_t item; (item = claim.next()) >= 0;) {
      const int64_t index = item / chunks, first = item % chunks * rows_per_item;
      const int64_t count = smaller(rows_per_item, rows - first);
      clear(strip, strip_floats);
      fill_strip(p, stats, owner, index / owner.size[1], index % owner.size[1], first, count, scratch, strip,
                 totals ? totals + item * entries : nullptr);
      if (owner.has_rows) {
        narrow_run(strip, count * entries, owner.grad_at((index * rows + first) * entries), owner.dtype());
      }
    }
  });
  if (owner.has_rows) return;
  Arena arena(entries);
  float* row = arena.take(entries);
  for (int64_t i = 0; i < owners; ++i) {
    double* sum = totals + i * chunks * entries;
    for (int64_t c = 1; c < chunks; ++c) {
      for (int64_t e = 0; e < entries; ++e) sum[e] += sum[c * entries + e];
    }
    write_total(sum, owner, i * entries, row);
  }
  std::free(totals);
}

MMK_NAMESPACE_END
