// mmk_planted: the binding PLANTED_BINDING of one family of kernels. Those stand in another file here, which compiles in a
// second, from sources in which tests/device/planted/planting.py has planted a bug.
#include "module.h"

PYBIND11_MODULE(mmk_planted, module) {
  emulator::bind_machine(module);
  emulator::PLANTED_BINDING(module);
}
