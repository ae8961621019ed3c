"""Defects that can be planted into csrc/cuda/noise.cu: the call that shows each."""

DEFECTS = {
    "noise_ragged_end": ("philox_normal", "plain", "float32"),
    "noise_low_key": ("philox4x32", "plain", "float32"),
    "noise_first_key": ("philox_uniform", "whole blocks", "float32"),
}
