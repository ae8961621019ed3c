"""Defects that can be planted into csrc/cuda/activation*.cu: the call that shows each."""

DEFECTS = {
    "activation_drop_past_end": ("dropout", "long", "float32"),
    "activation_missing_barrier": ("softmax", "long", "float32"),
    "activation_first_channel": ("local_response_norm", "AlexNet", "float32"),
    "activation_early_sum": ("softmax", "channels", "float32"),
}
