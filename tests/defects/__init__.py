"""Which call shows each defect that can be planted into the CUDA kernels, a file a family."""
