#include "machine.h"

#include <algorithm>
#include <numeric>

namespace emulator {

Machine machine;

namespace {

constexpr uint32_t kAccessesBetweenPauses = 2000;    // at most
constexpr uint64_t kPausesWithoutProgress = 10'000;  // some 10^7 accesses

const char* name_of(Op op) {
  switch (op) {
    case Op::kNone:
      return "nothing";
    case Op::kSyncBlock:
      return "sync_block";
    case Op::kSyncWarp:
      return "sync_warp";
    case Op::kShuffleXor:
      return "shuffle_xor";
    case Op::kShuffle:
      return "shuffle";
    case Op::kWarpOr:
      return "warp_or";
    case Op::kWarpAnd:
      return "warp_and";
    case Op::kLoadMatrices:
      return "load_matrices";
    case Op::kMultiplyAdd:
      return "multiply_add";
  }
  return "";
}

std::string at(Op op, Site site) { return std::string(name_of(op)) + " (" + site.text() + ")"; }

int lowest(uint32_t lanes) { return __builtin_ctz(lanes); }

}  // namespace

// ---- launch ----

void Machine::launch(const Options& options, Stats& stats, Grid grid, int threads, size_t shared_bytes,
                     std::function<void()> body) {
  if (threads <= 0 || threads > 1024 || threads % kWarpSize || grid.x <= 0 || grid.y <= 0 || grid.z <= 0) {
    throw Error({"launch", "blocks have whole warps of threads, at most 1024, and grids have blocks", "", -1, {}});
  }
  options_ = options;
  stats_ = &stats;
  grid_ = grid;
  body_ = std::move(body);
  random_.seed(options.seed);
  reports_.clear();
  reported_.clear();
  stopped_ = false;
  launch_begin_ = ++epoch_;
  arrays.begin();
  // Where shared memory begins is the driver's affair; kernels may rely on whole kilobytes.
  shared_base_ = 1024 * (1 + random_.below(8));
  shared_.resize(shared_bytes);
  shared_shadow_.resize(shared_bytes);
  banks_.begin(threads / kWarpSize, stats.bank_conflicts);
  warps_.assign(threads / kWarpSize, Warp());
  while (threads_.size() < static_cast<size_t>(threads)) threads_.push_back(std::make_unique<Thread>());

  std::vector<int64_t> blocks(static_cast<size_t>(grid.x) * grid.y * grid.z);
  std::iota(blocks.begin(), blocks.end(), int64_t{0});
  for (size_t i = blocks.size(); i > 1; --i) std::swap(blocks[i - 1], blocks[random_.below(static_cast<uint32_t>(i))]);
  for (int64_t index : blocks) {
    block[0] = static_cast<int>(index % grid.x);
    block[1] = static_cast<int>(index / grid.x % grid.y);
    block[2] = static_cast<int>(index / grid.x / grid.y);
    run_block();
    if (stopped_) break;
  }
  current = nullptr;
  body_ = nullptr;
  threads_.clear();  // a process has a limited number of mappings, and there may be many modules with a machine each
  if (reports_.empty()) return;
  Error error(reports_.front());
  error.all = reports_;
  throw error;
}

void Machine::run_block() {
  const int count = static_cast<int>(threads_.size());
  ++stats_->blocks;
  block_begin_ = ++epoch_;
  std::fill(shared_.begin(), shared_.end(), '\xff');  // NaN in every type
  for (int warp = 0; warp < static_cast<int>(warps_.size()); ++warp) {
    warps_[warp] = Warp();
    warps_[warp].index = warp;
  }
  ready_.clear();
  alive_ = count;
  at_barrier_ = 0;
  until_pause_ = 1 + random_.below(kAccessesBetweenPauses);
  pauses_without_progress_ = 0;
  for (int index = 0; index < count; ++index) {
    Thread& thread = *threads_[index];
    thread.index = index;
    thread.lane = index % kWarpSize;
    thread.warp = &warps_[index / kWarpSize];
    thread.ended = false;
    thread.waits = Op::kNone;
    thread.copies.clear();
    thread.fiber.prepare(&Machine::run_thread);
    ready(thread);
  }
  std::swap(ready_[random_.below(count)], ready_.back());
  current = threads_[ready_.back()].get();
  ready_.pop_back();
  Fiber::change(main_, current->fiber);
  for (int warp = 0; warp < static_cast<int>(warps_.size()); ++warp) banks_.flush(warp);
}

void Machine::run_thread() {
  try {
    machine.body_();
    machine.end_thread();
  } catch (const Error& error) {
    machine.reports_.insert(machine.reports_.begin(), error.first);
    machine.stopped_ = true;
  } catch (const std::exception& error) {
    machine.reports_.insert(machine.reports_.begin(), machine.about("exception", error.what(), {}));
    machine.stopped_ = true;
  }
  machine.next(true);
}

void Machine::end_thread() {
  Thread& self = *current;
  Warp& warp = *self.warp;
  if (!self.copies.empty()) {
    const Site site = self.copies.open().front().site;
    complain("copies", site, site, [] { return "the thread returns and never waited for its copies"; });
    self.copies.commit();
    self.copies.wait(0, [this](Copy& copy) { settle(copy); });
  }
  if (at_barrier_) stop("divergence", "a thread returns while others wait at " + at(Op::kSyncBlock, barrier_site_), {});
  if (warp.arrived) stop("divergence", "a lane returns while others wait at " + at(warp.op, warp.site), warp.site);
  warp.ended |= 1u << self.lane;
  self.ended = true;
  --alive_;
  pauses_without_progress_ = 0;
}

// ---- scheduling ----

void Machine::next(bool ends) {
  Thread& self = *current;
  if (!stopped_ && ready_.empty() && alive_) {
    Report report = nothing_ready();
    if (!ends) throw Error(std::move(report));
    reports_.insert(reports_.begin(), std::move(report));
    stopped_ = true;
  }
  if (stopped_ || ready_.empty()) {
    Fiber::change(self.fiber, main_, ends);
    return;
  }
  std::swap(ready_[random_.below(static_cast<uint32_t>(ready_.size()))], ready_.back());
  current = threads_[ready_.back()].get();
  ready_.pop_back();
  if (current == &self) return;
  ++stats_->switches;
  Fiber::change(self.fiber, current->fiber, ends);
}

void Machine::wait(Op op, Site site) {
  current->waits = op;
  current->site = site;
  next(false);
}

void Machine::pause(Site site) {
  until_pause_ = 1 + random_.below(kAccessesBetweenPauses);
  if (++pauses_without_progress_ > kPausesWithoutProgress) {
    stop("deadlock", "threads read and write without end, and none comes to a collective; " + who_waits(), site);
  }
  ready(*current);
  next(false);
}

Report Machine::nothing_ready() const {
  return about("deadlock", "no thread can go on: " + who_waits(), current->site);
}

std::string Machine::who_waits() const {
  struct Group {
    int warp;
    Op op;
    Site site;
    uint32_t lanes;
  };
  std::vector<Group> groups;
  for (const auto& thread : threads_) {
    if (thread->ended || thread->waits == Op::kNone) continue;
    const int warp = thread->warp->index;
    const auto same = [&](const Group& each) {
      return each.warp == warp && each.op == thread->waits && each.site == thread->site;
    };
    auto found = std::find_if(groups.begin(), groups.end(), same);
    if (found == groups.end()) found = groups.insert(found, {warp, thread->waits, thread->site, 0});
    found->lanes |= 1u << thread->lane;
  }
  constexpr size_t kShown = 8;
  std::string text;
  for (size_t i = 0; i < groups.size() && i < kShown; ++i) {
    const Group& group = groups[i];
    text += (i ? "; warp " : "warp ") + std::to_string(group.warp) + ": " +
            std::to_string(__builtin_popcount(group.lanes)) + " lanes from lane " +
            std::to_string(lowest(group.lanes)) + " wait at " + at(group.op, group.site);
  }
  return text.empty() ? "nobody waits" : text + (groups.size() > kShown ? "; and more" : "");
}

// ---- collectives ----

bool Machine::arrive(Op op, void* mine, Site site) {
  Thread& self = *current;
  Warp& warp = *self.warp;
  if (Copy* copy = self.copies.stray(random_)) land(*copy);
  if (warp.ended) {
    stop("divergence",
         at(op, site) + " needs all lanes, and lane " + std::to_string(lowest(warp.ended)) + " has returned", site);
  }
  if (warp.arrived == 0) {
    warp.op = op;
    warp.site = site;
  } else if (warp.op != op || warp.site != site) {
    stop("divergence",
         "lane " + std::to_string(self.lane) + " comes to " + at(op, site) + " while lane " +
             std::to_string(lowest(warp.arrived)) + " of its warp waits at " + at(warp.op, warp.site),
         site);
  }
  warp.slot[self.lane] = mine;
  warp.arrived |= 1u << self.lane;
  if (warp.arrived == kAllLanes) return true;
  wait(op, site);
  return false;
}

void Machine::release() {
  Thread& self = *current;
  Warp& warp = *self.warp;
  ++stats_->collectives;
  pauses_without_progress_ = 0;
  if (options_.banks) banks_.flush(warp.index);
  warp.arrived = 0;
  for (int lane = 0; lane < kWarpSize; ++lane) {
    Thread& other = *threads_[warp.index * kWarpSize + lane];
    other.waits = Op::kNone;
    if (&other != &self) ready(other);
  }
  if (random_.below(8) == 0) {  // the last to come need not be the first to go
    ready(self);
    next(false);
  }
}

void Machine::sync_warp(Site site) {
  collective(Op::kSyncWarp, nullptr, site, [this](void**) { ++current->warp->epoch; });
}

void Machine::sync_block(Site site) {
  Thread& self = *current;
  if (Copy* copy = self.copies.stray(random_)) land(*copy);
  if (alive_ != static_cast<int>(threads_.size())) {
    stop("divergence", at(Op::kSyncBlock, site) + " needs the whole block, and a thread of it has returned", site);
  }
  if (at_barrier_ == 0) {
    barrier_site_ = site;
  } else if (barrier_site_ != site) {
    stop("divergence",
         "a thread comes to " + at(Op::kSyncBlock, site) + " while others wait at " + at(Op::kSyncBlock, barrier_site_),
         site);
  }
  if (++at_barrier_ < static_cast<int>(threads_.size())) {
    wait(Op::kSyncBlock, site);
    return;
  }
  at_barrier_ = 0;
  ++epoch_;
  ++stats_->barriers;
  pauses_without_progress_ = 0;
  for (Warp& warp : warps_) {
    ++warp.epoch;
    if (options_.banks) banks_.flush(warp.index);
  }
  for (const auto& other : threads_) {
    other->waits = Op::kNone;
    if (other.get() != &self) ready(*other);
  }
  ready(self);
  next(false);
}

}  // namespace emulator
