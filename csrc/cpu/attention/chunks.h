// The chunks of 512 keys that fix the order of sums over keys: every segment has its own, from its first key on.
#pragma once

#include "tile.h"

MMK_NAMESPACE_BEGIN

/// One chunk of keys: `segment`, keys [first, last).
struct Chunk {
  int segment;
  int32_t first, last;
};

inline int64_t count_chunks(const AttentionProblem& p, const Sequence& sequence) {
  int64_t n = 0;
  for (int s = 0; s < p.num_segments; ++s) n += ceil_div(segment_length(p, sequence, s), kChunkKeys);
  return n;
}

inline Chunk chunk_at(const AttentionProblem& p, const Sequence& sequence, int64_t index) {
  for (int s = 0;; ++s) {
    const int64_t length = segment_length(p, sequence, s), n = ceil_div(length, kChunkKeys);
    if (index < n) {
      const int64_t first = index * kChunkKeys;
      return {s, static_cast<int32_t>(first), static_cast<int32_t>(smaller<int64_t>(first + kChunkKeys, length))};
    }
    index -= n;
  }
}

MMK_NAMESPACE_END
