"""Defects that can be planted into csrc/cuda/conv.sm90.cu and conv.weight.sm90.cu: the call that shows each."""

_HOPPER = {"MMK_CUDA_ARCH": "sm_90a"}
_CALL = ("conv2d", "several chunks", "bfloat16", _HOPPER)
_WEIGHT = ("conv2d_weight_grad", "several chunks", "float16", _HOPPER)

DEFECTS = {
    "conv_sm90_missing_zeros": _CALL,
    "conv_sm90_whole_boxes": _CALL,
    "conv_sm90_left_border": _CALL,
    "conv_weight_sm90_missing_zeros": _WEIGHT,
    "conv_weight_sm90_ragged_rows": _WEIGHT,
}
