"""Defects that can be planted into csrc/cuda/conv*: the call that shows each."""

DEFECTS = {
    "conv_right_border": ("conv2d", "depthwise", "float64"),
    "conv_missing_barrier": ("conv2d", "dilation, groups", "float32"),
    "conv_depthwise_bottom": ("conv2d", "depthwise", "float32"),
    "conv_window_border": ("conv2d", "several chunks", "float32"),
    "conv_missing_zeros": ("conv2d", "3 x 3 with a border", "float16"),
    "conv_padded_weights": ("conv2d_weight_grad", "3 x 3 with a border", "float16"),
}
