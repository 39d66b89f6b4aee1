"""What the compiler makes of the Triton kernels, ahead of time: needs triton, no GPU."""
