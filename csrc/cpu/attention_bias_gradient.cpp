// Gradient of a bias: ds summed over every axis along which the bias was broadcast, or along the diagonals of a table.
//
// A bias element belongs to one work item, which visits all that reads it in a fixed order:
//   a bias with a row axis    item = (batch, head, 64 rows) of the bias; a strip [row][entry] in scratch
//   without one (a table,     item = (batch, head, chunk of 1024 rows); a strip [entry] each, added in order
//   a key-only bias)
// The logits are computed anew, as in the other passes: nothing of size rows x keys is kept.

#include "backward_step.h"
#include "kernels.h"
#include "tiles.h"

MMK_NAMESPACE_BEGIN
namespace {

constexpr int64_t kChunkRows = 1024;  // fixes the order of the sum over rows

struct Owner {
  const int64_t* size;  // (batch, head, row, entry) of the bias part
  bool has_rows;
  int64_t rows, chunks, rows_per_item;

  Owner(const AttentionProblem& p, int part) : size(p.bias.size[part]) {
    has_rows = size[2] > 1;
    rows = p.len_q;
    if (p.cu_q) {
      rows = 0;
      for (int64_t b = 0; b < p.batch; ++b) rows = larger(rows, sequence_of(p, b).len_q);
    }
    rows_per_item = has_rows ? kBlockRows : kChunkRows;
    chunks = ceil_div(has_rows ? size[2] : rows, rows_per_item);
  }
  int64_t count() const { return size[0] * size[1] * chunks; }
};

int64_t entry_of(const BiasView& bias, int part, int64_t query, int64_t key) {
  if (bias.kind == BiasKind::kRelative) return key - query + bias.zero;
  if (bias.kind == BiasKind::kDecomposed) return part == 0 ? key / bias.size[1][3] : key % bias.size[1][3];
  return bias.size[0][3] == 1 ? 0 : key;
}

/// Adds the logit gradients of one (sequence, head, tile of rows) to the strip of the item that starts at `item_row`.
void add_tile(const AttentionProblem& p, const Statistics& stats, int part, const Owner& owner, int64_t item_row,
              BackwardScratch& scratch, float* strip) {
  RowTile& tile = scratch.tile;
  load_rows(p, tile, scratch, stats);
  for_each_key_block(p, tile, scratch, [&](const Slice& slice, const KeyBlock& block, const Staged& k, const Staged& v) {
    backward_step(p, tile, slice, block, k, v, scratch, /*keep_biased=*/true);
    const int64_t key = p.segments[block.segment].offset + block.first;
    const int last = smaller(slice.first + slice.rows(), tile.rows);
    for (int r = slice.first; r < last; ++r) {
      float* row = strip + (owner.has_rows ? (tile.query[r] - item_row) * owner.size[3] : 0);
      for (int32_t j = 0; j < block.keys; ++j) {
        row[entry_of(p.bias, part, tile.query[r], key + j)] += scratch.grad_logits[j * kRowStride + r];
      }
    }
  });
}

/// The strip of one item: over the batches and heads that share it, and over its rows.
void fill_strip(const AttentionProblem& p, const Statistics& stats, int part, const Owner& owner, int64_t item,
                BackwardScratch& scratch, float* strip) {
  const int64_t chunk = item % owner.chunks, head = item / owner.chunks % owner.size[1];
  const int64_t batch = item / owner.chunks / owner.size[1];
  const int64_t group = p.heads_q / p.heads_k, item_row = chunk * owner.rows_per_item;
  for (int64_t b = owner.size[0] == 1 ? 0 : batch; b < (owner.size[0] == 1 ? p.batch : batch + 1); ++b) {
    const Sequence sequence = sequence_of(p, b);
    const int64_t end = smaller(item_row + owner.rows_per_item, sequence.len_q);
    for (int64_t h = owner.size[1] == 1 ? 0 : head; h < (owner.size[1] == 1 ? p.heads_q : head + 1); ++h) {
      for (int64_t row = item_row; row < end; row += kBlockRows) {
        const int64_t first = h % group * sequence.len_q + row;
        init_rows(p, sequence, h / group, first, smaller<int64_t>(kBlockRows, end - row), scratch.tile);
        add_tile(p, stats, part, owner, item_row, scratch, strip);
      }
    }
  }
}

}  // namespace

void bias_gradient(const AttentionProblem& p, const Threads& threads, const Statistics& stats, int part) {
  const Owner owner(p, part);
  const int64_t entries = owner.size[3], items = owner.count(), heads = owner.size[0] * owner.size[1];
  const double operations = 4.0 * p.batch * p.heads_q * p.len_q * p.len_k * p.dim_qk;
  const DType dtype = p.bias.dtype[part];
  const int64_t strip_floats = owner.has_rows ? kBlockRows * entries : 1;
  float* strips = owner.has_rows ? nullptr : static_cast<float*>(std::calloc(static_cast<size_t>(items * entries + 1), 4));
  parallel(threads, items, operations, [&](Claim& claim) {
    Arena arena(BackwardScratch::floats(p) + strip_floats + 64);
    BackwardScratch scratch(p, arena);
    float* own = arena.take(strip_floats);
    for (int64_t item; (item = claim.next()) >= 0;) {
      if (!owner.has_rows) {
        fill_strip(p, stats, part, owner, item, scratch, strips + item * entries);
        continue;
      }
      memset(own, 0, static_cast<size_t>(strip_floats) * sizeof(float));
      fill_strip(p, stats, part, owner, item, scratch, own);
      const int64_t first = item % owner.chunks * kBlockRows, rows = smaller<int64_t>(kBlockRows, owner.size[2] - first);
      const int64_t to = (item / owner.chunks * owner.size[2] + first) * entries;
      narrow_run(own, rows * entries, const_cast<char*>(at(p.bias.grad[part], dtype, to)), dtype);
    }
  });
  if (owner.has_rows) return;
  for (int64_t h = 0; h < heads; ++h) {
    float* sum = strips + h * owner.chunks * entries;
    for (int64_t c = 1; c < owner.chunks; ++c) {
      for (int64_t e = 0; e < entries; ++e) sum[e] += sum[c * entries + e];
    }
    if (owner.chunks) narrow_run(sum, entries, const_cast<char*>(at(p.bias.grad[part], dtype, h * entries)), dtype);
  }
  std::free(strips);
}

MMK_NAMESPACE_END
