"""Defects that can be planted into csrc/cuda/norm*.cu: the call that shows each."""

DEFECTS = {
    "norm_row_past_end": ("layer_norm", "odd rows, plain", "float32"),
    "norm_chunk_past_end": ("layer_norm_grad", "many rows", "float32"),
    "norm_missing_wait": ("group_norm", "affine", "float32"),
    "norm_missing_barrier": ("group_norm", "affine", "float16"),
}
