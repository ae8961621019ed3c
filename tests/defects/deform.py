"""Defects that can be planted into csrc/cuda/deform*: the call that shows each."""

DEFECTS = {
    "deform_right_border": ("deform_conv2d", "3 x 3, mask", "float64"),
    "deform_lost_mask": ("deform_conv2d", "several chunks", "float32"),
    "deform_channels_behind": ("deform_conv2d", "groups of both kinds", "float32"),
    "deform_first_set": ("deform_conv2d", "groups of both kinds", "float64"),
    "deform_bias_of_group": ("deform_conv2d", "groups of both kinds", "float32"),
    "deform_ragged_columns": ("deform_conv2d", "1 x 1 plane", "float32"),
    "deform_first_group": ("deform_conv2d_weight_grad", "groups of both kinds", "float32"),
    "deform_overlapping_lists": ("deform_conv2d_input_grad", "groups of both kinds", "float32"),
    "deform_last_unsorted": ("ms_deform_attention_value_grad", "two levels", "float32"),
    "deform_merge_order": ("deform_conv2d_input_grad", "3 x 3, mask", "float32"),
    "deform_every_lane": ("deform_conv2d_offset_grad", "3 x 3, mask", "float32"),
    "deform_one_chunk": ("ms_deform_attention", "many points", "float32"),
    "deform_level_start": ("ms_deform_attention_value_grad", "odd channels", "float32"),
    "deform_wrong_sum": ("ms_deform_attention_points_grad", "odd channels", "float32"),
    "deform_other_axis": ("deform_conv2d_snap", "3 x 3, mask", "float32"),
    "deform_first_level": ("ms_deform_attention_snap", "odd channels", "float32"),
    "deform_empty_level": ("ms_deform_attention_snap", "a level without pixels", "float32"),
}
