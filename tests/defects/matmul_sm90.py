"""Defects that can be planted into csrc/cuda/products.sm90.cuh and matmul.sm90.cu: the call that shows each."""

_HOPPER = {"MMK_CUDA_ARCH": "sm_90a"}
_LAPS = ("matmul", "batches, several chunks", "bfloat16", _HOPPER)
_TILE = ("linear", "tokens", "float16", _HOPPER)

DEFECTS = {
    "products_sm90_stage_overwritten": _LAPS,
    "products_sm90_skipped_full": _LAPS,
    "products_sm90_early_release": _LAPS,
    "products_sm90_early_store": _TILE,
    "products_sm90_unread_results": _TILE,
    "matmul_sm90_ragged_rows": _LAPS,
    "matmul_sm90_one_batch": _LAPS,
}
