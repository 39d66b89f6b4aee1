"""Triton kernels of attention. The modules here import triton; ``call`` does not."""
