"""Triton kernels of contrastive_loss. The modules here import triton; ``call`` and ``tables`` do not."""
