"""Defects that can be planted into csrc/cuda/attention.sm90.cu and attention.grad.sm90.cu: the call that shows each."""

_CALL = ("attention", "plain", "bfloat16", {"MMK_CUDA_ARCH": "sm_90a"})
_GRAD = ("attention_grad", *_CALL[1:])

DEFECTS = {
    "attention_sm90_queries_overwritten": _CALL,
    "attention_sm90_skipped_full": _CALL,
    "attention_sm90_one_key_more": _CALL,
    "attention_sm90_early_store": _CALL,
    "attention_sm90_unread_results": _CALL,
    "attention_grad_sm90_rows_overwritten": _GRAD,
    "attention_grad_sm90_skipped_full": _GRAD,
    "attention_grad_sm90_skipped_check": _GRAD,
    "attention_grad_sm90_unread_results": _GRAD,
}
