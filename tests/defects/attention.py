"""Defects that can be planted into csrc/cuda/attention*: the call that shows each. Where tensor cores compute, those
that the checker itself reports, as other bits than the CPU floor's show nothing there."""

DEFECTS = {
    "attention_missing_barrier": ("attention_grad", "chunks", "float32"),
    "attention_missing_wait": ("attention", "plain", "float32"),
    "attention_wrong_diagonal": ("attention_grad", "bottom-right", "float32"),
    "attention_tile_without_barrier": ("attention_grad", "plain", "float16"),
    "attention_ragged_tile": ("attention", "plain", "float16"),
}
