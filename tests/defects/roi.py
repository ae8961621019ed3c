"""Defects that can be planted into csrc/cuda/roi*: the call that shows each."""

DEFECTS = {
    "roi_row_for_column": ("roi_align", "7x7 of two samples", "float32"),
    "roi_tables_unfinished": ("roi_align", "7x7 of two samples", "float32"),
    "roi_last_channels": ("roi_align", "counted samples", "float32"),
    "roi_weights_unfinished": ("roi_align_grad", "7x7 of two samples", "float32"),
    "roi_list_place": ("roi_align_grad", "sixteen channels", "float32"),
    "roi_reach_end": ("roi_align_grad", "counted samples", "float32"),
    "roi_claim_order": ("roi_pool_grad", "many bins for few elements", "float32"),
    "roi_band_uncleared": ("roi_pool_grad", "odd", "float32"),
    "roi_window_end": ("roi_pool", "3x3", "float32"),
    "roi_gather_row": ("roi_pool_gather", "odd", "float32"),
    "roi_first_corner": ("roi_align_rotated", "two samples", "float32"),
    "roi_other_channels": ("roi_align_rotated", "two samples", "float32"),
    "roi_transposed_bins": ("roi_align_rotated_grad", "two samples", "float32"),
}
