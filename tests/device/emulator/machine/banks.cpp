#include "banks.h"

#include <algorithm>

namespace emulator {
namespace {

constexpr int kLanes = 32, kBanks = 32;

/// Different words in the busiest bank, less the one that is free.
uint32_t extra_cycles(const std::array<uint32_t, 32>& address, uint32_t lanes, uint32_t bytes, int first, int last) {
  std::vector<uint32_t> bank[kBanks];
  size_t busiest = 1;
  for (int lane = first; lane < last; ++lane) {
    if (!(lanes >> lane & 1)) continue;
    for (uint32_t word = address[lane] / 4; word <= (address[lane] + bytes - 1) / 4; ++word) {
      std::vector<uint32_t>& words = bank[word % kBanks];
      if (std::find(words.begin(), words.end(), word) == words.end()) words.push_back(word);
      busiest = std::max(busiest, words.size());
    }
  }
  return static_cast<uint32_t>(busiest - 1);
}

}  // namespace

const char* name_of(Access access) {
  switch (access) {
    case Access::kLoad:
      return "load";
    case Access::kStore:
      return "store";
    case Access::kCopy:
      return "copy";
    case Access::kMatrices:
      return "matrices";
  }
  return "";
}

void Banks::begin(int warps, std::vector<BankConflicts>& sites) {
  lines_.assign(warps, {});
  sites_ = &sites;
}

void Banks::record(int warp, int lane, Access access, uint32_t address, uint32_t bytes, Site site) {
  std::vector<Line>& lines = lines_[warp];
  auto line = std::find_if(lines.begin(), lines.end(), [&](const Line& each) {
    return each.access == access && each.bytes == bytes && each.site == site;
  });
  if (line == lines.end()) line = lines.insert(line, {site, access, bytes, {}, {}});
  const uint32_t turn = line->seen[lane]++;
  if (turn == line->open.size()) line->open.emplace_back();
  line->open[turn].address[lane] = address;
  line->open[turn].lanes |= 1u << lane;
}

void Banks::flush(int warp) {
  for (Line& line : lines_[warp]) {
    for (const Together& together : line.open) count(together, line.bytes, line.access, line.site);
    line.open.clear();
    line.seen.fill(0);
  }
}

void Banks::matrices(const std::array<uint32_t, 32>& rows, Site site) {
  count({rows, ~0u}, 16, Access::kMatrices, site);
}

void Banks::count(const Together& together, uint32_t bytes, Access access, Site site) {
  auto found = std::find_if(sites_->begin(), sites_->end(),
                            [&](const BankConflicts& each) { return each.access == access && each.site == site; });
  if (found == sites_->end()) found = sites_->insert(found, {site, access});
  const int phase = bytes <= 4 ? kLanes : bytes == 8 ? kLanes / 2 : kLanes / 4;
  ++found->accesses;
  for (int lane = 0; lane < kLanes; lane += phase) {
    found->extra_cycles += extra_cycles(together.address, together.lanes, bytes, lane, lane + phase);
  }
}

}  // namespace emulator
