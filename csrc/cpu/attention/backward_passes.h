// The passes of the backward that stand in files of their own.
#pragma once

#include "backward_accumulate.h"
#include "chunks.h"

MMK_NAMESPACE_BEGIN

/// Chunks of keys that a wave of the backward takes: enough that uneven ones do not leave threads waiting.
inline int64_t wave_units(const Threads& threads) { return 2 * threads.count; }

/// What the whole pass computes, and how it is cut into items: (batch, key head), or key head where an item must see
/// every batch because a bias is shared by them.
struct WholePass {
  const AttentionProblem& p;
  bool possible = true, all_batches = false, owns_bias[2] = {false, false};
  int64_t items = 0, longest_q = 0, longest_k = 0, width;

  explicit WholePass(const AttentionProblem& problem) : p(problem) {
    width = round_up(p.dim_qk, kLanes) + round_up(p.dim_v, kLanes);
    for (int part = 0; part < 2; ++part) {
      const int64_t* size = p.bias.size[part];
      // Grouped heads share tiles, so a sum along rows would depend on where the tiles of a head begin; packed
      // sequences leave rows of the bias unvisited.
      owns_bias[part] = p.bias.grad[part] && !p.cu_q && size[1] == p.heads_q && (size[2] > 1 || p.heads_q == p.heads_k);
      all_batches |= owns_bias[part] && size[0] == 1 && p.batch > 1;
    }
    for (int part = 0; part < 2; ++part) owns_bias[part] &= !all_batches || p.bias.size[part][0] == 1;
    items = all_batches ? p.heads_k : p.heads_k * p.batch;
    possible = p.cu_q || p.query_batches == p.batch;
    for (int s = 0; s < p.num_segments; ++s) {
      possible &= p.cu_q || (p.segments[s].key_batches == p.batch && p.segments[s].value_batches == p.batch);
    }
    for (int64_t b = 0; b < p.batch; ++b) {
      const Sequence sequence = sequence_of(p, b);
      longest_q = larger(longest_q, sequence.len_q);
      longest_k = larger(longest_k, sequence.len_k);
    }
  }
  int64_t batches() const { return all_batches ? p.batch : 1; }
  int64_t blocks() const { return longest_k / kBlockKeys + p.num_segments + 1; }
  /// All rows that a key meets are of one chunk (backward_accumulate.h): its sum is the total.
  bool one_chunk() const { return p.heads_q == p.heads_k && longest_q <= kKeyChunkRows; }
  /// dk and dv of an item: totals, chunks, and which rows each block's chunk holds.
  int64_t key_floats() const { return ((one_chunk() ? 1 : 2) * longest_k * width + 2 * blocks()) * batches(); }
  int64_t strip_floats(int part) const {
    if (!owns_bias[part]) return 0;
    const int64_t* size = p.bias.size[part];
    return size[2] > 1 ? kBlockRows * size[3] : 5 * size[3];  // a strip with rows, or one with two totals in fp64
  }
  /// Where there are too few items for the threads, or dk and dv are too long: dq, dk and dv in waves of chunks of keys.
  bool waves_worthwhile(const Threads& threads) const {
    constexpr int64_t kMostFloats = 8 << 20;  // 32 MiB for a wave's parts of dq
    if (!possible || p.cu_q || p.batch == 0 || p.len_q == 0) return false;
    const int64_t chunks = count_chunks(p, sequence_of(p, 0));
    const int64_t tiles = ceil_div(rows_of(p, sequence_of(p, 0)), kBlockRows);
    return p.batch * p.heads_k * chunks >= threads.count &&
           2 * wave_units(threads) * tiles * query_floats(p) <= kMostFloats;
  }
  bool worthwhile(const Threads& threads) const {
    constexpr int64_t kMostFloats = 8 << 20;  // 32 MiB a thread
    return possible && items >= threads.count && key_floats() + strip_floats(0) + strip_floats(1) <= kMostFloats;
  }
};

/// dq, dk, dv and the biases the plan owns, in one sweep (attention_backward_whole.cpp).
void whole_pass(const AttentionProblem& p, const Threads& threads, const Statistics& stats, const WholePass& plan);

/// dq, dk and dv in waves of chunks of keys (attention_backward_waves.cpp).
void wave_pass(const AttentionProblem& p, const Threads& threads, const Statistics& stats);

/// Gradient of part 0 or 1 of the bias, on its own (attention_bias_gradient.cpp).
void bias_gradient(const AttentionProblem& p, const Threads& threads, const Statistics& stats, int part);

MMK_NAMESPACE_END
