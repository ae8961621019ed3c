"""Defects that can be planted into the products of TF32 (csrc/cuda/tf32.cu, products.tensor.cuh): the call that shows
each."""

DEFECTS = {
    "tf32_unrounded": ("linear", "TF32", "float32"),
    "tf32_unrounded_copy": ("conv2d", "TF32, few outputs", "float32"),
    "tf32_exchanged_halves": ("conv2d_weight_grad", "TF32", "float32"),
}
