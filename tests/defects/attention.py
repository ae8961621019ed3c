"""Defects that can be planted into csrc/cuda/attention*: the call that shows each. Where tensor cores compute, those
that the checker itself reports, as other bits than the CPU floor's show nothing there."""

DEFECTS = {
    "attention_missing_barrier": ("attention_grad", "chunks", "float32"),
    "attention_missing_wait": ("attention", "plain", "float32"),
    "attention_wrong_diagonal": ("attention_grad", "bottom-right", "float32"),
    "attention_tile_without_barrier": ("attention_grad", "plain", "float16"),
    "attention_table_early_sums": ("attention_table_grad", "relative", "float32"),
    "attention_table_dropped_carry": ("attention_table_grad", "two blocks", "float32"),
    "attention_table_missing_end": ("attention_table_grad", "one entry", "float32"),
    "attention_slopes_early_sums": ("attention_packed_slopes_grad", "slopes", "float32"),
    "attention_additive_early_softmax": ("additive_attention", "plain", "float32"),
    "attention_additive_hidden_summed": ("additive_attention", "mask", "float32"),
    "attention_additive_early_gradient": ("additive_attention_grad", "plain", "float32"),
    "attention_packed_early_starts": ("attention_packed", "plain", "float32"),
    "attention_ragged_tile": ("attention", "plain", "float16"),
}
