// Which blocks of keys a tile of rows sees: bit b of a word stands for block b of a chunk of at most 32 blocks.
#pragma once

#include <ptx/math.h>
#include <ptx/sync.h>

#include "attention_call.h"

MMK_NAMESPACE_BEGIN

/// Keys [start, stop) of a segment, which a row sees.
struct Interval {
  int start, stop;
};

/// Never outside the segment, whatever the tensors say.
MMK_DEVICE Interval interval_of(const AttentionCall& call, const Place& place, int s, QueryRow row, int length) {
  const MaskView& m = call.problem.mask;
  if (!row.inside) return {0, 0};
  if (m.start == nullptr) return {0, length};
  const int64_t query = place.query_first + row.query;
  const auto read = [&](const int32_t* ends, const int64_t (&stride)[4]) {
    const int64_t batch = call.problem.cu_q != nullptr ? 0 : place.batch;
    return clamp_index(
        load(global<int32_t>(ends) + (s * stride[0] + batch * stride[1] + row.head * stride[2] + query * stride[3])),
        length);
  };
  return {read(m.start, m.start_stride), read(m.stop, m.stop_stride)};
}

/// Bits of the blocks in [begin, end) of a chunk.
MMK_DEVICE uint32_t block_bits(int begin, int end) {
  begin = larger(begin, 0);
  end = smaller(end, 32);
  if (begin >= end) return 0;
  return (0xffffffffu >> (32 - (end - begin))) << begin;
}

/// The blocks of one chunk: seen by some row, and seen whole by every row that exists.
struct Blocks {
  uint32_t some, full;
};

/// For one row, of a chunk that starts at key `first`, in blocks of kKeys.
template <int kKeys>
MMK_DEVICE Blocks blocks_of(Interval interval, bool exists, int first) {
  if (!exists) return {0u, 0xffffffffu};
  const int start = interval.start - first, stop = interval.stop - first;
  if (stop <= start || stop <= 0) return {0u, 0u};
  const int from = larger(start, 0);
  return {block_bits(from / kKeys, (stop + kKeys - 1) / kKeys), block_bits((from + kKeys - 1) / kKeys, stop / kKeys)};
}

/// The same over all rows of a block of threads, from those of each warp; `words` has room for 2 words a warp.
template <int kWarps>
MMK_DEVICE Blocks share_blocks(Blocks own, Shared words) {
  if constexpr (kWarps == 1) return own;
  sync_block();  // the words of the chunk before have been read
  if (lane_index() == 0) {
    store(words + warp_index() * 8u, own.some);
    store(words + (warp_index() * 8u + 4u), own.full);
  }
  sync_block();
  Blocks all{0u, 0xffffffffu};
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) {
    all.some |= load<uint32_t>(words + warp * 8u);
    all.full &= load<uint32_t>(words + (warp * 8u + 4u));
  }
  return all;
}

MMK_NAMESPACE_END
