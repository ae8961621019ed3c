"""Defects that can be planted into csrc/cuda/embed.cu: the call that shows each."""

DEFECTS = {
    "embed_missing_barrier": ("embedding_grad", "sentences", "float32"),
    "embed_lower_lanes": ("embedding_grad", "sentences", "float32"),
    "embed_ragged_columns": ("embedding_grad", "wide rows", "float32"),
}
