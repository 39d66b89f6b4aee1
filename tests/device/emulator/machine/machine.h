// The machine that the device code runs on: blocks one after the other in a random order, a fiber for every thread of a
// block, and at every collective, barrier and now and then at a memory access a random other one goes on.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "arrays.h"
#include "banks.h"
#include "copies.h"
#include "fiber.h"
#include "random.h"
#include "report.h"

namespace emulator {

constexpr int kWarpSize = 32;
constexpr uint32_t kAllLanes = 0xffffffffu;
constexpr size_t kReportsKept = 20;

struct Grid {
  int x = 1, y = 1, z = 1;
};

struct Options {
  uint64_t seed = 0;
  bool races = true;  // look for races
  bool banks = true;  // count bank conflicts
};

struct Stats {
  uint64_t blocks = 0, barriers = 0, collectives = 0;  // collectives: of warps, sync_warp among them
  uint64_t matrix_products = 0, matrix_loads = 0;      // of warps
  uint64_t copies = 0, bytes_copied = 0;               // copy16_async; bytes really read
  uint64_t global_bytes_read = 0, global_bytes_written = 0, shared_bytes_read = 0, shared_bytes_written = 0;
  uint64_t switches = 0, reports = 0;
  std::vector<BankConflicts> bank_conflicts;
};

enum class Op {
  kNone,
  kSyncBlock,
  kSyncWarp,
  kShuffleXor,
  kShuffle,
  kWarpOr,
  kWarpAnd,
  kLoadMatrices,
  kMultiplyAdd,
};

struct Warp {
  int index = 0;
  uint32_t epoch = 0;  // see shadow.h
  // the collective that lanes wait at
  Op op = Op::kNone;
  Site site;
  uint32_t arrived = 0;
  void* slot[kWarpSize];
  uint32_t ended = 0;  // lanes whose thread has returned
};

struct Thread {
  Fiber fiber;
  int index = 0, lane = 0;
  Warp* warp = nullptr;
  bool ended = false;
  Op waits = Op::kNone;
  Site site;  // of the last collective
  Copies copies;
};

class Machine {
 public:
  /// Runs `body` once per thread; `threads` of a block, a multiple of the warp. Throws Error.
  void launch(const Options& options, Stats& stats, Grid grid, int threads, size_t shared_bytes,
              std::function<void()> body);

  // ---- what a thread may ask ----

  Thread* current = nullptr;
  int block[3] = {0, 0, 0};

  void sync_block(Site site);
  void sync_warp(Site site);

  /// Waits for the other lanes; `work(slots)` runs once, when all have arrived, on what each of them brought.
  template <class Work>
  void collective(Op op, void* mine, Site site, Work work) {
    if (arrive(op, mine, site)) {
      work(current->warp->slot);
      release();
    }
  }

  // ---- accesses: checked, recorded, done ----

  uint32_t shared_base() const { return shared_base_; }
  void shared_read(void* to, uint32_t address, uint32_t bytes, Site site);
  void shared_write(uint32_t address, const void* from, uint32_t bytes, Site site);
  void global_read(void* to, const void* address, uint32_t bytes, Site site);
  void global_write(void* address, const void* from, uint32_t bytes, Site site);
  /// ldmatrix: a lane's row is checked when the lane arrives; all lanes read all rows.
  void check_row(uint32_t address, Site site);
  const void* read_row(uint32_t address, Site site);
  void count_rows(const std::array<uint32_t, 32>& rows, Site site);

  void copy_async(uint32_t to, const void* from, bool inside, Site site);
  void commit_copies() { current->copies.commit(); }
  void wait_copies(int pending);

  Arrays arrays;
  Stats& stats() { return *stats_; }

 private:
  static void run_thread();

  // scheduling
  void run_block();
  void ready(Thread& thread) { ready_.push_back(thread.index); }
  void next(bool ends);
  void wait(Op op, Site site);
  void step() {
    if (--until_pause_ == 0) pause();
  }
  void pause();
  bool arrive(Op op, void* mine, Site site);
  void release();
  void end_thread();
  Report nothing_ready() const;
  std::string who_waits() const;

  // complaints
  Report about(const char* kind, std::string message, Site site) const;
  [[noreturn]] void stop(const char* kind, std::string message, Site site) const;
  /// Goes on; `message()` is asked for once for each pair of lines.
  template <class Message>
  void complain(const char* kind, Site site, Site other, Message message) {
    ++stats_->reports;
    if (reports_.size() == kReportsKept) return;
    for (const auto& [one, another] : reported_) {
      if (one == site && another == other) return;
    }
    reported_.emplace_back(site, other);
    reports_.push_back(about(kind, message(), site));
  }
  std::string shared_place(size_t offset) const { return "shared+" + std::to_string(offset); }

  // accesses
  char* check_shared(uint32_t address, uint32_t bytes, const char* what, Site site);
  Translated check_global(const void* address, uint32_t bytes, bool write, Site site);
  bool before(uint32_t thread, uint32_t epoch, uint32_t warp_epoch) const;
  void note_reader(Cell& cell, uint32_t lanes, Site site);
  void note_writer(Cell& cell, bool in_flight, Site site);
  template <class Place>
  void check_readers(const Cell& cell, uint32_t first, Place place, Site site);
  void check_shared_read(uint32_t address, uint32_t bytes, bool whole_warp, Site site);
  void check_shared_write(uint32_t address, uint32_t bytes, bool in_flight, Site site);
  void check_global_read(const Translated& from, uint32_t bytes, bool cached, Site site);
  void check_global_write(const Translated& to, const void* value, uint32_t bytes, Site site);
  void land(Copy& copy);
  void settle(Copy& copy);

  Options options_;
  Stats* stats_ = nullptr;
  std::function<void()> body_;
  Random random_;
  Grid grid_;

  Fiber main_;
  std::vector<std::unique_ptr<Thread>> threads_;
  std::vector<Warp> warps_;
  std::vector<int> ready_;
  int alive_ = 0, at_barrier_ = 0;
  Site barrier_site_;
  uint32_t until_pause_ = 1;
  uint64_t pauses_without_progress_ = 0;
  bool stopped_ = false;
  std::vector<Report> reports_;
  std::vector<std::pair<Site, Site>> reported_;

  // see shadow.h
  uint32_t epoch_ = 1, block_begin_ = 1, launch_begin_ = 1;

  std::vector<char> shared_;
  Shadow shared_shadow_;
  uint32_t shared_base_ = 0;
  Banks banks_;
};

/// There is one, as there is one device: launches run one after the other.
extern Machine machine;

}  // namespace emulator
