"""Defects that can be planted into csrc/cuda/diffusion.cu: the call that shows each."""

DEFECTS = {
    "diffusion_counter": ("diffusion_step", "guidance, drawn noise", "float32"),
    "diffusion_first_row": ("diffusion_step", "two guidances, given noise, history", "float32"),
    "diffusion_unfolded_key": ("diffusion_step", "table", "float32"),
    "diffusion_first_mask": ("diffusion_step", "mask per sample", "float16"),
}
