// What the small kernels are given: right ones, and wrong ones where `broken` is set.
#pragma once

#include <ptx/memory.h>

namespace mmkernels {
namespace device {
namespace planted {

constexpr int kThreads = 128;       // of a block
constexpr int kNumbers = 1024;      // in each array
constexpr uint32_t kShared = 4096;  // bytes

struct Call {
  Global<const float> in;
  Global<float> out;
  bool broken;
};

/// Cell `index` of 4 bytes.
MMK_DEVICE Shared cell(int index) { return shared_memory() + static_cast<uint32_t>(4 * index); }
MMK_DEVICE Shared row(int index) { return shared_memory() + static_cast<uint32_t>(16 * index); }

MMK_DEVICE void copy(Shared to, Global<const float> from) { copy16_async(to, from, true); }

}  // namespace planted
}  // namespace device
}  // namespace mmkernels
