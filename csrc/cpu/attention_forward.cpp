// Attention forward: out = softmax(softcap(scale q k^T) + bias | mask) v, row by row online.
//
//   for each tile of query rows          (q packed as [feature][row], lanes are rows)
//     for each chunk of 512 keys         (a fresh softmax state, merged in order into the row's: fixed for the bits)
//       for each block of 64 keys        (skipped where no row of a slice sees a key)
//         s = k q^T; row max; p = exp(s - max); acc = acc * exp(old - new) + v^T p
//   out = acc / row_sum, lse = row_max + log(row_sum)
//
// Where the tiles are fewer than the threads, the chunks are work items of their own and a second step merges them in
// the same order: the same bits. No memory beyond tiles (and, when split, the chunks' states) is used.
// Dao, "FlashAttention-2", 2023; Dao et al., "Flash-Decoding", 2023 for the split.

#include "../core/softmax.h"
#include "gemm.h"
#include "kernels.h"
#include "parallel.h"
#include "tile.h"
#include "tiles.h"

MMK_NAMESPACE_BEGIN
namespace {

/// A softmax state over a set of keys: [value feature][row] and per row.
struct State {
  float *acc, *row_max, *row_sum;
  static int64_t floats(int64_t dim_v) { return (round_up(dim_v, kLanes) + 2) * kRowStride; }
  static State in(float* memory, int64_t dim_v) {
    float* row_max = memory + round_up(dim_v, kLanes) * kRowStride;
    return {memory, row_max, row_max + kRowStride};
  }
};

struct Scratch {
  float *rows, *query, *logits, *keep, *keys, *values, *factor;
  State chunk, total;
  KeyBlock block;

  static int64_t floats(const AttentionProblem& p) {
    const int64_t dk = round_up(p.dim_qk, kLanes), dv = round_up(p.dim_v, kLanes);
    return kBlockRows * larger(dk, dv) + dk * kRowStride + 2 * kBlockKeys * kRowStride +
           kBlockKeys * (p.dim_qk + p.dim_v) + kRowStride + 2 * State::floats(p.dim_v) + 128;
  }
  Scratch(const AttentionProblem& p, Arena& arena) {
    const int64_t dk = round_up(p.dim_qk, kLanes), dv = round_up(p.dim_v, kLanes);
    rows = arena.take(kBlockRows * larger(dk, dv));
    query = arena.take(dk * kRowStride);
    logits = arena.take(kBlockKeys * kRowStride);
    keep = arena.take(kBlockKeys * kRowStride);
    keys = arena.take(kBlockKeys * p.dim_qk);
    values = arena.take(kBlockKeys * p.dim_v);
    factor = arena.take(kRowStride);
    chunk = State::in(arena.take(State::floats(p.dim_v)), p.dim_v);
    total = State::in(arena.take(State::floats(p.dim_v)), p.dim_v);
  }
};

/// One chunk of keys: `segment`, keys [first, last).
struct Chunk {
  int segment;
  int32_t first, last;
};

int64_t count_chunks(const AttentionProblem& p, const Sequence& sequence) {
  int64_t n = 0;
  for (int s = 0; s < p.num_segments; ++s) n += ceil_div(segment_length(p, sequence, s), kChunkKeys);
  return n;
}

Chunk chunk_at(const AttentionProblem& p, const Sequence& sequence, int64_t index) {
  for (int s = 0;; ++s) {
    const int64_t length = segment_length(p, sequence, s), n = ceil_div(length, kChunkKeys);
    if (index < n) {
      const int64_t first = index * kChunkKeys;
      return {s, static_cast<int32_t>(first), static_cast<int32_t>(smaller<int64_t>(first + kChunkKeys, length))};
    }
    index -= n;
  }
}

// ---- softmax ----

/// Logits -> probabilities in place; moves the rows' state and leaves in `factor` what the accumulator must shrink by.
void softmax_block(const AttentionProblem& p, const Slice& slice, const KeyBlock& block, float* logits,
                   const float* keep, float* row_max, float* row_sum, float* factor) {
  for (int v = 0; v < slice.vectors; ++v) {
    float* s = logits + v * kLanes;
    Float block_max[4];
    for (int i = 0; i < 4; ++i) block_max[i] = splat(-INFINITY);
    int32_t j = 0;
    for (; j + 4 <= block.keys; j += 4) {
      for (int i = 0; i < 4; ++i) block_max[i] = maximum(load(s + (j + i) * kRowStride), block_max[i]);
    }
    for (; j < block.keys; ++j) block_max[0] = maximum(load(s + j * kRowStride), block_max[0]);
    const Float old_max = load(row_max + v * kLanes);
    const Float new_max =
        maximum(maximum(maximum(block_max[0], block_max[1]), maximum(block_max[2], block_max[3])), old_max);
    const Float shift = safe_shift(new_max);
    const Float shrink = exponential(old_max - shift);

    Float sum[4];  // four chains, by key index: fixed for the bits
    for (int i = 0; i < 4; ++i) sum[i] = splat(0.0f);
    for (j = 0; j + 4 <= block.keys; j += 4) {
      for (int i = 0; i < 4; ++i) {
        const Float e = exponential(load(s + (j + i) * kRowStride) - shift);
        sum[i] = sum[i] + e;
        store(s + (j + i) * kRowStride, e);
      }
    }
    for (int i = 0; j < block.keys; ++j, ++i) {
      const Float e = exponential(load(s + j * kRowStride) - shift);
      sum[i] = sum[i] + e;
      store(s + j * kRowStride, e);
    }
    const Float block_sum = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    store(row_sum + v * kLanes, multiply_add(load(row_sum + v * kLanes), shrink, block_sum));
    store(row_max + v * kLanes, new_max);
    store(factor + v * kLanes, shrink);
    if (!p.dropout.active) continue;
    for (j = 0; j < block.keys; ++j) {
      store(s + j * kRowStride, load(s + j * kRowStride) * load(keep + j * kRowStride + v * kLanes));
    }
  }
}

// ---- one chunk, and the merge of chunks ----

void reset(const AttentionProblem& p, const RowTile& tile, const State& state) {
  for (int r = 0; r < tile.padded; r += kLanes) {
    store(state.row_max + r, splat(-INFINITY));
    store(state.row_sum + r, splat(0.0f));
    for (int64_t d = 0; d < round_up(p.dim_v, kLanes); ++d) store(state.acc + d * kRowStride + r, splat(0.0f));
  }
}

/// state of `chunk` alone, for every row of the tile. Returns whether any row saw a key.
bool attend_chunk(const AttentionProblem& p, RowTile& tile, const Chunk& chunk, Scratch& scratch, const State& state) {
  const Segment& segment = p.segments[chunk.segment];
  const Sequence& sequence = tile.sequence;
  const bool short_tile = tile.padded <= 2 * kLanes;
  load_intervals(p, chunk.segment, tile);
  bool started = false;
  for (int32_t first = chunk.first; first < chunk.last; first += kBlockKeys) {
    const int32_t keys = smaller(kBlockKeys, chunk.last - first);
    Staged k{nullptr, 0}, v{nullptr, 0};
    int values_finite = -1;  // not looked at yet
    for (int i = 0; i < tile.slices(); ++i) {
      const Slice slice = tile.slice(i);
      KeyBlock& block = scratch.block;
      if (prepare_block(p, tile, slice, chunk.segment, first, keys, block) == TileClass::kSkip) continue;
      if (!k.data) {  // loaded at the first slice that sees a key of the block
        const int64_t row = sequence.first_key + first;
        k = stage(segment.key, sequence.tensor_batch, tile.head_k, row, keys, p.dim_qk, short_tile, scratch.keys);
        v = stage(segment.value, sequence.tensor_batch, tile.head_k, row, keys, p.dim_v, short_tile, scratch.values);
      }
      if (!started) reset(p, tile, state);
      started = true;

      float *logits = scratch.logits + slice.first, *keep = scratch.keep + slice.first;
      gemm<Start::kZero, Layout::kRows>(keys, slice.vectors, k.data, k.stride, scratch.query + slice.first, kRowStride,
                                        p.dim_qk, logits, kRowStride);
      finish_logits(p, slice, block, logits, nullptr);
      if (p.dropout.active) fill_dropout(p, tile, slice, block, keep);
      float* factor = scratch.factor + slice.first;
      softmax_block(p, slice, block, logits, keep, state.row_max + slice.first, state.row_sum + slice.first, factor);

      float* acc = state.acc + slice.first;
      if (block.tile_class == TileClass::kPartial && values_finite < 0) {
        values_finite = !has_non_finite(v.data, v.stride, keys, p.dim_v);
      }
      if (block.tile_class == TileClass::kFull || values_finite) {
        gemm<Start::kRescale, Layout::kTransposed>(p.dim_v, slice.vectors, v.data, v.stride, logits, kRowStride, keys,
                                                   acc, kRowStride, factor);
      } else {  // NaN or Inf in values that some rows do not see
        for (int64_t d = 0; d < p.dim_v; ++d) {
          for (int w = 0; w < slice.rows(); w += kLanes) {
            float* a = acc + d * kRowStride + w;
            store(a, load(a) * load(factor + w));
          }
        }
        gemm_isolated(p.dim_v, slice.vectors, v.data, v.stride, logits, kRowStride, block.visible, kSlice, keys, acc,
                      kRowStride);
      }
    }
  }
  return started;
}

/// total = merge(total, chunk), in place; exact where either saw nothing.
void merge(const AttentionProblem& p, int padded, const State& total, const State& chunk) {
  for (int r = 0; r < padded; r += kLanes) {
    const Merge<Float> m = merge_factors(load(total.row_max + r), load(chunk.row_max + r));
    store(total.row_max + r, m.row_max);
    store(total.row_sum + r, load(total.row_sum + r) * m.factor_a + load(chunk.row_sum + r) * m.factor_b);
    for (int64_t d = 0; d < p.dim_v; ++d) {
      float* acc = total.acc + d * kRowStride + r;
      store(acc, load(acc) * m.factor_a + load(chunk.acc + d * kRowStride + r) * m.factor_b);
    }
  }
}

void finish(const AttentionProblem& p, const RowTile& tile, const State& total, Scratch& scratch) {
  for (int r = 0; r < tile.padded; ++r) {
    const float sum = total.row_sum[r];
    scratch.factor[r] = sum == 0.0f ? 0.0f : 1.0f / sum;
    if (!p.lse || r >= tile.rows) continue;
    const Sequence& s = tile.sequence;
    p.lse[s.tensor_batch * p.lse_stride[0] + tile.head[r] * p.lse_stride[1] +
          (s.first_row + tile.query[r]) * p.lse_stride[2]] = sum == 0.0f ? -INFINITY : total.row_max[r] + std::log(sum);
  }
  unpack_rows(total.acc, scratch.factor, tile, p.dim_v, p.out, scratch.rows);
}

void attend_split(const AttentionProblem& p, const Threads& threads, const Tiles& tiles, double operations) {
  RowTile first;
  int64_t most = 0;
  for (int64_t t = 0; t < tiles.count; ++t) {
    tiles.load(t, first);
    most = larger(most, count_chunks(p, first.sequence));
  }
  const int64_t floats = State::floats(p.dim_v);
  float* states =
      static_cast<float*>(std::aligned_alloc(64, static_cast<size_t>(round_up(tiles.count * most * floats, 16)) * 4));
  uint8_t* seen = static_cast<uint8_t*>(std::calloc(static_cast<size_t>(tiles.count * most), 1));
  parallel(threads, tiles.count * most, operations, [&](Claim& claim) {
    Arena arena(Scratch::floats(p));
    Scratch scratch(p, arena);
    RowTile tile;
    for (int64_t i; (i = claim.next()) >= 0;) {
      tiles.load(i / most, tile);
      if (i % most >= count_chunks(p, tile.sequence)) continue;
      pack_rows(p.query, tile, p.dim_qk, p.scale, scratch.rows, scratch.query);
      seen[i] =
          attend_chunk(p, tile, chunk_at(p, tile.sequence, i % most), scratch, State::in(states + i * floats, p.dim_v));
    }
  });
  Arena arena(Scratch::floats(p));
  Scratch scratch(p, arena);
  RowTile tile;
  for (int64_t t = 0; t < tiles.count; ++t) {
    tiles.load(t, tile);
    reset(p, tile, scratch.total);
    for (int64_t c = 0; c < most; ++c) {
      const int64_t i = t * most + c;
      if (seen[i]) merge(p, tile.padded, scratch.total, State::in(states + i * floats, p.dim_v));
    }
    finish(p, tile, scratch.total, scratch);
  }
  std::free(seen);
  std::free(states);
}

}  // namespace

void attention_forward(const AttentionProblem& p, const Threads& threads) {
  const Tiles tiles(p, tile_height(p, threads));
  const double operations = 2.0 * p.batch * p.heads_q * p.len_q * p.len_k * (p.dim_qk + p.dim_v);
  if (tiles.count < threads.count && p.len_k > kChunkKeys) {
    attend_split(p, threads, tiles, operations);
    return;
  }
  parallel(threads, tiles.count, operations, [&](Claim& claim) {
    Arena arena(Scratch::floats(p));
    Scratch scratch(p, arena);
    RowTile tile;
    for (int64_t i; (i = claim.next()) >= 0;) {
      tiles.load(i, tile);
      pack_rows(p.query, tile, p.dim_qk, p.scale, scratch.rows, scratch.query);
      reset(p, tile, scratch.total);
      const int64_t chunks = count_chunks(p, tile.sequence);
      for (int64_t c = 0; c < chunks; ++c) {
        if (attend_chunk(p, tile, chunk_at(p, tile.sequence, c), scratch, scratch.chunk)) {
          merge(p, tile.padded, scratch.total, scratch.chunk);
        }
      }
      finish(p, tile, scratch.total, scratch);
    }
  });
}

MMK_NAMESPACE_END
