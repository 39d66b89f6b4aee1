"""Concat-fusion: norm, linear, activation, gate and residual over a concatenation that is never built."""
