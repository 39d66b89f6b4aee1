// Functions of glibc under the versions that they had before 2.34, when they stood in libraries of their own.
//
// Linked against a newer glibc, an object that calls dlopen asks for dlopen of 2.34, which older systems do not have.
// With these stubs in front it asks for the older one, which every glibc has. Never loaded. The calls come from the
// CUDA runtime, which is linked into the library; tests/build/test_cuda_build.py names what is missing.

#pragma once

#define MMK_GLIBC(name, version) \
  extern "C" void name() {}      \
  __asm__(".symver " #name ", " #name "@@@GLIBC_" version)
