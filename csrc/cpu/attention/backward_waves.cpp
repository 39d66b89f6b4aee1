// The backward in waves: dq, dk and dv in one sweep of 5 products where there are fewer (batch, key head) pairs than
// threads, or dk and dv of a pair are too long to keep. A unit is one chunk of 512 keys of one pair against all its rows:
//
//   for each wave of units          as many as keep the threads busy, in order of pairs, then of chunks
//     for each unit, in parallel    dk, dv of its keys (complete); the chunk's part of dq, kept apart
//     for each tile, in parallel    dq += the parts of the wave, in order of chunks; written after the last one
//
// The sums are those of the other passes: dk and dv over rows in order, dq over chunks in order. Memory: a part of dq, as
// large as the pair's dq in fp32, for every unit of a wave.

#include "../parallel.h"
#include "backward_passes.h"

MMK_NAMESPACE_BEGIN
namespace {

class Waves {
 public:
  Waves(const AttentionProblem& problem, const Threads& pool, const Statistics& statistics)
      : p(problem),
        threads(pool),
        stats(statistics),
        chunks(count_chunks(p, sequence_of(p, 0))),
        units(p.batch * p.heads_k * chunks),
        width(wave_units(pool)),
        tiles(ceil_div(rows_of(p, sequence_of(p, 0)), kBlockRows)),
        part_floats(tiles * query_floats(p)) {
    parts = memory.take(2 * width * part_floats);
    totals = parts + width * part_floats;
  }

  void run() {
    for (int64_t first = 0; first < units; first += width) {
      const int64_t last = smaller(first + width, units);
      sweep(first, last);
      add_parts(first, last);
    }
  }

 private:
  const AttentionProblem& p;
  const Threads& threads;
  const Statistics& stats;
  const int64_t chunks, units, width, tiles, part_floats;
  Memory memory;
  float *parts, *totals;  // [unit of the wave][tile], [pair, reused][tile]: each tile [feature][row]

  Sequence sequence(int64_t pair) const { return sequence_of(p, pair / p.heads_k); }
  void load_tile(int64_t pair, int64_t tile, RowTile& rows) const {
    const Sequence s = sequence(pair);
    const int64_t first = tile * kBlockRows;
    init_rows(p, s, pair % p.heads_k, first, smaller<int64_t>(kBlockRows, rows_of(p, s) - first), rows);
  }

  void sweep(int64_t first, int64_t last) {
    const int64_t dk_floats = kChunkKeys * round_up(p.dim_qk, kLanes),
                  dv_floats = kChunkKeys * round_up(p.dim_v, kLanes);
    const double operations = 10.0 * (last - first) * kChunkKeys * rows_of(p, sequence_of(p, 0)) * p.dim_qk;
    parallel(threads, last - first, operations, [&](Claim& claim) {
      Arena arena(BackwardScratch::floats(p) + 2 * (dk_floats + dv_floats) + 64);
      BackwardScratch scratch(p, arena);
      int64_t chunk_of[kChunkKeys / kBlockKeys];
      Targets to;
      to.key = arena.take(dk_floats);
      to.value = arena.take(dv_floats);
      to.key_chunk = arena.take(dk_floats);
      to.value_chunk = arena.take(dv_floats);
      to.chunk_of = chunk_of;
      for (int64_t i; (i = claim.next()) >= 0;) {
        const int64_t pair = (first + i) / chunks;
        const Chunk chunk = chunk_at(p, sequence(pair), (first + i) % chunks);
        for (float* sums : {to.key, to.key_chunk}) clear(sums, dk_floats);
        for (float* sums : {to.value, to.value_chunk}) clear(sums, dv_floats);
        for (int64_t& rows : chunk_of) rows = -1;
        to.first_key = p.segments[chunk.segment].offset + chunk.first;
        to.first_block = block_index(p, chunk.segment, chunk.first);
        clear(parts + i * part_floats, part_floats);
        for (int64_t t = 0; t < tiles; ++t) {
          load_tile(pair, t, scratch.rows.tile);
          scratch.rows.begin();
          to.query = to.query_chunk = parts + i * part_floats + t * query_floats(p);  // one chunk: never added up here
          accumulate_keys(p, scratch.rows, {chunk.segment, chunk.segment + 1, chunk.first, chunk.last}, stats,
                          scratch.keys, to);
        }
        write(pair, chunk, to);
      }
    });
  }

  void write(int64_t pair, const Chunk& chunk, const Targets& to) const {
    const Segment& segment = p.segments[chunk.segment];
    const int64_t batch = pair / p.heads_k, head = pair % p.heads_k;
    const int32_t keys = chunk.last - chunk.first;
    add_key_chunks(p, keys, to);
    if (segment.grad_key.data) {
      write_keys(segment.grad_key, batch, head, chunk.first, keys, p.dim_qk, key_factor(p), to.key);
    }
    if (segment.grad_value.data) {
      write_keys(segment.grad_value, batch, head, chunk.first, keys, p.dim_v, 1.0f, to.value);
    }
  }

  void add_parts(int64_t first, int64_t last) {
    const int64_t first_pair = first / chunks, pairs = (last - 1) / chunks - first_pair + 1;
    parallel(threads, pairs * tiles, static_cast<double>((last - first) * part_floats), [&](Claim& claim) {
      Arena arena(TileScratch::floats(p));
      TileScratch rows(p, arena);
      for (int64_t i; (i = claim.next()) >= 0;) {
        const int64_t pair = first_pair + i / tiles, t = i % tiles;
        const int64_t begin = larger(pair * chunks, first), end = smaller((pair + 1) * chunks, last);
        // a wave meets at most width pairs, and the one that goes on keeps its place
        float* total = totals + pair % width * part_floats + t * query_floats(p);
        if (begin == pair * chunks) clear(total, query_floats(p));
        for (int64_t unit = begin; unit < end; ++unit) {
          const float* part = parts + (unit - first) * part_floats + t * query_floats(p);
          for (int64_t e = 0; e < query_floats(p); e += kLanes) store(total + e, load(total + e) + load(part + e));
        }
        if (end < (pair + 1) * chunks) continue;
        load_tile(pair, t, rows.tile);
        write_query(p, rows.tile, total, rows);
      }
    });
  }
};

}  // namespace

void wave_pass(const AttentionProblem& p, const Threads& threads, const Statistics& stats) {
  Waves(p, threads, stats).run();
}

MMK_NAMESPACE_END
