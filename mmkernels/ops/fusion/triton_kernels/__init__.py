"""Triton kernels of concat_fusion. The modules here import triton; ``call`` and ``tables`` do not."""
