// Attention backward in passes that share one step per (slice of rows, block of keys):
//
//   s = k q^T; p = exp(s - lse); dp = v do^T; ds = p * (keep * dp - delta),  delta = rowsum(do * out) - dlse
//
//   statistics   delta, and the shift and factor that turn logits into probabilities, per row
// and then, where there are (batch, key head) pairs enough for the threads,
//   whole pass   one work item per pair: dq, dk, dv and dbias together, 5 products a tile
// or, where there are not, but keys enough,
//   wave pass    one work item per pair and chunk of keys: dq, dk and dv together
// else (and for the biases that the whole pass does not own)
//   query pass   one item per tile of rows: dq; 3 products
//   key pass     one item per block of keys: dk and dv over all rows that share the head; 4 products
//   bias pass    one item per piece of the bias (attention_bias_gradient.cpp); 2 products
//
// Every sum is the same chain in the same order either way, no atomics: bits do not depend on the choice, nor on
// threads. Kept beside tiles and O(rows) statistics: dk and dv in fp32 (whole pass), parts of dq (wave pass).
// Dao et al., "FlashAttention", 2022, algorithm 4; Dao, "FlashAttention-2", 2023.

#include "../../core/softmax.h"
#include "../kernels.h"
#include "../parallel.h"
#include "backward_passes.h"
#include "tiles.h"

MMK_NAMESPACE_BEGIN
namespace {

int64_t row_index(const AttentionProblem& p, const RowTile& tile, int r) {
  return Statistics::index(p, tile.sequence, tile.head[r], tile.query[r]);
}

// ---- statistics ----

/// exp(logit - lse) loses lse's rounding, which is the whole answer where lse is large (a row of finfo.min): such rows
/// get their maximum and sum anew.
void recompute_large(const AttentionProblem& p, BackwardScratch& scratch, const Statistics& stats) {
  RowTile& tile = scratch.rows.tile;
  constexpr float kLarge = 64.0f;
  bool any_large = false;
  for (int r = 0; r < tile.rows; ++r) {
    const float shift = stats.shift[row_index(p, tile, r)];
    any_large |= std::isfinite(shift) && std::fabs(shift) > kLarge;
  }
  if (!any_large) return;
  alignas(64) float row_max[kRowStride], row_sum[kRowStride];
  for (int r = 0; r < tile.padded; ++r) {
    row_max[r] = -INFINITY;
    row_sum[r] = 0.0f;
  }
  pack_rows(element_of(p), p.query, tile, p.dim_qk, p.scale, scratch.rows.query_rows, scratch.rows.query);
  const auto visit = [&](const Slice& slice, const KeyBlock& block) {
    const Staged k = scratch.keys.staged.seen_keys();
    float* logits = scratch.keys.logits + slice.first;
    multiply_query(p, element_of(p), block.keys, slice.vectors, k.data, k.stride, scratch.rows.query + slice.first,
                   kRowStride, logits, kRowStride);
    finish_logits(p, slice, block, logits, nullptr);
    for (int w = 0; w < slice.rows(); w += kLanes) {
      const Float old_max = load(row_max + slice.first + w);
      Float new_max = old_max;
      for (int32_t j = 0; j < block.keys; ++j) new_max = maximum(load(logits + j * kRowStride + w), new_max);
      const Float shift = safe_shift(new_max);
      Float sum = load(row_sum + slice.first + w) * softmax_weight(old_max - shift);
      for (int32_t j = 0; j < block.keys; ++j) sum = sum + softmax_weight(load(logits + j * kRowStride + w) - shift);
      store(row_max + slice.first + w, new_max);
      store(row_sum + slice.first + w, sum);
    }
  };
  for_each_block(p, tile, all_keys(p), scratch.keys, visit, [](int, int64_t, int32_t) {});
  for (int r = 0; r < tile.rows; ++r) {
    const int64_t i = row_index(p, tile, r);
    if (!std::isfinite(stats.shift[i]) || std::fabs(stats.shift[i]) <= kLarge) continue;
    stats.shift[i] = row_max[r];
    stats.factor[i] = 1.0f / row_sum[r];
  }
}

void fill_statistics(const AttentionProblem& p, const Threads& threads, const Statistics& stats) {
  const Tiles tiles(p, kBlockRows);
  const double operations = 4.0 * p.batch * p.heads_q * p.len_q * p.dim_v;
  parallel(threads, tiles.count, operations, [&](Claim& claim) {
    Arena arena(BackwardScratch::floats(p));
    BackwardScratch scratch(p, arena);
    RowTile& tile = scratch.rows.tile;
    const float *grad_rows = scratch.rows.grad_rows, *out_rows = scratch.rows.query_rows;
    for (int64_t t; (t = claim.next()) >= 0;) {
      tiles.load(t, tile);
      const int64_t dv = round_up(p.dim_v, kLanes);
      pack_rows(Element::kFloat, p.grad_out, tile, p.dim_v, 1.0f, scratch.rows.grad_rows, nullptr);
      pack_rows(Element::kFloat, p.out, tile, p.dim_v, 1.0f, scratch.rows.query_rows, nullptr);
      for (int r = 0; r < tile.rows; ++r) {
        Float sum = splat(0.0f);
        for (int64_t d = 0; d < dv; d += kLanes) {
          sum = multiply_add(load(grad_rows + r * dv + d), load(out_rows + r * dv + d), sum);
        }
        float delta = 0.0f;
        for (int lane = 0; lane < kLanes; ++lane) delta += sum[lane];
        const Sequence& s = tile.sequence;
        const int64_t row = s.first_row + tile.query[r];
        const float lse =
            p.lse[s.tensor_batch * p.lse_stride[0] + tile.head[r] * p.lse_stride[1] + row * p.lse_stride[2]];
        if (p.grad_lse && lse != -INFINITY) {
          delta -= p.grad_lse[s.tensor_batch * p.grad_lse_stride[0] + tile.head[r] * p.grad_lse_stride[1] +
                              row * p.grad_lse_stride[2]];
        }
        const int64_t i = row_index(p, tile, r);
        stats.delta[i] = delta;
        stats.shift[i] = lse == -INFINITY ? INFINITY : lse;
        stats.factor[i] = 1.0f;
      }
      recompute_large(p, scratch, stats);
    }
  });
}

// ---- dq ----

void query_pass(const AttentionProblem& p, const Threads& threads, const Statistics& stats) {
  AttentionProblem owners = p;  // the tiles of grad_query: one batch where the query was broadcast
  if (!p.cu_q) owners.batch = p.query_batches;
  const Tiles tiles(owners, tile_height(owners, threads));
  const double operations = 6.0 * p.batch * p.heads_q * p.len_q * p.len_k * p.dim_qk;
  const int64_t dq_floats = query_floats(p);
  parallel(threads, tiles.count, operations, [&](Claim& claim) {
    Arena arena(BackwardScratch::floats(p) + 2 * dq_floats + 128);
    BackwardScratch scratch(p, arena);
    Targets to;
    to.query = arena.take(dq_floats);
    to.query_chunk = arena.take(dq_floats);
    RowTile& tile = scratch.rows.tile;
    for (int64_t t; (t = claim.next()) >= 0;) {
      clear(to.query, dq_floats);
      clear(to.query_chunk, dq_floats);
      const int64_t first_row = tiles.load(t, tile);
      const int64_t copies = p.cu_q || p.query_batches > 1 ? 1 : p.batch;
      for (int64_t b = 0; b < copies; ++b) {
        if (copies > 1) init_rows(p, sequence_of(p, b), tile.head_k, first_row, tile.rows, tile);
        accumulate_tile(p, all_keys(p), stats, scratch, to);
      }
      if (copies > 1) tile.sequence.tensor_batch = 0;
      write_query(p, tile, to.query, scratch.rows);
    }
  });
}

// ---- dk and dv ----

/// One work item of the dk/dv pass: a block of keys of one head and of one batch that owns gradients.
struct KeyItem {
  int segment;
  int64_t batch, head, first;
};

struct KeyItems {
  const AttentionProblem& p;
  const bool keys;  // the batches of the keys' gradients, or of the values'
  int64_t count = 0;

  KeyItems(const AttentionProblem& problem, bool of_keys) : p(problem), keys(of_keys) {
    for (int s = 0; s < p.num_segments; ++s) {
      for (int64_t b = 0; b < batches(s); ++b) count += blocks(s, b) * p.heads_k;
    }
  }
  int64_t batches(int segment) const {
    if (p.cu_q) return p.batch;
    return keys ? p.segments[segment].key_batches : p.segments[segment].value_batches;
  }
  int64_t blocks(int segment, int64_t batch) const {
    return ceil_div(segment_length(p, sequence_of(p, batch), segment), kBlockKeys);
  }
  KeyItem at(int64_t index) const {
    for (int s = 0;; ++s) {
      for (int64_t b = 0; b < batches(s); ++b) {
        const int64_t n = blocks(s, b);
        if (index < n * p.heads_k) return {s, b, index / n, index % n * kBlockKeys};
        index -= n * p.heads_k;
      }
    }
  }
};

void key_pass(const AttentionProblem& p, const Threads& threads, const Statistics& stats, bool keys, bool values) {
  const KeyItems items(p, keys);
  const double operations = 4.0 * p.batch * p.heads_q * p.len_q * p.len_k * (p.dim_qk + p.dim_v);
  const int64_t dk_width = round_up(p.dim_qk, kLanes), dv_width = round_up(p.dim_v, kLanes);
  parallel(threads, items.count, operations, [&](Claim& claim) {
    Arena arena(BackwardScratch::floats(p) + 2 * kBlockKeys * (dk_width + dv_width) + 128);
    BackwardScratch scratch(p, arena);
    float *dk_memory = arena.take(kBlockKeys * dk_width), *dv_memory = arena.take(kBlockKeys * dv_width);
    float *dk_chunk = arena.take(kBlockKeys * dk_width), *dv_chunk = arena.take(kBlockKeys * dv_width);
    for (int64_t i; (i = claim.next()) >= 0;) {
      int64_t chunk_of = -1;
      const KeyItem item = items.at(i);
      const Segment& segment = p.segments[item.segment];
      float* dk = keys && segment.grad_key.data ? dk_memory : nullptr;
      float* dv = values && segment.grad_value.data ? dv_memory : nullptr;
      if (!dk && !dv) continue;
      clear(dk_memory, kBlockKeys * dk_width);
      clear(dv_memory, kBlockKeys * dv_width);
      clear(dk_chunk, kBlockKeys * dk_width);
      clear(dv_chunk, kBlockKeys * dv_width);
      const Sequence owner = sequence_of(p, item.batch);
      const int32_t first = static_cast<int32_t>(item.first);
      const int32_t count =
          static_cast<int32_t>(smaller<int64_t>(kBlockKeys, segment_length(p, owner, item.segment) - first));
      Targets to;
      to.key = dk;
      to.value = dv;
      to.key_chunk = dk_chunk;
      to.value_chunk = dv_chunk;
      to.chunk_of = &chunk_of;
      to.first_key = segment.offset + first;
      to.first_block = block_index(p, item.segment, first);
      const KeyRange range = {item.segment, item.segment + 1, first, first + count};
      const bool broadcast = !p.cu_q && items.batches(item.segment) != p.batch;  // also where the batch is 0
      for (int64_t b = broadcast ? 0 : item.batch; b < (broadcast ? p.batch : item.batch + 1); ++b) {
        const Sequence sequence = sequence_of(p, b);
        const int64_t rows = rows_of(p, sequence);
        for (int64_t r = 0; r < rows; r += kBlockRows) {
          init_rows(p, sequence, item.head, r, smaller<int64_t>(kBlockRows, rows - r), scratch.rows.tile);
          accumulate_tile(p, range, stats, scratch, to);
        }
      }
      add_key_chunks(p, count, to);
      const int64_t row = owner.first_key + first;
      if (dk) {
        write_keys(segment.grad_key, owner.tensor_batch, item.head, row, count, p.dim_qk, key_factor(p), dk);
      }
      if (dv) write_keys(segment.grad_value, owner.tensor_batch, item.head, row, count, p.dim_v, 1.0f, dv);
    }
  });
}

}  // namespace

void attention_backward(const AttentionProblem& p, const Threads& threads) {
  const Statistics stats(p);
  fill_statistics(p, threads, stats);
  const WholePass plan(p);
  bool keys = false, values = false, together = true;
  for (int s = 0; s < p.num_segments; ++s) {
    keys |= p.segments[s].grad_key.data != nullptr;
    values |= p.segments[s].grad_value.data != nullptr;
    together &= p.segments[s].key_batches == p.segments[s].value_batches;
  }
  const bool everything = p.grad_query.data && keys && values, whole = everything && plan.worthwhile(threads);
  if (whole) {
    whole_pass(p, threads, stats, plan);
  } else if (everything && plan.waves_worthwhile(threads)) {
    wave_pass(p, threads, stats);
  } else {
    if (p.grad_query.data) query_pass(p, threads, stats);
    if (keys && values && together) {
      key_pass(p, threads, stats, true, true);
    } else {
      if (keys) key_pass(p, threads, stats, true, false);
      if (values) key_pass(p, threads, stats, false, true);
    }
  }
  for (int part = 0; part < 2; ++part) {
    if (p.bias.grad[part] && !(whole && plan.owns_bias[part])) bias_gradient(p, threads, stats, part);
  }
}

MMK_NAMESPACE_END
