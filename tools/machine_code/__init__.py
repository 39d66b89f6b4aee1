"""Reads the machine code that nvcc makes of the CUDA kernels: docs/kernels/machine-code.md."""
