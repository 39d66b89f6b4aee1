// What the host side may ask of a device. No CUDA types.
#pragma once

namespace mmkernels {

/// Multiprocessors of a device; asked of the driver once. 0 if it does not say.
int cuda_processors(int device);

}  // namespace mmkernels
