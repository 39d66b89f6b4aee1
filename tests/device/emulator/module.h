// The files that bind kernels, one function each.
#pragma once

#include <pybind11/pybind11.h>

namespace emulator {

void bind_machine(pybind11::module_& module);
void bind_primitives(pybind11::module_& module);
void bind_planted(pybind11::module_& module);
void bind_attention(pybind11::module_& module);
void bind_attention_backward(pybind11::module_& module);
void bind_contrastive(pybind11::module_& module);
void bind_tile_product(pybind11::module_& module);
void bind_fusion(pybind11::module_& module);

}  // namespace emulator
