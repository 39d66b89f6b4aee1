// Beside every few bytes of memory: who wrote and who read them last, and when.
//
// Time is counted in epochs. A barrier of the block begins a new epoch of the block, and one of each of its warps; a
// barrier of a warp begins a new epoch of the warp. So an event stands before the present exactly if it is the same
// thread's, or its block epoch is over, or it is of the same warp and its warp epoch is over. Epochs are never used
// twice, so that cells of earlier blocks and launches need not be cleared.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "report.h"

namespace emulator {

struct Cell {
  Site write_site, read_site;
  uint32_t write_epoch = 0, write_warp_epoch = 0;  // 0: never
  uint16_t writer = 0;                             // thread of the block
  uint16_t reader = 0;
  bool in_flight = false;          // the write is a copy that nothing waited for
  uint16_t readers_in_flight = 0;  // copies from here that nothing waited for
  // The readers since block epoch read_epoch: all warps, and the lanes of the last one in its epoch. A warp's earlier
  // epochs are before all that the warp does; whatever other warps do races with any reader of this block epoch.
  uint32_t read_epoch = 0, read_warp_epoch = 0, read_lanes = 0, read_warps = 0;
  uint32_t pinned = 0;  // the last epoch of a read that no write of its launch may follow: see Machine::note_reader
};

/// Cells of 2 bytes; one cell stands for 16 bytes for as long as they are only accessed together.
class Shadow {
 public:
  static constexpr size_t kChunk = 16, kGrain = 2, kParts = kChunk / kGrain;

  void resize(size_t bytes) {
    whole_.assign((bytes + kChunk - 1) / kChunk, Cell());
    parts_.clear();
    parts_.resize(whole_.size());
  }
  size_t size() const { return whole_.size() * kChunk; }

  /// `visit(cell, offset, bytes)` for every cell under [offset, offset + bytes).
  template <class Visit>
  void over(size_t offset, size_t bytes, Visit visit) {
    const size_t end = offset + bytes;
    while (offset < end) {
      const size_t chunk = offset / kChunk, chunk_begin = chunk * kChunk;
      const size_t stop = end < chunk_begin + kChunk ? end : chunk_begin + kChunk;
      Parts* parts = parts_[chunk].get();
      if (!parts && stop - offset == kChunk) {
        visit(whole_[chunk], offset, kChunk);
      } else {
        if (!parts) parts = split(chunk);
        for (size_t part = (offset - chunk_begin) / kGrain; chunk_begin + part * kGrain < stop; ++part) {
          visit(parts->cell[part], chunk_begin + part * kGrain, kGrain);
        }
      }
      offset = stop;
    }
  }

 private:
  struct Parts {
    Cell cell[kParts];
  };

  Parts* split(size_t chunk) {
    parts_[chunk] = std::make_unique<Parts>();
    for (Cell& cell : parts_[chunk]->cell) cell = whole_[chunk];
    return parts_[chunk].get();
  }

  std::vector<Cell> whole_;
  std::vector<std::unique_ptr<Parts>> parts_;
};

}  // namespace emulator
