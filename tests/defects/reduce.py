"""Defects that can be planted into csrc/cuda/reduce.cuh and elementwise.cuh: the call that shows each."""

DEFECTS = {
    "reduce_missing_barrier": ("sum", "everything", "float32"),
    "reduce_early_result": ("sum", "everything", "float32"),
    "reduce_wrong_mask": ("sum", "last axis", "float32"),
    "reduce_ragged_chunk": ("mean", "last axis", "float32"),
    "map_ragged_end": ("add", "long odd", "float32"),
    "map_skipped_end": ("add", "long odd", "float16"),
}
