// The whole pass of the backward: dq, dk, dv and dbias of one (batch, key head) in one work item, 5 products a tile.
//
// dk and dv of all keys of the item stay in fp32 scratch while the tiles of rows go by, so that every element is the
// same chain over rows in order as in the key pass, and dq the same chain over keys as in the query pass.

#include "backward_passes.h"
#include "parallel.h"

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

}  // namespace

void whole_pass(const AttentionProblem& p, const Threads& threads, const Statistics& stats, const WholePass& plan) {
  const double operations = 10.0 * p.batch * p.heads_q * p.len_q * p.len_k * p.dim_qk;
  const int64_t dq_floats = round_up(p.dim_qk, kLanes) * kRowStride, dk_width = round_up(p.dim_qk, kLanes);
  const int64_t dv_width = plan.width - dk_width, batches = plan.batches();
  parallel(threads, plan.items, operations, [&](Claim& claim) {
    Arena arena(BackwardScratch::floats(p) + 2 * dq_floats + plan.key_floats() + plan.strip_floats(0) +
                plan.strip_floats(1) + 256);
    BackwardScratch scratch(p, arena);
    RowTile& tile = scratch.tile;
    Targets to;
    to.query = arena.take(dq_floats);
    to.query_chunk = arena.take(dq_floats);
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
    clear(to.query_chunk, dq_floats);
    for (int64_t i; (i = claim.next()) >= 0;) {
      const int64_t head = i % p.heads_k, first_batch = plan.all_batches ? 0 : i / p.heads_k;
      clear(dk, plan.longest_k * dk_width * batches);
      clear(dv, plan.longest_k * dv_width * batches);
      if (!one_chunk) {
        clear(dk_chunk, plan.longest_k * dk_width * batches);
        clear(dv_chunk, plan.longest_k * dv_width * batches);
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
      for (int64_t first = 0; first < rows; first += kBlockRows) {
        for (int64_t b = 0; b < batches; ++b) {
          const Sequence sequence = sequence_of(p, first_batch + b);
          const int64_t count = smaller<int64_t>(kBlockRows, rows_of(p, sequence) - first);
          if (count <= 0) continue;
          init_rows(p, sequence, head, first, count, tile);
          aim_at(b);
          clear(to.query, dq_floats);
          accumulate_tile(p, tile, all_keys(p), stats, scratch, to);
          if (p.grad_query.data) write_query(p, tile, to.query, scratch);
          for (Strip& strip : strips) {
            if (strip.sums) strip.leave_tile();
          }
        }
        const bool last_of_chunk = first + kBlockRows >= rows || (first + kBlockRows) % kChunkRows == 0;
        for (Strip& strip : strips) {
          if (strip.sums) strip.leave_rows(p, tile, last_of_chunk);
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
            write_keys(segment.grad_key, sequence.tensor_batch, head, sequence.first_key, n, p.dim_qk,
                       dk + row * dk_width);
          }
          if (segment.grad_value.data) {
            write_keys(segment.grad_value, sequence.tensor_batch, head, sequence.first_key, n, p.dim_v,
                       dv + row * dv_width);
          }
        }
      }
    }
  });
}

MMK_NAMESPACE_END
