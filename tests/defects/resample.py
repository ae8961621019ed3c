"""Defects that can be planted into csrc/cuda/resample*.cu: the call that shows each."""

DEFECTS = {
    "resample_next_column": ("interpolate", "twice", "float32"),
    "resample_last_column": ("interpolate_grad", "twice", "float32"),
    "resample_past_last": ("interpolate", "bilinear, twice", "float32"),
    "resample_lost_left": ("interpolate_grad", "bilinear, twice", "float32"),
}
