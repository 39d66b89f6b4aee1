// What a thread does to memory: checked against bounds, alignment and races, then done.
#include <cstring>

#include "machine.h"

namespace emulator {
namespace {

std::string thread_name(uint32_t thread) { return "thread " + std::to_string(thread); }

}  // namespace

// ---- complaints ----

Report Machine::about(const char* kind, std::string message, Site site) const {
  return {kind, std::move(message), site.text(), current->index, {block[0], block[1], block[2]}};
}

void Machine::stop(const char* kind, std::string message, Site site) const {
  throw Error(about(kind, std::move(message), site));
}

// ---- order ----

bool Machine::before(uint32_t thread, uint32_t epoch, uint32_t warp_epoch) const {
  if (epoch < launch_begin_) return true;
  if (epoch < block_begin_) return false;  // blocks of a launch have no order
  if (epoch < epoch_ || static_cast<int>(thread) == current->index) return true;
  return static_cast<int>(thread) / kWarpSize == current->warp->index && warp_epoch < current->warp->epoch;
}

void Machine::note_reader(Cell& cell, uint32_t lanes, Site site) {
  const uint32_t warp = current->warp->index;
  if (cell.read_epoch != epoch_) {
    // a cell remembers the readers of one block epoch; that those of an earlier block are forgotten must not free it
    if (cell.read_epoch >= launch_begin_ && cell.read_epoch < block_begin_) cell.pinned = cell.read_epoch;
    cell.read_epoch = epoch_;
    cell.read_warps = 0;
  }
  if (cell.read_warps == 0 || cell.reader / kWarpSize != warp || cell.read_warp_epoch != current->warp->epoch) {
    cell.read_warp_epoch = current->warp->epoch;
    cell.read_lanes = 0;
  }
  cell.read_lanes |= lanes;
  cell.read_warps |= 1u << warp;
  cell.reader = static_cast<uint16_t>(current->index);
  cell.read_site = site;
}

void Machine::note_writer(Cell& cell, bool in_flight, Site site) {
  cell.writer = static_cast<uint16_t>(current->index);
  cell.write_epoch = epoch_;
  cell.write_warp_epoch = current->warp->epoch;
  cell.write_site = site;
  cell.in_flight = in_flight;
  cell.read_epoch = cell.pinned = 0;
}

/// A write now against the reads since epoch `first`.
template <class Place>
void Machine::check_readers(const Cell& cell, uint32_t first, Place place, Site site) {
  bool race = cell.readers_in_flight != 0 || cell.pinned >= first;
  if (cell.read_epoch >= first) {
    const bool own_epoch = cell.read_warp_epoch == current->warp->epoch;
    const uint32_t other_warps = cell.read_warps & ~(1u << current->warp->index);
    const uint32_t other_lanes = own_epoch ? cell.read_lanes & ~(1u << current->lane) : 0;
    race |= cell.read_epoch < block_begin_ || (cell.read_epoch == epoch_ && (other_warps || other_lanes));
  }
  if (!race) return;
  complain("race", site, cell.read_site, [&] {
    return "writes " + place() + ", which " + thread_name(cell.reader) + " and perhaps others read (" +
           cell.read_site.text() + ") with nothing in between that orders them" +
           (cell.readers_in_flight ? "; a copy from there is in flight" : "");
  });
}

// ---- shared memory ----

char* Machine::check_shared(uint32_t address, uint32_t bytes, const char* what, Site site) {
  const int64_t offset = static_cast<int64_t>(address) - shared_base_;
  const auto place = [&] {
    return std::string(what) + " of " + std::to_string(bytes) + " bytes at shared+" + std::to_string(offset);
  };
  if (offset < 0 || offset + bytes > static_cast<int64_t>(shared_.size())) {
    stop("bounds", place() + ", and the block has " + std::to_string(shared_.size()), site);
  }
  if (address % bytes) stop("alignment", place(), site);
  return shared_.data() + offset;
}

void Machine::check_shared_read(uint32_t address, uint32_t bytes, bool whole_warp, Site site) {
  if (!options_.races) return;
  shared_shadow_.over(address - shared_base_, bytes, [&](Cell& cell, size_t offset, size_t) {
    if (cell.write_epoch < block_begin_) {
      complain("uninitialised", site, {}, [&] { return "reads " + shared_place(offset) + ", which nobody wrote"; });
    } else if (cell.in_flight) {
      complain("race", site, cell.write_site, [&] {
        return "reads " + shared_place(offset) + " while a copy of " + thread_name(cell.writer) + " (" +
               cell.write_site.text() + ") to there is in flight: it was not waited for";
      });
    } else {
      const bool own_warp_epoch = static_cast<int>(cell.writer) / kWarpSize == current->warp->index &&
                                  cell.write_warp_epoch < current->warp->epoch;
      const bool ordered = whole_warp ? cell.write_epoch < epoch_ || own_warp_epoch
                                      : before(cell.writer, cell.write_epoch, cell.write_warp_epoch);
      if (!ordered) {
        complain("race", site, cell.write_site, [&] {
          return "reads " + shared_place(offset) + ", which " + thread_name(cell.writer) + " wrote (" +
                 cell.write_site.text() + ") with no barrier in between";
        });
      }
    }
    note_reader(cell, whole_warp ? kAllLanes : 1u << current->lane, site);
  });
}

void Machine::check_shared_write(uint32_t address, uint32_t bytes, bool in_flight, Site site) {
  if (!options_.races) return;
  shared_shadow_.over(address - shared_base_, bytes, [&](Cell& cell, size_t offset, size_t) {
    const bool written = cell.write_epoch >= block_begin_;
    if (written && (cell.in_flight || !before(cell.writer, cell.write_epoch, cell.write_warp_epoch))) {
      complain("race", site, cell.write_site, [&] {
        return "writes " + shared_place(offset) +
               (cell.in_flight ? " while a copy to there is in flight, of " : " with no barrier after the write of ") +
               thread_name(cell.writer) + " (" + cell.write_site.text() + ")";
      });
    }
    check_readers(cell, block_begin_, [&] { return shared_place(offset); }, site);
    note_writer(cell, in_flight, site);
  });
}

void Machine::shared_read(void* to, uint32_t address, uint32_t bytes, Site site) {
  step();
  const char* from = check_shared(address, bytes, "load", site);
  check_shared_read(address, bytes, false, site);
  if (options_.banks) banks_.record(current->warp->index, current->lane, Access::kLoad, address, bytes, site);
  stats_->shared_bytes_read += bytes;
  std::memcpy(to, from, bytes);
}

void Machine::shared_write(uint32_t address, const void* from, uint32_t bytes, Site site) {
  step();
  char* to = check_shared(address, bytes, "store", site);
  check_shared_write(address, bytes, false, site);
  if (options_.banks) banks_.record(current->warp->index, current->lane, Access::kStore, address, bytes, site);
  stats_->shared_bytes_written += bytes;
  std::memcpy(to, from, bytes);
}

void Machine::check_row(uint32_t address, Site site) {
  step();
  check_shared(address, 16, "row", site);
}

const void* Machine::read_row(uint32_t address, Site site) {
  check_shared_read(address, 16, true, site);
  stats_->shared_bytes_read += 16;
  return shared_.data() + (address - shared_base_);
}

void Machine::count_rows(const std::array<uint32_t, 32>& rows, Site site) {
  ++stats_->matrix_loads;
  if (options_.banks) banks_.matrices(rows, site);
}

// ---- global memory ----

Translated Machine::check_global(const void* address, uint32_t bytes, bool write, Site site) {
  const Translated place = arrays.translate(address);
  const char* what = write ? "store" : "load";
  if (!place.array) {
    stop("pointer", std::string(what) + " at an address that is " + (address ? "of no array" : "null"), site);
  }
  const Array& array = *place.array;
  const int64_t offset = static_cast<int64_t>(reinterpret_cast<uintptr_t>(place.real) - array.begin);
  const auto text = [&] {
    return std::string(what) + " of " + std::to_string(bytes) + " bytes at " + array.name + "+" +
           std::to_string(offset);
  };
  if (offset < 0 || offset + bytes > static_cast<int64_t>(array.bytes)) {
    stop("bounds", text() + ", which has " + std::to_string(array.bytes), site);
  }
  if (reinterpret_cast<uintptr_t>(place.real) % bytes) stop("alignment", text(), site);
  if (write && !array.written) stop("read-only", text() + ", which is an input", site);
  return place;
}

/// `cached`: through the cache that is right only for what no thread of the launch writes.
void Machine::check_global_read(const Translated& from, uint32_t bytes, bool cached, Site site) {
  if (!options_.races) return;
  Region& region = arrays.region(*from.array);
  if (!region.shadow.size()) return;
  region.shadow.over(reinterpret_cast<uintptr_t>(from.real) - region.begin, bytes, [&](Cell& cell, size_t, size_t) {
    const bool written = cell.write_epoch >= launch_begin_;
    if (written && (cached || !before(cell.writer, cell.write_epoch, cell.write_warp_epoch))) {
      complain("race", site, cell.write_site, [&] {
        return "reads " + from.array->name + " where " + thread_name(cell.writer) + " of " +
               (cell.write_epoch < block_begin_ ? "another block" : "the block") + " wrote in this launch (" +
               cell.write_site.text() + ")" + (cached ? ": load is for what a launch does not write" : "");
      });
    }
    note_reader(cell, 1u << current->lane, site);
    if (cached) cell.pinned = epoch_;
  });
}

void Machine::check_global_write(const Translated& to, const void* value, uint32_t bytes, Site site) {
  if (!options_.races) return;
  Region& region = arrays.region(*to.array);
  const size_t begin = reinterpret_cast<uintptr_t>(to.real) - region.begin;
  region.shadow.over(begin, bytes, [&](Cell& cell, size_t offset, size_t length) {
    const bool written = cell.write_epoch >= launch_begin_;
    if (written && !before(cell.writer, cell.write_epoch, cell.write_warp_epoch) &&
        std::memcmp(to.real + (offset - begin), static_cast<const char*>(value) + (offset - begin), length) != 0) {
      complain("race", site, cell.write_site, [&] {
        return "writes " + to.array->name + " where " + thread_name(cell.writer) + " of " +
               (cell.write_epoch < block_begin_ ? "another block" : "the block") + " wrote another value (" +
               cell.write_site.text() + ")";
      });
    }
    check_readers(cell, launch_begin_, [&] { return to.array->name; }, site);
    note_writer(cell, false, site);
  });
}

void Machine::global_read(void* to, const void* address, uint32_t bytes, Site site) {
  step();
  const Translated from = check_global(address, bytes, false, site);
  check_global_read(from, bytes, true, site);
  stats_->global_bytes_read += bytes;
  std::memcpy(to, from.real, bytes);
}

void Machine::global_write(void* address, const void* from, uint32_t bytes, Site site) {
  step();
  const Translated to = check_global(address, bytes, true, site);
  check_global_write(to, from, bytes, site);
  stats_->global_bytes_written += bytes;
  std::memcpy(to.real, from, bytes);
}

// ---- asynchronous copies ----

void Machine::copy_async(uint32_t to, const void* from, bool inside, Site site) {
  step();
  Copies& copies = current->copies;
  if (Copy* copy = copies.stray(random_)) land(*copy);
  char* place = check_shared(to, 16, "copy", site);
  if (reinterpret_cast<uintptr_t>(from) % 16) stop("alignment", "copy from an address that is no multiple of 16", site);
  Copy copy{to, {}, site};
  if (inside) {
    copy.from = check_global(from, 16, false, site);
    check_global_read(copy.from, 16, false, site);
    Region& region = arrays.region(*copy.from.array);
    if (options_.races && region.shadow.size()) {
      region.shadow.over(reinterpret_cast<uintptr_t>(copy.from.real) - region.begin, 16,
                         [](Cell& cell, size_t, size_t) { ++cell.readers_in_flight; });
    }
    stats_->bytes_copied += 16;
  }
  ++stats_->copies;
  check_shared_write(to, 16, true, site);
  if (options_.banks) banks_.record(current->warp->index, current->lane, Access::kCopy, to, 16, site);
  std::memset(place, 0xff, 16);
  if (Copy* lands = copies.start(copy, random_)) land(*lands);
}

void Machine::wait_copies(int pending) {
  current->copies.wait(pending, [this](Copy& copy) { settle(copy); });
}

void Machine::land(Copy& copy) {
  char* to = shared_.data() + (copy.to - shared_base_);
  if (copy.from.array) {
    std::memcpy(to, copy.from.real, 16);
  } else {
    std::memset(to, 0, 16);
  }
  copy.landed = true;
}

/// The copy was waited for: from now on it is like a write of this thread.
void Machine::settle(Copy& copy) {
  if (!copy.landed) land(copy);
  if (!options_.races) return;
  shared_shadow_.over(copy.to - shared_base_, 16,
                      [&](Cell& cell, size_t, size_t) { note_writer(cell, false, copy.site); });
  if (!copy.from.array) return;
  Region& region = arrays.region(*copy.from.array);
  if (!region.shadow.size()) return;
  region.shadow.over(reinterpret_cast<uintptr_t>(copy.from.real) - region.begin, 16, [&](Cell& cell, size_t, size_t) {
    --cell.readers_in_flight;
    note_reader(cell, 1u << current->lane, copy.site);
  });
}

}  // namespace emulator
