"""Triton kernels, each beside a reference in torch or numpy that it equals: GPUs only."""
