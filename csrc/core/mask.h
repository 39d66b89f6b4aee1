// What a mask means to a kernel: one half-open interval of visible keys per query row and key segment.
#pragma once

#include <cstdint>

#include "namespace.h"

MMK_NAMESPACE_BEGIN

/// How a tile of rows x keys relates to the intervals of its rows.
enum class TileClass {
  kSkip,     // no visible pair: the tile is never loaded
  kFull,     // every pair visible: no element test
  kPartial,  // some of both: the only tiles that pay for the element test
};

/// Interval indices come from the user: whatever they are, a kernel only ever sees them inside [0, length].
MMK_HOST_DEVICE inline int32_t clamp_index(int64_t index, int64_t length) {
  return static_cast<int32_t>(index < 0 ? 0 : (index > length ? length : index));
}

/// The class of keys [begin, end) against the intervals [start[r], stop[r]) of `rows` rows.
MMK_HOST_DEVICE inline TileClass classify_tile(const int32_t* start, const int32_t* stop, int rows, int32_t begin,
                                               int32_t end) {
  int visible = 0, full = 1;
  for (int r = 0; r < rows; ++r) {
    visible |= static_cast<int>((start[r] < stop[r]) & (start[r] < end) & (stop[r] > begin));
    full &= static_cast<int>((start[r] <= begin) & (stop[r] >= end));
  }
  return !visible ? TileClass::kSkip : full ? TileClass::kFull : TileClass::kPartial;
}

MMK_NAMESPACE_END
