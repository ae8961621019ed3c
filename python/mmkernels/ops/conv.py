"""Convolution and transposed convolution in one, two and three dimensions, and their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from ..errors import ContractError
from ..operator import Operator
from .conv_contracts import cases_of, forward, input_grad, plain, transposed, transposed_case, weight_grad

__all__ = ["conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"]

Size = int | Sequence[int]
Padding = int | Sequence[int] | Sequence[tuple[int, int]] | Literal["same", "valid"]

_CASES_1D = (
    cases_of("3 taps with a border", (2, 3, 11), (3,), 20, padding=(1, 1), optional=("bias",)),
    cases_of("stride, odd border", (2, 4, 19), (4,), 9, stride=(3,), padding=(0, 2), activation="relu"),
    cases_of("dilation, groups", (1, 6, 17), (3,), 4, dilation=(4,), padding=(5, 1), groups=2, activation="silu",
             optional=("bias", "residual")),
    cases_of("causal, depthwise", (2, 20, 13), (4,), 20, padding=(3, 0), groups=20, optional=("bias",)),
    cases_of("several chunks, few outputs", (1, 100, 9), (3,), 3, padding=(1, 1), optional=("residual",)),
    cases_of("no samples", (0, 3, 5), (3,), 4, optional=("bias",)),
    cases_of("TF32", (2, 7, 13), (3,), 18, padding=(1, 1), algorithm="tf32", optional=("bias",)),
    cases_of("Whisper 512 to 512", (1, 512, 3000), (3,), 512, stride=(2,), padding=(1, 1), optional=("bias",),
             bench=True),
    cases_of("Mamba causal 4 taps", (1, 1536, 2048), (4,), 1536, padding=(3, 0), groups=1536, activation="silu",
             optional=("bias",), bench=True),
)  # fmt: skip
_CASES_2D = (
    cases_of("3 x 3 with a border", (2, 3, 6, 5), (3, 3), 20, padding=(1, 1, 1, 1), optional=("bias",)),
    cases_of("stride, odd border", (2, 4, 9, 8), (3, 2), 9, stride=(2, 3), padding=(0, 1, 2, 1), activation="relu"),
    cases_of("dilation, groups", (1, 6, 9, 7), (2, 3), 4, dilation=(3, 2), padding=(1, 0, 1, 2), groups=2,
             activation="silu", optional=("bias", "residual")),
    cases_of("depthwise", (2, 5, 8, 9), (3, 3), 5, padding=(1, 1, 1, 1), groups=5, optional=("bias",)),
    cases_of("several chunks", (1, 60, 3, 4), (3, 3), 33, padding=(1, 1, 1, 1), optional=("residual",)),
    cases_of("1 x 1, stride 2", (2, 17, 5, 6), (1, 1), 18, stride=(2, 2), activation="gelu"),
    cases_of("no samples", (0, 3, 5, 5), (3, 3), 4, optional=("bias",)),
    cases_of("TF32", (2, 12, 6, 7), (3, 3), 20, padding=(1, 0, 2, 1), stride=(1, 2), activation="silu",
             algorithm="tf32", optional=("bias", "residual")),
    cases_of("TF32, groups", (1, 10, 5, 6), (2, 3), 36, dilation=(2, 1), groups=2, algorithm="tf32"),
    cases_of("TF32, few outputs", (2, 5, 6, 5), (3, 3), 4, padding=(1, 1, 1, 1), algorithm="tf32", optional=("bias",)),
    cases_of("U-Net 8 x 8", (64, 96, 8, 8), (3, 3), 96, padding=(1, 1, 1, 1), optional=("bias",), bench=True),
    cases_of("LeNet 1 to 6", (64, 1, 32, 32), (5, 5), 6, optional=("bias",), bench=True),
    cases_of("LeNet 6 to 16", (64, 6, 14, 14), (5, 5), 16, optional=("bias",), bench=True),
    cases_of("ResNet stem", (1, 3, 224, 224), (7, 7), 64, stride=(2, 2), padding=(3, 3, 3, 3), optional=("bias",),
             bench=True),
    cases_of("ResNet 3 x 3", (1, 64, 56, 56), (3, 3), 64, padding=(1, 1, 1, 1), optional=("bias",), bench=True),
    cases_of("ResNet 1 x 1", (1, 256, 56, 56), (1, 1), 64, optional=("bias",), bench=True),
    cases_of("MobileNet depthwise", (1, 144, 56, 56), (3, 3), 144, padding=(1, 1, 1, 1), groups=144, optional=("bias",),
             bench=True),
)  # fmt: skip
_CASES_3D = (
    cases_of("3 x 3 x 3 with a border", (2, 3, 4, 5, 3), (3, 3, 3), 20, padding=(1,) * 6, optional=("bias",)),
    cases_of("stride, odd border", (1, 4, 6, 7, 8), (2, 3, 2), 9, stride=(2, 2, 3), padding=(1, 0, 0, 1, 2, 1),
             activation="relu"),
    cases_of("dilation, groups", (1, 6, 7, 5, 6), (2, 2, 3), 4, dilation=(3, 2, 1), padding=(2, 1, 1, 0, 0, 2),
             groups=2, activation="silu", optional=("bias", "residual")),
    cases_of("one image at a time", (2, 20, 3, 4, 5), (1, 3, 3), 24, padding=(0, 0, 1, 1, 1, 1), optional=("bias",)),
    cases_of("one pixel at a time", (2, 20, 5, 3, 3), (3, 1, 1), 24, padding=(1, 1, 0, 0, 0, 0),
             optional=("residual",)),
    cases_of("depthwise", (1, 5, 4, 5, 6), (3, 3, 3), 5, padding=(1,) * 6, groups=5, optional=("bias",)),
    cases_of("no samples", (0, 3, 4, 5, 5), (3, 3, 3), 4, optional=("bias",)),
    cases_of("TF32", (1, 8, 4, 5, 4), (3, 2, 3), 20, padding=(1, 1, 0, 0, 1, 1), algorithm="tf32"),
    cases_of("video 1 x 3 x 3", (1, 320, 16, 32, 32), (1, 3, 3), 320, padding=(0, 0, 1, 1, 1, 1), optional=("bias",),
             bench=True),
    cases_of("video 3 x 1 x 1", (1, 320, 16, 32, 32), (3, 1, 1), 320, padding=(1, 1, 0, 0, 0, 0), optional=("bias",),
             bench=True),
    cases_of("C3D 3 x 3 x 3", (1, 64, 16, 56, 56), (3, 3, 3), 128, padding=(1,) * 6, optional=("bias",), bench=True),
)  # fmt: skip
_TRANSPOSED_1D = (
    transposed_case("4 taps, stride 2", (2, 20, 7), (4,), 18, stride=(2,), padding=(1, 1), optional=("bias",)),
    transposed_case("border, more at the end", (2, 4, 6), (3,), 9, stride=(3,), padding=(2, 0), output_padding=(2,),
                    activation="relu"),
    transposed_case("dilation, groups", (1, 6, 8), (3,), 4, dilation=(4,), padding=(1, 3), groups=2,
                    output_padding=(3,), activation="silu", optional=("bias",)),
    transposed_case("depthwise", (2, 5, 9), (4,), 5, stride=(2,), groups=5),
    transposed_case("several chunks, gaps", (1, 140, 5), (2,), 3, stride=(3,), optional=("bias",)),
    transposed_case("no samples", (0, 3, 5), (3,), 4, optional=("bias",)),
    transposed_case("TF32", (2, 20, 7), (4,), 18, stride=(2,), padding=(1, 1), algorithm="tf32"),
    transposed_case("HiFi-GAN 512 to 256", (1, 512, 256), (16,), 256, stride=(8,), padding=(4, 4), optional=("bias",),
                    bench=True),
)  # fmt: skip
_TRANSPOSED_2D = (
    transposed_case("4 x 4, stride 2", (2, 20, 4, 5), (4, 4), 18, stride=(2, 2), padding=(1, 1, 1, 1),
                    optional=("bias",)),
    transposed_case("odd border, more at the end", (2, 4, 5, 3), (3, 2), 9, stride=(2, 3), padding=(0, 1, 2, 1),
                    output_padding=(1, 2), activation="relu"),
    transposed_case("dilation, groups", (1, 6, 5, 4), (2, 3), 4, dilation=(3, 2), padding=(1, 0, 0, 3), groups=2,
                    output_padding=(2, 0), activation="silu", optional=("bias",)),
    transposed_case("depthwise", (2, 5, 4, 5), (3, 3), 5, stride=(2, 2), padding=(1, 1, 1, 1), output_padding=(1, 1),
                    groups=5, optional=("bias",)),
    transposed_case("several chunks, few outputs", (1, 70, 3, 4), (2, 2), 3, stride=(2, 2)),
    transposed_case("fewer results than the stride", (2, 20, 1, 1), (3, 2), 18, stride=(5, 4), padding=(1, 1, 0, 1)),
    transposed_case("stride 1, gelu", (1, 20, 4, 4), (3, 3), 17, padding=(1, 1, 1, 1), activation="gelu"),
    transposed_case("no samples", (0, 3, 5, 5), (3, 3), 4, optional=("bias",)),
    transposed_case("TF32", (2, 10, 4, 5), (3, 3), 20, stride=(2, 2), padding=(1, 1, 1, 1), activation="relu",
                    algorithm="tf32", optional=("bias",)),
    transposed_case("DCGAN 512 to 256", (16, 512, 8, 8), (4, 4), 256, stride=(2, 2), padding=(1, 1, 1, 1),
                    optional=("bias",), bench=True),
    transposed_case("U-Net 2 x 2", (1, 128, 56, 56), (2, 2), 64, stride=(2, 2), optional=("bias",), bench=True),
)  # fmt: skip
_TRANSPOSED_3D = (
    transposed_case("4 x 4 x 4, stride 2", (1, 20, 2, 3, 4), (4, 4, 4), 18, stride=(2, 2, 2), padding=(1,) * 6,
                    optional=("bias",)),
    transposed_case("odd border, more at the end", (2, 4, 3, 2, 3), (2, 3, 2), 9, stride=(2, 2, 3),
                    padding=(1, 0, 0, 1, 0, 2), output_padding=(1, 0, 2), activation="relu"),
    transposed_case("dilation, groups", (1, 6, 3, 4, 3), (2, 1, 3), 4, dilation=(3, 2, 2), padding=(2, 1, 0, 0, 0, 3),
                    groups=2, output_padding=(2, 1, 0), activation="silu", optional=("bias",)),
    transposed_case("depthwise", (1, 5, 3, 3, 4), (3, 3, 3), 5, stride=(1, 2, 2), padding=(1,) * 6, groups=5),
    transposed_case("no samples", (0, 3, 4, 3, 3), (2, 2, 2), 4, optional=("bias",)),
    transposed_case("TF32", (1, 20, 2, 3, 3), (3, 2, 2), 18, stride=(1, 2, 2), algorithm="tf32"),
    transposed_case("V-Net 2 x 2 x 2", (1, 128, 8, 28, 28), (2, 2, 2), 64, stride=(2, 2, 2), optional=("bias",),
                    bench=True),
)  # fmt: skip

CONV1D = forward("conv1d", 1, [case for case, _, _ in _CASES_1D])
CONV1D_INPUT_GRAD = input_grad("conv1d_input_grad", 1, [case for _, case, _ in _CASES_1D])
CONV1D_WEIGHT_GRAD = weight_grad("conv1d_weight_grad", 1, [case for _, _, case in _CASES_1D])
CONV_TRANSPOSE1D = transposed("conv_transpose1d", 1, _TRANSPOSED_1D)
CONV2D = forward("conv2d", 2, [case for case, _, _ in _CASES_2D])
CONV2D_INPUT_GRAD = input_grad("conv2d_input_grad", 2, [case for _, case, _ in _CASES_2D])
CONV2D_WEIGHT_GRAD = weight_grad("conv2d_weight_grad", 2, [case for _, _, case in _CASES_2D])
CONV_TRANSPOSE2D = transposed("conv_transpose2d", 2, _TRANSPOSED_2D)
CONV3D = forward("conv3d", 3, [case for case, _, _ in _CASES_3D])
CONV3D_INPUT_GRAD = input_grad("conv3d_input_grad", 3, [case for _, case, _ in _CASES_3D])
CONV3D_WEIGHT_GRAD = weight_grad("conv3d_weight_grad", 3, [case for _, _, case in _CASES_3D])
CONV_TRANSPOSE3D = transposed("conv_transpose3d", 3, _TRANSPOSED_3D)

_conv1d = Operator(CONV1D, partial(plain, dims=1))
_conv1d_input_grad = Operator(CONV1D_INPUT_GRAD, partial(plain, dims=1))
_conv1d_weight_grad = Operator(CONV1D_WEIGHT_GRAD, partial(plain, dims=1))
_conv_transpose1d = Operator(CONV_TRANSPOSE1D, partial(plain, dims=1))
_conv2d = Operator(CONV2D, partial(plain, dims=2))
_conv2d_input_grad = Operator(CONV2D_INPUT_GRAD, partial(plain, dims=2))
_conv2d_weight_grad = Operator(CONV2D_WEIGHT_GRAD, partial(plain, dims=2))
_conv_transpose2d = Operator(CONV_TRANSPOSE2D, partial(plain, dims=2))
_conv3d = Operator(CONV3D, partial(plain, dims=3))
_conv3d_input_grad = Operator(CONV3D_INPUT_GRAD, partial(plain, dims=3))
_conv3d_weight_grad = Operator(CONV3D_WEIGHT_GRAD, partial(plain, dims=3))
_conv_transpose3d = Operator(CONV_TRANSPOSE3D, partial(plain, dims=3))


def conv1d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    activation: str | None = None,
    residual: Any = None,
    algorithm: str | None = None,
    out: Any = None,
) -> Any:
    """activation(convolution of x with weight + bias + residual).

    ``x`` is (N, C, W), ``weight`` (K, C / groups, S), ``bias`` (K), ``residual`` of the result's shape
    (N, K, Q) with Q = (W + left + right - dilation (S - 1) - 1) // stride + 1; all
    float32, float64, float16 or bfloat16. The filters are not flipped (cross-correlation). ``padding`` is one number
    of zeros for all sides, (left, right), ((left, right),), "valid" (none) or
    "same" (stride 1; the odd one at the end). ``activation`` is None, "relu", "leaky_relu" (slope 0.01), "sigmoid",
    "tanh", "silu" or "gelu"; the result has the bits of the operators one after another. A channels-last x gives a
    channels-last result. One sample has the same bits in any batch. ``algorithm``: None or "tf32", as in conv2d.

    Raises ContractError if shapes do not agree, groups does not divide the channels, the kernel is larger than the
    input with its border, or a stride, dilation or padding is out of range; ContractTypeError for other dtypes, or for
    "tf32" with any but float32.

    Source: Dumoulin and Visin, A guide to convolution arithmetic for deep learning, arXiv 1603.07285, section 2.
    Provisional.

    >>> import numpy as np
    >>> from mmkernels.ops.conv import conv1d
    >>> x = np.array([1, 4, 9, 16, 25], np.float32).reshape(1, 1, 5)
    >>> conv1d(x, np.array([-1, 1], np.float32).reshape(1, 1, 2))[0, 0].tolist()
    [3.0, 5.0, 7.0, 9.0]
    """
    return _conv1d.call(x, weight, bias, residual, stride, padding, dilation, groups, activation, algorithm, out)


def conv2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    activation: str | None = None,
    residual: Any = None,
    algorithm: str | None = None,
    out: Any = None,
) -> Any:
    """activation(convolution of x with weight + bias + residual).

    ``x`` is (N, C, H, W), ``weight`` (K, C / groups, R, S), ``bias`` (K), ``residual`` of the result's shape
    (N, K, P, Q) with P = (H + top + bottom - dilation (R - 1) - 1) // stride + 1, Q likewise; all float32 or all
    float64. The filters are not flipped (cross-correlation). ``padding`` is one number of zeros for all sides,
    (height, width), ((top, bottom), (left, right)), "valid" (none) or "same" (stride 1; the odd one at the end).
    ``activation`` is None, "relu", "leaky_relu" (slope 0.01), "sigmoid", "tanh", "silu" or "gelu"; the result has the
    bits of the operators one after another. A channels-last x gives a channels-last result. One sample
    has the same bits in any batch.

    ``algorithm`` is None, "direct" or, for float32 alone, "tf32": ``x`` and ``weight`` are rounded to TF32 (8 exponent
    bits, 10 fraction bits; nearest, ties away from zero), their products summed in float32; on CUDA by tensor cores,
    repeatable but not the CPU's bits. Gradients of such a call are such calls.

    Raises ContractError if shapes do not agree, groups does not divide the channels, the kernel is larger than the
    input with its border, or a stride, dilation or padding is out of range; ContractTypeError for other dtypes, or for
    "tf32" with any but float32.

    Source: Dumoulin and Visin, A guide to convolution arithmetic for deep learning, arXiv 1603.07285, section 2.
    Stable.

    >>> import numpy as np, mmkernels as mmk
    >>> x = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)
    >>> laplacian = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]], np.float32).reshape(1, 1, 3, 3)
    >>> mmk.conv2d(x, laplacian, padding="same")[0, 0]
    array([[  4.,   2.,  -2.],
           [ -2.,   0.,  -6.],
           [-14., -10., -20.]], dtype=float32)
    """
    if algorithm is not None and not (isinstance(algorithm, str) and algorithm in ("direct", "tf32")):
        raise ContractError(f"conv2d: algorithm is {algorithm!r}; expected None, 'direct' or 'tf32'")
    if algorithm == "direct":
        algorithm = None
    return _conv2d.call(x, weight, bias, residual, stride, padding, dilation, groups, activation, algorithm, out)


def conv3d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    activation: str | None = None,
    residual: Any = None,
    algorithm: str | None = None,
    out: Any = None,
) -> Any:
    """activation(convolution of x with weight + bias + residual).

    ``x`` is (N, C, D, H, W), ``weight`` (K, C / groups, T, R, S), ``bias`` (K), ``residual`` of the result's shape
    (N, K, O, P, Q) with O = (D + front + back - dilation (T - 1) - 1) // stride + 1, P and Q likewise; all
    float32, float64, float16 or bfloat16. The filters are not flipped (cross-correlation). ``padding`` is one number
    of zeros for all sides, (depth, height, width), ((front, back), (top, bottom), (left, right)), "valid" (none) or
    "same" (stride 1; the odd one at the end). ``activation`` is None, "relu", "leaky_relu" (slope 0.01), "sigmoid",
    "tanh", "silu" or "gelu"; the result has the bits of the operators one after another. A channels-last x gives a
    channels-last result. One sample has the same bits in any batch. ``algorithm``: None or "tf32", as in conv2d.

    Raises ContractError if shapes do not agree, groups does not divide the channels, the kernel is larger than the
    input with its border, or a stride, dilation or padding is out of range; ContractTypeError for other dtypes, or for
    "tf32" with any but float32.

    Source: Dumoulin and Visin, A guide to convolution arithmetic for deep learning, arXiv 1603.07285, section 2.
    Provisional.

    >>> import numpy as np
    >>> from mmkernels.ops.conv import conv3d
    >>> video = np.arange(12, dtype=np.float32).reshape(1, 1, 3, 2, 2) ** 2
    >>> conv3d(video, np.array([-1, 1], np.float32).reshape(1, 1, 2, 1, 1))[0, 0, :, 0, 0].tolist()
    [16.0, 48.0]
    """
    return _conv3d.call(x, weight, bias, residual, stride, padding, dilation, groups, activation, algorithm, out)


def conv_transpose1d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Size = 1,
    padding: Padding = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
    *,
    activation: str | None = None,
    algorithm: str | None = None,
    out: Any = None,
) -> Any:
    """activation(transposed convolution of x with weight + bias): conv1d's gradient as an operator.

    ``x`` is (N, C, W), ``weight`` (C, K / groups, S), ``bias`` (K); the result is (N, K, Q) with
    Q = (W - 1) stride - left - right + dilation (S - 1) + output_padding + 1; all
    float32, float64, float16 or bfloat16. Every element of x adds its multiple of the filters to the result, ``stride``
    apart. ``padding`` cuts the result: one number for all sides, (left, right),
    ((left, right),), "valid" (nothing) or "same" (stride 1: the input's
    extents; the odd one at the end). ``output_padding`` adds elements at the end, fewer than stride or dilation.
    ``activation`` is None, "relu", "leaky_relu" (slope 0.01), "sigmoid", "tanh", "silu" or "gelu". A channels-last x
    gives a channels-last result. One sample has the same bits in any batch. ``algorithm``: None or "tf32", as in
    conv2d.

    Raises ContractError if shapes do not agree, groups does not divide the channels, an extent of x is 0, or a stride,
    dilation, padding or output_padding is out of range; ContractTypeError for other dtypes, or for "tf32" with any but
    float32.

    Source: Dumoulin and Visin, A guide to convolution arithmetic for deep learning, arXiv 1603.07285, section 4.
    Provisional.

    >>> import numpy as np
    >>> from mmkernels.ops.conv import conv_transpose1d
    >>> x = np.array([1, 2, 3], np.float32).reshape(1, 1, 3)
    >>> conv_transpose1d(x, np.array([1, 0.5], np.float32).reshape(1, 1, 2), stride=2)[0, 0].tolist()
    [1.0, 0.5, 2.0, 1.0, 3.0, 1.5]
    """
    return _conv_transpose1d.call(
        x, weight, bias, stride, padding, dilation, groups, output_padding, activation, algorithm, out
    )


def conv_transpose2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Size = 1,
    padding: Padding = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
    *,
    activation: str | None = None,
    algorithm: str | None = None,
    out: Any = None,
) -> Any:
    """activation(transposed convolution of x with weight + bias): conv2d's gradient as an operator.

    ``x`` is (N, C, H, W), ``weight`` (C, K / groups, R, S), ``bias`` (K); the result is (N, K, P, Q) with
    P = (H - 1) stride - top - bottom + dilation (R - 1) + output_padding + 1, Q likewise; all
    float32, float64, float16 or bfloat16. Every element of x adds its multiple of the filters to the result, ``stride``
    apart. ``padding`` cuts the result: one number for all sides, (height, width),
    ((top, bottom), (left, right)), "valid" (nothing) or "same" (stride 1: the input's
    extents; the odd one at the end). ``output_padding`` adds elements at the end, fewer than stride or dilation.
    ``activation`` is None, "relu", "leaky_relu" (slope 0.01), "sigmoid", "tanh", "silu" or "gelu". A channels-last x
    gives a channels-last result. One sample has the same bits in any batch. ``algorithm``: None or "tf32", as in
    conv2d.

    Raises ContractError if shapes do not agree, groups does not divide the channels, an extent of x is 0, or a stride,
    dilation, padding or output_padding is out of range; ContractTypeError for other dtypes, or for "tf32" with any but
    float32.

    Source: Dumoulin and Visin, A guide to convolution arithmetic for deep learning, arXiv 1603.07285, section 4.
    Provisional.

    >>> import numpy as np
    >>> from mmkernels.ops.conv import conv_transpose2d
    >>> x = np.array([[1, 2], [3, 4]], np.float32).reshape(1, 1, 2, 2)
    >>> conv_transpose2d(x, np.ones((1, 1, 2, 2), np.float32), stride=2)[0, 0]
    array([[1., 1., 2., 2.],
           [1., 1., 2., 2.],
           [3., 3., 4., 4.],
           [3., 3., 4., 4.]], dtype=float32)
    """
    return _conv_transpose2d.call(
        x, weight, bias, stride, padding, dilation, groups, output_padding, activation, algorithm, out
    )


def conv_transpose3d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Size = 1,
    padding: Padding = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
    *,
    activation: str | None = None,
    algorithm: str | None = None,
    out: Any = None,
) -> Any:
    """activation(transposed convolution of x with weight + bias): conv3d's gradient as an operator.

    ``x`` is (N, C, D, H, W), ``weight`` (C, K / groups, T, R, S), ``bias`` (K); the result is (N, K, O, P, Q) with
    O = (D - 1) stride - front - back + dilation (T - 1) + output_padding + 1, P and Q likewise; all
    float32, float64, float16 or bfloat16. Every element of x adds its multiple of the filters to the result, ``stride``
    apart. ``padding`` cuts the result: one number for all sides, (depth, height, width),
    ((front, back), (top, bottom), (left, right)), "valid" (nothing) or "same" (stride 1: the input's
    extents; the odd one at the end). ``output_padding`` adds elements at the end, fewer than stride or dilation.
    ``activation`` is None, "relu", "leaky_relu" (slope 0.01), "sigmoid", "tanh", "silu" or "gelu". A channels-last x
    gives a channels-last result. One sample has the same bits in any batch. ``algorithm``: None or "tf32", as in
    conv2d.

    Raises ContractError if shapes do not agree, groups does not divide the channels, an extent of x is 0, or a stride,
    dilation, padding or output_padding is out of range; ContractTypeError for other dtypes, or for "tf32" with any but
    float32.

    Source: Dumoulin and Visin, A guide to convolution arithmetic for deep learning, arXiv 1603.07285, section 4.
    Provisional.

    >>> import numpy as np
    >>> from mmkernels.ops.conv import conv_transpose3d
    >>> x = np.array([1, 2], np.float32).reshape(1, 1, 2, 1, 1)
    >>> conv_transpose3d(x, np.ones((1, 1, 2, 1, 1), np.float32))[0, 0, :, 0, 0].tolist()
    [1.0, 3.0, 2.0]
    """
    return _conv_transpose3d.call(
        x, weight, bias, stride, padding, dilation, groups, output_padding, activation, algorithm, out
    )
