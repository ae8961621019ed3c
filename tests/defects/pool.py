"""Defects that can be planted into csrc/cuda/pool*.cu: the call that shows each."""

DEFECTS = {
    "pool_padding_above": ("max_pool2d", "3x3 stride 2", "float32"),
    "pool_claim_order": ("max_pool2d_grad", "many windows for few elements", "float32"),
    "pool_missing_warp_barrier": ("avg_pool2d", "global", "float32"),
    "pool_last_window": ("avg_pool2d_grad", "3x3 padded", "float32"),
    "pool_table_end": ("adaptive_avg_pool2d", "windows of two sizes", "float32"),
    "pool_last_chunk": ("adaptive_avg_pool2d", "windows of more than 256 elements", "float32"),
    "pool_volume_last_window": ("avg_pool_grad", "2x2x2", "float32"),
    "pool_volume_number": ("max_pool3d", "2x2x2", "float32"),
    "pool_lp_window": ("lp_pool_grad", "p = 2", "float32"),
    "pool_lp_sign": ("lp_pool_grad", "p = 3, line", "float32"),
    "pool_lp_root": ("lp_pool2d", "p = 2", "float32"),
    "pool_draw_first_word": ("stochastic_pool2d", "drawn", "float32"),
    "pool_draw_first_key": ("stochastic_pool2d", "drawn", "float32"),
    "pool_draw_last": ("stochastic_pool2d", "drawn", "float32"),
    "pool_unpool_claims": ("max_unpool2d", "many windows for few elements", "float32"),
    "pool_unpool_any_lane": ("max_unpool2d", "many windows for few elements", "float32"),
    "pool_unpool_unfilled": ("max_unpool_grad", "many windows for few elements", "float32"),
}
