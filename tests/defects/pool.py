"""Defects that can be planted into csrc/cuda/pool*.cu: the call that shows each."""

DEFECTS = {
    "pool_padding_above": ("max_pool2d", "3x3 stride 2", "float32"),
    "pool_claim_order": ("max_pool2d_grad", "many windows for few elements", "float32"),
    "pool_missing_warp_barrier": ("avg_pool2d", "global", "float32"),
    "pool_last_window": ("avg_pool2d_grad", "3x3 padded", "float32"),
}
