"""References: PyTorch, the fp32 variant, and the cache of their outputs."""
