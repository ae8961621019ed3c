"""Defects that can be planted into csrc/cuda/norm*.cu and channels.cuh: the call that shows each."""

DEFECTS = {
    "norm_row_past_end": ("layer_norm", "odd rows, plain", "float32"),
    "norm_chunk_past_end": ("layer_norm_grad", "many rows", "float32"),
    "norm_missing_wait": ("group_norm", "affine", "float32"),
    "norm_missing_barrier": ("group_norm", "affine", "float16"),
    "norm_next_channel": ("batch_norm", "no spatial extent", "float32"),
    "norm_segment_past_end": ("batch_norm_training", "several segments", "float32"),
    "norm_missing_turn": ("batch_norm_training", "many samples", "float32"),
}
