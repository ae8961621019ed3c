"""Defects that can be planted into csrc/cuda/products.cuh and products.tensor.cuh: the call that shows each."""

DEFECTS = {
    "products_missing_wait": ("matmul", "batches, several chunks", "float32"),
    "products_missing_barrier": ("matmul", "batches, several chunks", "float32"),
    "products_missing_stage_barrier": ("matmul", "batches, several chunks", "float16"),
    "products_wrong_swizzle": ("linear", "tokens", "float16"),
    "products_missing_zeros": ("linear", "batch", "float16"),
    "products_ragged_store": ("matmul", "one batch", "float32"),
}
