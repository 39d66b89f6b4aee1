// How a function of the device code is declared, and which thread of which block runs it.
//
// The files of this folder are the only ones that know the machine: everything above them includes <ptx/...>, which is
// this folder under nvcc and a host twin of it (tests/device/emulator/ptx) in the emulator.
#pragma once

#include <cstdint>

#include "../../core/namespace.h"

#define MMK_DEVICE __device__ __forceinline__

MMK_NAMESPACE_BEGIN

MMK_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
MMK_DEVICE int lane_index() { return static_cast<int>(threadIdx.x % 32); }
MMK_DEVICE int warp_index() { return static_cast<int>(threadIdx.x / 32); }
MMK_DEVICE int block_index_x() { return static_cast<int>(blockIdx.x); }
MMK_DEVICE int block_index_y() { return static_cast<int>(blockIdx.y); }
MMK_DEVICE int block_index_z() { return static_cast<int>(blockIdx.z); }

MMK_NAMESPACE_END
