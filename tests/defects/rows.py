"""Defects that can be planted into csrc/cuda/rows.cuh: the call that shows each."""

DEFECTS = {
    "rows_missing_barrier": ("log_softmax", "long", "float32"),
}
