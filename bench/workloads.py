"""The public workloads: layers of well-known models. Data only: (name, operator, case).

PUBLIC are as published: float32, small batches, for a CPU. LARGE are the same at batches that fill a GPU, with the
factor in their names, and some that have no published form.
"""

from __future__ import annotations

from mmkernels.contract import Case

Entry = tuple[str, str, Case]


def _conv(name: str, x: tuple[int, int, int, int], w: tuple[int, int, int], stride: int, pad: int, groups: int = 1,
          times: int = 1) -> list[Entry]:  # fmt: skip
    """x is N C H W, w is K R S."""
    entries = []
    for factor in (1, times):
        n, c, h, width = x[0] * factor, *x[1:]
        k, r, s = w
        attributes = {"stride": (stride, stride), "padding": (pad,) * 4, "dilation": (1, 1), "groups": groups,
                      "activation": None}  # fmt: skip
        extents = {"N": n, "C": c, "H": h, "W": width, "K": k, "R": r, "S": s}
        entries.append((_times(name, factor), "conv2d", Case(name, extents, attributes, ("bias",))))
    return entries if times > 1 else entries[:1]


def _times(name: str, factor: int) -> str:
    return name if factor == 1 else f"{name} x{factor}"


def _attention(name: str, shape: tuple[int, int, int, int, int], causal: bool, times: int = 1) -> list[Entry]:
    """shape is (batch, heads, queries, keys, head_dim)."""
    entries = []
    for factor in (1, times):
        b, h, sq, sk, d = shape[0] * factor, *shape[1:]
        extents = {"B": b, "H": h, "Hkv": h, "Sq": sq, "Sk": sk, "D": d, "Dv": d}
        attributes = {"causal": int(causal), "scale": d**-0.5}
        entries.append((_times(name, factor), "attention", Case(name, extents, attributes)))
    return entries if times > 1 else entries[:1]


def _pool(name: str, kind: str, x: tuple[int, int, int, int], k: int, stride: int, pad: int, times: int) -> list[Entry]:
    attributes = {"kernel": (k, k), "stride": (stride, stride), "padding": (pad, pad)}
    return [
        (_times(name, f), kind, Case(name, dict(zip("NCHW", (x[0] * f, *x[1:]), strict=True)), attributes))
        for f in (1, times)
    ]


def _roi(name: str, kind: str, x: tuple[int, int, int, int], boxes: int, rules: dict[str, float], times: int
         ) -> list[Entry]:  # fmt: skip
    attributes = {"output_size": (7, 7), **rules}
    return [
        (_times(name, f), kind,
         Case(name, {**dict(zip("NCHW", (x[0] * f, *x[1:]), strict=True)), "R": boxes * f}, attributes))
        for f in (1, times)
    ]  # fmt: skip


def _step(name: str, x: tuple[int, int, int, int], times: int) -> list[Entry]:
    return [
        (_times(name, f), "diffusion_step",
         Case(name, {"N": x[0] * f, "S": x[1:], "coefficients": (1, 20)}, {}, ("coefficients", "y1", "keys")))
        for f in ((1, times) if times > 1 else (1,))
    ]  # fmt: skip


def _group_norm(name: str, x: tuple[int, int, int, int], groups: int, times: int) -> list[Entry]:
    attributes = {"num_groups": groups, "activation": "silu"}
    return [
        (_times(name, f), "group_norm",
         Case(name, {"N": x[0] * f, "C": x[1], "S": x[2:]}, attributes, ("weight", "bias")))
        for f in (1, times)
    ]  # fmt: skip


_MODELS: tuple[Entry, ...] = (
    *_conv("conv.r50_stem", (1, 3, 224, 224), (64, 7, 7), 2, 3, times=64),
    *_conv("conv.r50_3x3_56", (1, 64, 56, 56), (64, 3, 3), 1, 1, times=64),
    *_conv("conv.r50_1x1_56", (1, 256, 56, 56), (64, 1, 1), 1, 0, times=64),
    *_conv("conv.r50_3x3_14", (1, 256, 14, 14), (256, 3, 3), 1, 1, times=64),
    *_conv("conv.r50_1x1_14", (1, 1024, 14, 14), (256, 1, 1), 1, 0, times=64),
    *_conv("conv.vgg_256_56", (1, 256, 56, 56), (256, 3, 3), 1, 1, times=32),
    *_conv("conv.mbv2_dw_56", (1, 144, 56, 56), (144, 3, 3), 1, 1, 144, times=64),
    *_conv("conv.effnet_dw5", (1, 240, 28, 28), (240, 5, 5), 1, 2, 240, times=64),
    *_conv("conv.unet_320_64", (2, 320, 64, 64), (320, 3, 3), 1, 1, times=8),
    *_conv("conv.unet_1280_16", (2, 1280, 16, 16), (1280, 3, 3), 1, 1, times=8),
    *_conv("conv.lenet_c1_b64", (64, 1, 32, 32), (6, 5, 5), 1, 0, times=16),
    ("convt.dcgan_512_8", "conv_transpose2d", Case(
        "convt.dcgan_512_8", {"N": 16, "C": 512, "H": 8, "W": 8, "M": 256, "R": 4, "S": 4},
        {"stride": (2, 2), "padding": (1, 1, 1, 1)}, ("bias",))),
    *_pool("pool.max_r50", "max_pool2d", (1, 64, 112, 112), 3, 2, 1, 64),
    *_pool("pool.avg_2x2", "avg_pool2d", (1, 256, 56, 56), 2, 2, 0, 64),
    *_roi("roi.align_fpn", "roi_align", (1, 256, 100, 136), 1000,
          {"spatial_scale": 0.125, "sampling_ratio": 2, "aligned": True}, 8),
    *_roi("roi.pool_vgg", "roi_pool", (1, 512, 38, 50), 300, {"spatial_scale": 0.0625}, 8),
    *_attention("attn.vit_b16_b8", (8, 12, 197, 197, 64), False, times=16),
    *_attention("attn.gpt2_causal_1k", (1, 12, 1024, 1024, 64), True, times=16),
    *_attention("attn.sd_self_4096", (1, 8, 4096, 4096, 40), False, times=8),
    *_attention("attn.sd_cross_77", (2, 8, 4096, 77, 40), False, times=8),
    *_attention("attn.video_temporal", (1024, 8, 16, 16, 40), False, times=8),
    *_group_norm("norm.group_silu_unet", (2, 320, 64, 64), 32, 16),
    *_step("step.ddpm_cfg_latent", (2, 4, 64, 64), 64),
    *_step("step.ddpm_cfg_pixel", (8, 3, 512, 512), 1),
)  # fmt: skip
_LARGE_ONLY: tuple[Entry, ...] = (
    *_attention("attn.d128_4k", (4, 16, 4096, 4096, 128), False),
    *_attention("attn.d128_4k_causal", (4, 16, 4096, 4096, 128), True),
    ("matmul.8192", "matmul", Case("matmul.8192", {"S": (), "M": 8192, "N": 8192, "K": 8192})),
    ("linear.vit_mlp x16", "linear", Case("linear.vit_mlp", {"S": (128 * 197,), "I": 768, "O": 3072}, {}, ("bias",))),
    ("norm.layer_4096", "layer_norm", Case("norm.layer_4096", {"S": (16384, 4096)}, {"axes": 1}, ("weight", "bias"))),
    ("norm.softmax_4096", "softmax", Case("norm.softmax_4096", {"S": (16384, 4096)}, {"dim": 1})),
    ("point.add_64M", "add", Case("point.add_64M", {"S": (64, 1024, 1024)})),
    ("act.silu_64M", "silu", Case("act.silu_64M", {"S": (64, 1024, 1024)})),
)  # fmt: skip

PUBLIC = tuple(entry for entry in _MODELS if " x" not in entry[0])
LARGE = (*(entry for entry in _MODELS if " x" in entry[0]), *_LARGE_ONLY)
