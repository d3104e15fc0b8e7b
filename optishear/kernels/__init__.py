"""GPU kernels in Triton, each in place of torch operations that it equals."""
