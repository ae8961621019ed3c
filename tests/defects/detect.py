"""Defects that can be planted into csrc/cuda/detect*.cu*: the call that shows each."""

DEFECTS = {
    "detect_missing_barrier": ("nms", "classes", "float32"),
    "detect_unstable_merge": ("nms", "two chunks", "bfloat16"),
    "detect_diagonal": ("nms", "few", "float32"),
    "detect_lost_strike": ("nms", "two chunks", "float32"),
    "detect_count_too_large": ("nms", "fewer than there are", "float32"),
    "detect_half_warp": ("soft_nms", "linear", "float32"),
    "detect_one_turn": ("soft_nms", "linear", "float32"),
    "detect_soft_rest": ("soft_nms", "gaussian", "float32"),
    "detect_rotated_beyond": ("nms_rotated", "few", "float32"),
    "detect_rotated_order": ("nms_rotated", "few", "float32"),
    "detect_rotated_column": ("box_iou_rotated", "degrees", "float32"),
}
