#include "module.h"
namespace emulator {
void bind_planted(pybind11::module_&) {}
}  // namespace emulator
