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

#include "../kernels.h"
#include "../parallel.h"
#include "few_rows.h"
#include "many_rows.h"
#include "tiles.h"

MMK_NAMESPACE_BEGIN
namespace {

/// One thread's memory, and the two ways of a tile: a row's bits do not tell which it went.
class Worker {
 public:
  static int64_t floats(const AttentionProblem& p) {
    return many::Scratch::floats(p) + few::Scratch::floats(p) + 2 * State::floats(p.dim_v);
  }
  Worker(const AttentionProblem& problem, Arena& arena) : p_(problem), many_(problem, arena), few_(problem, arena) {
    total_ = State::in(arena.take(State::floats(p_.dim_v)), p_.dim_v);
    chunk_ = State::in(arena.take(State::floats(p_.dim_v)), p_.dim_v);
  }

  void start(const RowTile& tile) {
    is_few(tile) ? few::load_query(p_, tile, few_) : many::load_query(p_, tile, many_);
  }
  /// Leaves the state of one chunk in `state`; false where no row saw a key.
  bool attend(RowTile& tile, const Chunk& chunk, const State& state) {
    return is_few(tile) ? few::attend(p_, tile, chunk, block_, few_, state)
                        : many::attend(p_, tile, chunk, block_, many_, state);
  }
  void merge(const RowTile& tile, const State& chunk) {
    if (empty_) {
      is_few(tile) ? few::copy(p_, tile, total_, chunk) : many::copy(p_, tile, total_, chunk);
      empty_ = false;
      return;
    }
    is_few(tile) ? few::merge(p_, tile, total_, chunk) : many::merge(p_, tile, total_, chunk);
  }
  void attend_and_merge(RowTile& tile, const Chunk& chunk) {
    if (empty_) {
      empty_ = !attend(tile, chunk, total_);
    } else if (attend(tile, chunk, chunk_)) {
      merge(tile, chunk_);
    }
  }
  /// Writes out and lse, and is ready for the next tile.
  void finish(const RowTile& tile) {
    if (empty_) is_few(tile) ? few::reset(p_, tile, total_) : many::reset(p_, tile, total_);
    empty_ = true;
    is_few(tile) ? few::finish(p_, tile, total_, few_) : many::finish(p_, tile, total_, many_);
  }

 private:
  static bool is_few(const RowTile& tile) { return tile.rows <= few::kFewRows; }

  const AttentionProblem& p_;
  many::Scratch many_;
  few::Scratch few_;
  State total_, chunk_;
  bool empty_ = true;  // no chunk is in total_ yet
  KeyBlock block_;
};

void attend_split(const AttentionProblem& p, const Threads& threads, const Tiles& tiles, double operations) {
  int64_t most = 0;  // chunks of a sequence
  for (int64_t b = 0; b < p.batch; ++b) most = larger(most, count_chunks(p, sequence_of(p, b)));
  const bool few = tiles.most_rows() <= few::kFewRows;
  const int64_t rows = few ? kLanes : kRowStride, floats = State::floats(p.dim_v, rows);
  Memory states_memory, seen_memory;
  float* states = states_memory.take(tiles.count * most * floats);
  const auto state_of = [&](int64_t i) { return State::in(states + i * floats, p.dim_v, rows); };
  float* seen = seen_memory.take(tiles.count * most);  // whether any row saw a key of the chunk
  parallel(threads, tiles.count * most, operations, [&](Claim& claim) {
    Arena arena(Worker::floats(p));
    Worker worker(p, arena);
    RowTile tile;
    for (int64_t i; (i = claim.next()) >= 0;) {
      tiles.load(i / most, tile);
      seen[i] = 0.0f;
      if (i % most >= count_chunks(p, tile.sequence)) continue;
      worker.start(tile);
      seen[i] = worker.attend(tile, chunk_at(p, tile.sequence, i % most), state_of(i)) ? 1.0f : 0.0f;
    }
  });
  parallel(threads, tiles.count, static_cast<double>(tiles.count * most * floats), [&](Claim& claim) {
    Arena arena(Worker::floats(p));
    Worker worker(p, arena);
    RowTile tile;
    for (int64_t t; (t = claim.next()) >= 0;) {
      tiles.load(t, tile);
      for (int64_t i = t * most; i < (t + 1) * most; ++i) {
        if (seen[i] != 0.0f) worker.merge(tile, state_of(i));
      }
      worker.finish(tile);
    }
  });
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
    Arena arena(Worker::floats(p));
    Worker worker(p, arena);
    RowTile tile;
    for (int64_t i; (i = claim.next()) >= 0;) {
      tiles.load(i, tile);
      worker.start(tile);
      const int64_t chunks = count_chunks(p, tile.sequence);
      for (int64_t c = 0; c < chunks; ++c) worker.attend_and_merge(tile, chunk_at(p, tile.sequence, c));
      worker.finish(tile);
    }
  });
}

MMK_NAMESPACE_END
