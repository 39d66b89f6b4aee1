// Counts bank conflicts in shared memory: 32 banks of 4 bytes, one word of each in a cycle.
//
// A warp's access of 4 bytes a lane, or fewer, is one phase; 8 bytes go by half-warps, 16 bytes by quarter-warps, and
// ldmatrix by 8 rows of 16 bytes. A phase takes as many cycles as the busiest bank has different words; those beyond the
// first are extra. Lanes run one after the other here, so the accesses that a warp makes together are found by counting:
// the n-th of each lane from one line of source, since the warp's last collective.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "report.h"

namespace emulator {

enum class Access { kLoad, kStore, kCopy, kMatrices };

const char* name_of(Access access);

struct BankConflicts {
  Site site;
  Access access;
  uint64_t accesses = 0, extra_cycles = 0;  // of warps; beyond one for each phase
};

class Banks {
 public:
  /// Counts into `sites`.
  void begin(int warps, std::vector<BankConflicts>& sites);
  void record(int warp, int lane, Access access, uint32_t address, uint32_t bytes, Site site);
  /// Every lane of the warp is here: its open accesses are complete.
  void flush(int warp);
  /// One of ldmatrix: addresses of 32 rows.
  void matrices(const std::array<uint32_t, 32>& rows, Site site);

 private:
  struct Together {
    std::array<uint32_t, 32> address;
    uint32_t lanes = 0;
  };
  struct Line {
    Site site;
    Access access;
    uint32_t bytes;
    std::array<uint32_t, 32> seen{};
    std::vector<Together> open;
  };

  void count(const Together& together, uint32_t bytes, Access access, Site site);

  std::vector<std::vector<Line>> lines_;  // of each warp
  std::vector<BankConflicts>* sites_ = nullptr;
};

}  // namespace emulator
