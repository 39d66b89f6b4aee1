// mmk_emulator: device code on numpy arrays, without a device. For tests only.
#include "module.h"

PYBIND11_MODULE(mmk_emulator, module) {
  using namespace emulator;
  bind_machine(module);
  bind_primitives(module);
  bind_planted(module);
  bind_attention(module);
  bind_tile_product(module);
}
