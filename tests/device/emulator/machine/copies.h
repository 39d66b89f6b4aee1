// The asynchronous copies of a thread between their start and the wait that orders them.
//
// A copy lands at a moment of its own: at once, when its group is waited for, or somewhere between. Its place must be
// left alone all that time, whenever it lands.
#pragma once

#include <cstdint>
#include <vector>

#include "arrays.h"
#include "random.h"

namespace emulator {

struct Copy {
  uint32_t to = 0;  // shared address
  Translated from;  // array == nullptr: zeros arrive
  Site site;
  uint32_t group = 0;
  bool strays = false;  // may land between start and wait
  bool landed = false;
};

class Copies {
 public:
  void clear() {
    open_.clear();
    committed_ = 0;
  }
  bool empty() const { return open_.empty(); }
  const std::vector<Copy>& open() const { return open_; }

  /// The copy, if it is to land at once.
  Copy* start(const Copy& copy, Random& random) {
    if (group_is_new()) mood_ = static_cast<Mood>(random.below(3));
    open_.push_back(copy);
    open_.back().group = committed_;
    open_.back().strays = mood_ == Mood::kScattered;
    return mood_ == Mood::kEarly ? &open_.back() : nullptr;
  }
  void commit() { ++committed_; }
  /// One that lands now although nobody waits for it, if any.
  Copy* stray(Random& random) {
    if (open_.empty()) return nullptr;
    Copy& copy = open_[random.below(static_cast<uint32_t>(open_.size()))];
    return copy.strays && !copy.landed && random.below(4) == 0 ? &copy : nullptr;
  }
  /// Calls `done(copy)` for the copies of all groups but the `pending` latest committed, and forgets them.
  template <class Done>
  void wait(int pending, Done done) {
    size_t kept = 0;
    for (Copy& copy : open_) {
      const bool waited_for = copy.group + static_cast<uint32_t>(pending) < committed_;
      if (waited_for) {
        done(copy);
      } else {
        open_[kept++] = copy;
      }
    }
    open_.resize(kept);
  }

 private:
  enum class Mood { kEarly, kLate, kScattered };

  bool group_is_new() const { return open_.empty() || open_.back().group != committed_; }

  std::vector<Copy> open_;
  uint32_t committed_ = 0;
  Mood mood_ = Mood::kLate;
};

}  // namespace emulator
