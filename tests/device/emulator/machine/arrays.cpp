#include "arrays.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>

namespace emulator {
namespace {

constexpr int kNumber = 48, kMark = 56;
constexpr uint64_t kMarked = 0x5a;
constexpr uint64_t kReal = (uint64_t{1} << kNumber) - 1;

}  // namespace

void* Arrays::add(std::string name, void* begin, size_t bytes, bool written) {
  if (arrays_.size() == kMost) throw std::length_error("more arrays than an address can tell apart");
  arrays_.push_back({std::move(name), reinterpret_cast<uintptr_t>(begin), bytes, written});
  return reinterpret_cast<void*>(address(arrays_.size() - 1));
}

uint64_t Arrays::address(size_t i) const { return kMarked << kMark | uint64_t{i + 1} << kNumber | arrays_[i].begin; }

void Arrays::forget(size_t count) { arrays_.resize(count); }

Translated Arrays::translate(const void* address) {
  const uint64_t bits = reinterpret_cast<uint64_t>(address);
  const size_t number = bits >> kNumber & 0xff;
  if (bits >> kMark != kMarked || number == 0 || number > arrays_.size()) return {};
  return {&arrays_[number - 1], reinterpret_cast<char*>(bits & kReal)};
}

void Arrays::begin() {
  std::vector<size_t> order(arrays_.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return arrays_[a].begin < arrays_[b].begin; });
  regions_.clear();
  for (size_t index : order) {
    Array& array = arrays_[index];
    // whole chunks, so that neighbours that share one share its cells
    const uintptr_t begin = array.begin / Shadow::kChunk * Shadow::kChunk;
    const uintptr_t end = (array.begin + array.bytes + Shadow::kChunk - 1) / Shadow::kChunk * Shadow::kChunk;
    if (regions_.empty() || begin >= regions_.back().end) regions_.push_back({begin, begin, {}});
    regions_.back().end = std::max(regions_.back().end, end);
    array.region = regions_.size() - 1;
  }
  for (Region& region : regions_) {
    const bool written = std::any_of(arrays_.begin(), arrays_.end(), [&](const Array& array) {
      return array.written && &regions_[array.region] == &region;
    });
    if (written) region.shadow.resize(region.end - region.begin);  // else nothing to race with
  }
}

}  // namespace emulator
