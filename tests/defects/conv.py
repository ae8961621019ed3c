"""Defects that can be planted into csrc/cuda/conv*: the call that shows each."""

DEFECTS = {
    "conv_right_border": ("conv2d", "depthwise", "float64"),
    "conv_missing_barrier": ("conv2d", "dilation, groups", "float32"),
    "conv_depthwise_bottom": ("conv2d", "depthwise", "float32"),
    "conv_window_border": ("conv2d", "several chunks", "float32"),
    "conv_missing_zeros": ("conv2d", "3 x 3 with a border", "float16"),
    "conv_missing_slices": ("conv3d", "3 x 3 x 3 with a border", "float32"),
    "conv_pixel_slices": ("conv3d", "dilation, groups", "float32"),
    "conv_first_residue": ("conv_transpose1d", "4 taps, stride 2", "float32"),
    "conv_single_border": ("conv3d", "depthwise", "bfloat16"),
    "conv_single_filter": ("conv_transpose1d", "depthwise", "float32"),
    "conv_single_end": ("conv3d", "depthwise", "float16"),
    "conv_padded_weights": ("conv2d_weight_grad", "3 x 3 with a border", "float16"),
}
