// One launch of an attention kernel, as it travels in the kernel's parameters, and where a block stands in it.
#pragma once

#include <ptx/memory.h>

#include "../../core/attention_problem.h"
#include "../../core/mask.h"

namespace mmkernels {

/// `problem.segments` is nullptr: they are here.
struct AttentionCall {
  AttentionProblem problem;
  Segment segments[kMaxCudaSegments];
  int pack = 1;              // query heads, all of one key head, whose rows share tiles
  int tiles = 0;             // of rows, per batch and pack of heads; packed sequences: an upper bound over all of them
  int splits = 1;            // blocks that share a tile: 1, or as many as there are chunks of keys
  float* scratch = nullptr;  // states of tiles; nullptr where every row has one chunk
};

}  // namespace mmkernels

MMK_NAMESPACE_BEGIN

/// The tile of a block.
struct Place {
  int batch, head, tile, split;  // head: the first of the pack
  int query_first, key_first;    // of a packed sequence, in its tensors
  int len_q, len_k;
  bool inside;  // false: beyond the last tile of the last sequence
};

/// Rows of a sequence in its packed tensor, never outside it.
MMK_DEVICE void sequence_rows(const int32_t* cu, int b, int64_t total, int& first, int& length) {
  first = clamp_index(load(global<int32_t>(cu) + b), total);
  const int end = clamp_index(load(global<int32_t>(cu) + (b + 1)), total);
  length = end > first ? end - first : 0;
}

/// Finds tile `tile` of all packed sequences' tiles of `rows` rows; leaves `inside` false where there are fewer.
MMK_DEVICE void find_sequence(Place& place, const AttentionCall& call, int tile, int rows) {
  const AttentionProblem& p = call.problem;
  place.inside = false;
  for (int b = 0; b < p.batch; ++b) {
    sequence_rows(p.cu_q, b, p.len_q, place.query_first, place.len_q);
    const int tiles = static_cast<int>(ceil_div(static_cast<int64_t>(place.len_q) * call.pack, rows));
    if (tile < tiles) {
      place.batch = b;
      place.tile = tile;
      place.inside = true;
      sequence_rows(p.cu_k, b, p.len_k, place.key_first, place.len_k);
      return;
    }
    tile -= tiles;
  }
}

/// The place of this block, of `splits` that share a tile of `rows` rows of queries.
MMK_DEVICE Place query_place(const AttentionCall& call, int rows, int splits) {
  const AttentionProblem& p = call.problem;
  int64_t index = block_index_x();
  Place place;
  place.tile = static_cast<int>(index % call.tiles);
  index /= call.tiles;
  place.split = static_cast<int>(index % splits);
  index /= splits;
  const int heads = static_cast<int>(p.heads_q) / call.pack;
  place.head = static_cast<int>(index % heads) * call.pack;
  place.batch = static_cast<int>(index / heads);
  place.inside = true;
  place.query_first = place.key_first = 0;
  place.len_q = static_cast<int>(p.len_q);
  place.len_k = static_cast<int>(p.len_k);
  if (p.cu_q != nullptr) find_sequence(place, call, place.tile, rows);
  return place;
}

/// A place rests in shared memory, in 32 bytes, and is read anew where it is needed: registers are for the sums.
struct alignas(16) PlaceHalf {
  int x[4];
};
MMK_DEVICE void store_place(Shared to, const Place& place) {
  store(to, PlaceHalf{{place.batch, place.head, place.tile, place.split}});
  store(to + 16, PlaceHalf{{place.query_first, place.key_first, place.len_q, place.len_k}});
}
MMK_DEVICE Place load_place(Shared from) {
  const PlaceHalf one = load<PlaceHalf>(from), two = load<PlaceHalf>(from + 16);
  return {one.x[0], one.x[1], one.x[2], one.x[3], two.x[0], two.x[1], two.x[2], two.x[3], true};
}

/// A row of a tile of queries: packs of heads lie one after another.
struct QueryRow {
  int head, query;
  bool inside;
};
MMK_DEVICE QueryRow query_row(const AttentionCall& call, const Place& place, int row) {
  if (call.pack == 1) return {place.head, row, row < place.len_q};
  const int member = place.len_q > 0 ? row / place.len_q : 0;
  return {place.head + member, row - member * place.len_q, member < call.pack};
}

/// Length of segment s: packed sequences have one, of the sequence's length.
MMK_DEVICE int segment_length(const AttentionCall& call, const Place& place, int s) {
  return call.problem.cu_k != nullptr ? place.len_k : static_cast<int>(call.segments[s].length);
}

/// First element of a (batch, head) of a tensor, at a packed sequence's first row.
template <class T>
MMK_DEVICE Global<const T> rows_of(const TensorView& view, int batch, int head, int64_t first) {
  return global<T>(static_cast<const void*>(view.data)) + (batch * view.batch + head * view.head + first * view.row);
}

MMK_NAMESPACE_END
