// The whole pass of the backward: dq, dk, dv and dbias of one (batch, key head) in one work item, 5 products a tile.
//
// dk and dv of all keys of the item stay in fp32 scratch while the tiles of rows go by, so that every element is the
// same chain over rows in order as in the key pass, and dq the same chain over keys as in the query pass. Where they are
// long, several tiles of rows meet a block of keys before the next block comes, so that they are read and written less.

#include "../parallel.h"
#include "backward_passes.h"

MMK_NAMESPACE_BEGIN
namespace {

/// The strip of one part of a bias, and for a part without a row axis its totals over 1024 rows and over all.
struct Strip {
  BiasPart owner;
  float* sums = nullptr;
  double *chunk = nullptr, *total = nullptr;

  void take(const AttentionProblem& p, int part, Arena& arena) {
    owner = BiasPart(p, part);
    sums = arena.take((owner.has_rows ? kBlockRows : 1) * owner.entries);
    if (owner.has_rows) return;
    chunk = reinterpret_cast<double*>(arena.take(4 * owner.entries));
    total = chunk + owner.entries;
  }
  void reset() {
    clear(sums, (owner.has_rows ? kBlockRows : 1) * owner.entries);
    for (int64_t e = 0; chunk && e < 2 * owner.entries; ++e) chunk[e] = 0.0;
  }
  void leave_tile() {
    if (chunk) empty_strip(sums, owner.entries, chunk);
  }
  /// After all batches of a tile: its rows are complete, or a chunk of rows may be.
  void leave_rows(const AttentionProblem& p, const RowTile& tile, bool last_of_chunk) {
    if (owner.has_rows) {
      const int64_t batch = owner.size[0] == 1 ? 0 : tile.sequence.batch;
      for (int r = 0; r < tile.rows; ++r) {
        const int64_t row = (batch * p.heads_q + tile.head[r]) * owner.size[2] + tile.query[r];
        narrow_run(sums + r * owner.entries, owner.entries, owner.grad_at(row * owner.entries), owner.dtype());
      }
      clear(sums, kBlockRows * owner.entries);
    } else if (last_of_chunk) {
      for (int64_t e = 0; e < owner.entries; ++e) {
        total[e] += chunk[e];
        chunk[e] = 0.0;
      }
    }
  }
  void leave_item(const AttentionProblem& p, int64_t batch, int64_t head) {
    if (owner.has_rows) return;
    const int64_t row = (owner.size[0] == 1 ? 0 : batch * p.heads_q) + head;
    write_total(total, owner, row * owner.entries, sums);
  }
};

/// Tiles of rows that meet the blocks of keys together, and dq of each.
struct TileGroup {
  static constexpr int kTiles = kKeyChunkRows / kBlockRows;
  TileScratch rows[kTiles];
  float *dq[kTiles], *dq_chunk[kTiles];
  int count = 0;

  static int64_t floats(const AttentionProblem& p) { return kTiles * (TileScratch::floats(p) + 2 * query_floats(p)); }

  TileGroup(const AttentionProblem& p, Arena& arena)
      : rows{TileScratch(p, arena), TileScratch(p, arena), TileScratch(p, arena), TileScratch(p, arena)} {
    static_assert(kTiles == 4, "as many as are listed above");
    for (int i = 0; i < kTiles; ++i) {
      dq[i] = arena.take(query_floats(p));
      dq_chunk[i] = arena.take(query_floats(p));
      clear(dq_chunk[i], query_floats(p));
    }
  }
  /// Rows [first, ...) of a sequence in at most `tiles` tiles.
  void load(const AttentionProblem& p, const Sequence& sequence, int64_t head, int64_t first, int tiles) {
    for (count = 0; count < tiles && first < rows_of(p, sequence); ++count, first += kBlockRows) {
      rows[count].begin();
      init_rows(p, sequence, head, first, smaller<int64_t>(kBlockRows, rows_of(p, sequence) - first), rows[count].tile);
      clear(dq[count], query_floats(p));
    }
  }
  void accumulate(const AttentionProblem& p, const Statistics& stats, BlockScratch& scratch, Targets& to) {
    for (int s = 0; count && s < p.num_segments; ++s) {
      const int64_t length = segment_length(p, rows[0].tile.sequence, s);
      for (int64_t first = 0; first < length; first += kBlockKeys) {
        for (int i = 0; i < count; ++i) {
          to.query = dq[i];
          to.query_chunk = dq_chunk[i];
          accumulate_keys(p, rows[i], {s, s + 1, first, first + kBlockKeys}, stats, scratch, to);
        }
      }
    }
    for (int i = 0; i < count; ++i) {
      to.query = dq[i];
      to.query_chunk = dq_chunk[i];
      close_query(p, rows[i], to);
      write_query(p, rows[i].tile, dq[i], rows[i]);
    }
  }
};

}  // namespace

void whole_pass(const AttentionProblem& p, const Threads& threads, const Statistics& stats, const WholePass& plan) {
  const double operations = 10.0 * p.batch * p.heads_q * p.len_q * p.len_k * p.dim_qk;
  const int64_t dk_width = round_up(p.dim_qk, kLanes), dv_width = plan.width - dk_width, batches = plan.batches();
  // Strips are of one tile; and where dk and dv fit the cache, tiles that take turns would only push each other out.
  constexpr int64_t kCached = 3 << 17;  // floats: what spills from a second-level cache of 1 MiB is still few
  const bool in_turn = plan.owns_bias[0] || plan.owns_bias[1] || plan.key_floats() <= kCached;
  const int tiles = in_turn ? 1 : TileGroup::kTiles;
  parallel(threads, plan.items, operations, [&](Claim& claim) {
    Arena arena(BlockScratch::floats(p) + TileGroup::floats(p) + plan.key_floats() + plan.strip_floats(0) +
                plan.strip_floats(1) + 256);
    BlockScratch scratch(p, arena);
    TileGroup group(p, arena);
    Targets to;
    float* dk = arena.take(plan.longest_k * dk_width * batches);
    float* dv = arena.take(plan.longest_k * dv_width * batches);
    const bool one_chunk = plan.one_chunk();
    float* dk_chunk = one_chunk ? dk : arena.take(plan.longest_k * dk_width * batches);
    float* dv_chunk = one_chunk ? dv : arena.take(plan.longest_k * dv_width * batches);
    int64_t* chunk_of = reinterpret_cast<int64_t*>(arena.take(2 * plan.blocks() * batches));
    Strip strips[2];
    for (int part = 0; part < 2; ++part) {
      if (!plan.owns_bias[part]) continue;
      strips[part].take(p, part, arena);
      to.bias[part] = strips[part].owner;
      to.strip[part] = strips[part].sums;
    }
    for (int64_t i; (i = claim.next()) >= 0;) {
      const int64_t head = i % p.heads_k, first_batch = plan.all_batches ? 0 : i / p.heads_k;
      const int64_t keys = batches > 1 ? batches * plan.longest_k : sequence_of(p, first_batch).len_k;
      clear(dk, keys * dk_width);
      clear(dv, keys * dv_width);
      if (!one_chunk) {
        clear(dk_chunk, keys * dk_width);
        clear(dv_chunk, keys * dv_width);
      }
      for (int64_t block = 0; block < plan.blocks() * batches; ++block) chunk_of[block] = -1;
      for (Strip& strip : strips) {
        if (strip.sums) strip.reset();
      }
      const auto aim_at = [&](int64_t b) {
        to.key = dk + b * plan.longest_k * dk_width;
        to.value = dv + b * plan.longest_k * dv_width;
        to.key_chunk = dk_chunk + b * plan.longest_k * dk_width;
        to.value_chunk = dv_chunk + b * plan.longest_k * dv_width;
        to.chunk_of = chunk_of + b * plan.blocks();
      };
      const int64_t rows = plan.longest_q * (p.heads_q / p.heads_k);
      for (int64_t first = 0; first < rows; first += tiles * kBlockRows) {
        for (int64_t b = 0; b < batches; ++b) {
          group.load(p, sequence_of(p, first_batch + b), head, first, tiles);
          aim_at(b);
          group.accumulate(p, stats, scratch, to);
          for (Strip& strip : strips) {
            if (strip.sums) strip.leave_tile();
          }
        }
        const bool last_of_chunk = first + kBlockRows >= rows || (first + kBlockRows) % kChunkRows == 0;
        for (Strip& strip : strips) {
          if (strip.sums) strip.leave_rows(p, group.rows[0].tile, last_of_chunk);
        }
      }
      for (Strip& strip : strips) {
        if (strip.sums) strip.leave_item(p, first_batch, head);
      }
      for (int64_t b = 0; b < batches; ++b) {
        const Sequence sequence = sequence_of(p, first_batch + b);
        aim_at(b);
        if (!one_chunk) add_key_chunks(p, sequence.len_k, to);
        for (int s = 0; s < p.num_segments; ++s) {
          const Segment& segment = p.segments[s];
          const int64_t keys = segment_length(p, sequence, s), row = b * plan.longest_k + segment.offset;
          const int32_t n = static_cast<int32_t>(keys);
          if (segment.grad_key.data) {
            write_keys(segment.grad_key, sequence.tensor_batch, head, sequence.first_key, n, p.dim_qk, key_factor(p),
                       dk + row * dk_width);
          }
          if (segment.grad_value.data) {
            write_keys(segment.grad_value, sequence.tensor_batch, head, sequence.first_key, n, p.dim_v, 1.0f,
                       dv + row * dv_width);
          }
        }
      }
    }
  });
}

MMK_NAMESPACE_END
