// The emulator's twin of csrc/cuda/ptx/device.h.
#pragma once

#include <cstdint>

#include "../machine/machine.h"
#include "core/namespace.h"

#define MMK_DEVICE inline

MMK_NAMESPACE_BEGIN

MMK_DEVICE int thread_index() { return emulator::machine.current->index; }
MMK_DEVICE int lane_index() { return emulator::machine.current->lane; }
MMK_DEVICE int warp_index() { return emulator::machine.current->warp->index; }
MMK_DEVICE int block_index_x() { return emulator::machine.block[0]; }
MMK_DEVICE int block_index_y() { return emulator::machine.block[1]; }
MMK_DEVICE int block_index_z() { return emulator::machine.block[2]; }

MMK_NAMESPACE_END
