// mmk_emulator: device code on numpy arrays, without a device. For tests only.
#include "module.h"

PYBIND11_MODULE(mmk_emulator, module) {
  using namespace emulator;
  bind_machine(module);
  bind_primitives(module);
  bind_planted(module);
  bind_attention(module);
  bind_attention_backward(module);
  bind_contrastive(module);
  bind_tile_product(module);
  bind_fusion(module);
}
