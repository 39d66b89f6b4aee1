"""A training step of every system of the zoo: naive torch beside the fused kernels."""
