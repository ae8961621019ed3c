"""The float32 arithmetic of csrc/core/arith.h and philox.h in NumPy: the same operations in the same order.

Results have the bits of the compiled functions, but for the sign and payload of a NaN. fma is emulated exactly; nothing
here calls a library's exp, log or sin. The accurate references are activation.py and noise.py.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .noise import philox4x32, philox_fold_in, philox_uniform

__all__ = [
    "box_muller",
    "cos",
    "erf",
    "exp",
    "exp2",
    "fma",
    "gelu",
    "gelu_grad",
    "gelu_tanh",
    "gelu_tanh_grad",
    "log",
    "philox4x32",
    "philox_fold_in",
    "philox_normal",
    "philox_uniform",
    "relu",
    "sigmoid",
    "silu",
    "silu_grad",
    "sin",
    "softmax_exp2",
    "tanh",
]

Array = NDArray[Any]
Float = NDArray[np.float32]
Operand = Float | np.float32


def _f(text: str) -> np.float32:
    """A float32 from its hexadecimal notation."""
    return np.float32(float.fromhex(text))


_ZERO, _HALF, _ONE, _INFINITY = np.float32(0), np.float32(0.5), np.float32(1), np.float32(np.inf)
_ROUND_SHIFT = _f("0x1.8p23")
_EXPONENT_SHIFT = np.float32(_ROUND_SHIFT + np.float32(127))
_LOG2_E = _f("0x1.715476p0")
_LOGISTIC_SCALE = _f("0x1p-32")
_SIGN = np.uint32(0x80000000)
_SQRT_HALF_BITS = np.uint32(0x3F3504F3)
# 2/pi in 32-bit words after one word of zeros.
_TWO_OVER_PI = np.array(
    [0, 0xA2F9836E, 0x4E441529, 0xFC2757D1, 0xF534DDC0, 0xDB629599, 0x3C439041, 0xFE5163AB], np.uint64
)


def _bits(x: Array) -> NDArray[np.uint32]:
    return np.ascontiguousarray(x).view(np.uint32)


def _float(bits: Array) -> Float:
    return np.ascontiguousarray(bits).view(np.float32)


@np.errstate(all="ignore")
def fma(a: Operand, b: Operand, c: Operand) -> Float:
    """a * b + c with one rounding: the product is exact in float64, the sum rounded to odd there, then to float32."""
    product, addend = np.broadcast_arrays(np.multiply(a, b, dtype=np.float64), np.asarray(c, np.float64))
    total = np.atleast_1d(product + addend)
    difference = total - product
    error = (product - (total - difference)) + (addend - difference)
    bits = total.view(np.int64)
    step = np.where((error > 0) == (total > 0), 1, -1)
    odd = np.where((error != 0) & np.isfinite(total) & ((bits & 1) == 0), bits + step, bits)
    return odd.view(np.float64).astype(np.float32).reshape(product.shape)


def _polynomial(x: Float, *coefficients: str) -> Float:
    """Horner's scheme with fma, highest power first."""
    total: Operand = _f(coefficients[0])
    for coefficient in coefficients[1:]:
        total = fma(total, x, _f(coefficient))
    return np.asarray(total)


def _at_least(x: Float, low: float) -> Float:
    return np.where(x < np.float32(low), np.float32(low), x)


def _at_most(x: Float, high: float) -> Float:
    return np.where(x > np.float32(high), np.float32(high), x)


def _ldexp(x: Float, n: Float) -> Float:
    """x * 2^n with one rounding, x being near 1."""
    whole = n.astype(np.int32)
    half = whole >> 1
    return np.asarray(x * _float((half + 127) << 23) * _float((whole - half + 127) << 23))


def _exp_polynomial(r: Float) -> Float:
    p = _polynomial(r, "0x1.6a4154p-10", "0x1.1239c6p-7", "0x1.5558bcp-5", "0x1.555492p-3", "0x1.fffffcp-2")
    return np.asarray(_ONE + fma(p, r * r, r))


def _exp_remainder(x: Float, n: Float) -> Float:
    return fma(n, _f("0x1.05c61p-29"), fma(n, _f("-0x1.62e43p-1"), x))


def _exp_bounded(x: Float) -> Float:
    n = fma(x, _LOG2_E, _ROUND_SHIFT) - _ROUND_SHIFT
    return _ldexp(_exp_polynomial(_exp_remainder(x, n)), n)


def _exp_normal(x: Float) -> Float:
    shifted = fma(x, _LOG2_E, _EXPONENT_SHIFT)
    return _exp_polynomial(_exp_remainder(x, shifted - _EXPONENT_SHIFT)) * _float(_bits(shifted) << np.uint32(23))


def _exp_of_minus(magnitude: Float) -> Float:
    return _exp_bounded(_at_least(-magnitude, -104))


@np.errstate(all="ignore")
def exp2(x: Float, /) -> Float:
    """2^x."""
    x = _at_most(_at_least(x, -151), 129)
    n = (x + _ROUND_SHIFT) - _ROUND_SHIFT
    f = x - n
    p = _polynomial(
        f, "0x1.416b8p-13", "0x1.5f0838p-10", "0x1.3b2dep-7", "0x1.c6af7cp-5", "0x1.ebfbdcp-3", "0x1.62e43p-1"
    )
    return _ldexp(fma(p, f, _ONE), n)


@np.errstate(all="ignore")
def softmax_exp2(x: Float, /) -> Float:
    """2^x by degree 5: 0 from -126.5 down, inf from 127.5 up."""
    x = _at_most(_at_least(x, -127), 128)
    shifted = x + _EXPONENT_SHIFT
    f = x - (shifted - _EXPONENT_SHIFT)
    p = _polynomial(f, "0x1.5bd898p-10", "0x1.3ce8cp-7", "0x1.c6b6dcp-5", "0x1.ebf9c2p-3", "0x1.62e42ap-1", "0x1p0")
    return np.asarray(p * _float(_bits(shifted) << np.uint32(23)))


@np.errstate(all="ignore")
def exp(x: Float, /) -> Float:
    """e^x."""
    return _exp_bounded(_at_most(_at_least(x, -104), 89))


def _split_exponent(x: Float) -> tuple[Float, Float]:
    """(m, e) with x = m * 2^e and m in [sqrt(1/2), sqrt(2))."""
    exponent = (_bits(x) - _SQRT_HALF_BITS).view(np.int32) >> 23
    return _float(_bits(x) - (exponent.view(np.uint32) << np.uint32(23))), exponent.astype(np.float32)


@np.errstate(all="ignore")
def log(x: Float, /) -> Float:
    """Natural logarithm: -inf at 0, NaN below."""
    subnormal = x < _f("0x1p-126")
    m, e = _split_exponent(np.where(subnormal, x * _f("0x1p23"), x))
    f = m - _ONE
    e = e + np.where(subnormal, np.float32(-23), _ZERO)
    p = _polynomial(
        f,
        "-0x1.38c9dep-4",
        "0x1.055ec6p-3",
        "-0x1.0d8242p-3",
        "0x1.22d92ep-3",
        "-0x1.54728ap-3",
        "0x1.99a01cp-3",
        "-0x1.000226p-2",
        "0x1.555554p-2",
    )
    square = f * f
    tail = fma(square, -_HALF, square * f * p)
    whole = e * _f("0x1.62e4p-1")
    total = whole + f
    error = f - (total - whole)
    y = total + fma(e, _f("0x1.7f7d1cp-20"), tail + error)
    y = np.where(x < _INFINITY, y, x)
    return np.where(x == 0, -_INFINITY, np.where(x < 0, np.float32(np.nan), y))


def _sin_polynomial(r: Float) -> Float:
    z = r * r
    return fma(r * z, _polynomial(z, "-0x1.991c1ep-13", "0x1.1106c6p-7", "-0x1.555544p-3"), r)


def _cos_polynomial(r: Float) -> Float:
    z = r * r
    return fma(z, _polynomial(z, "0x1.99e336p-16", "-0x1.6c0c1ep-10", "0x1.55554ap-5", "-0x1p-1"), _ONE)


def _reduce_large(x: Float) -> tuple[Float, NDArray[np.uint32]]:
    """(r, quadrant) with x = quadrant * pi/2 + r, for 2^17 <= x < inf, in integers (Payne and Hanek)."""
    bits = _bits(x).astype(np.uint64)
    first_bit = (bits >> np.uint64(23)) - np.uint64(120)
    word, shift = first_bit >> np.uint64(5), first_bit & np.uint64(31)
    significand = (bits & np.uint64(0x7FFFFF)) | np.uint64(0x800000)
    low = np.uint64(0xFFFFFFFF)
    products = []
    for i in range(3):
        pair = (_TWO_OVER_PI[word + np.uint64(i)] << np.uint64(32)) | _TWO_OVER_PI[word + np.uint64(i + 1)]
        products.append(significand * ((pair >> (np.uint64(32) - shift)) & low))
    middle = products[1] + (products[2] >> np.uint64(32))
    high = (products[0] + (middle >> np.uint64(32))) & low
    fraction = (high << np.uint64(34)) | ((middle & low) << np.uint64(2)) | ((products[2] & low) >> np.uint64(30))
    quadrant = (high >> np.uint64(30)) + (fraction >> np.uint64(63))
    return fraction.view(np.int64).astype(np.float32) * _f("0x1.921fb6p-64"), quadrant.astype(np.uint32)


def _sincos(x: Float) -> tuple[Float, Float]:
    a = np.abs(x)
    shifted = fma(a, _f("0x1.45f306p-1"), _ROUND_SHIFT)
    n, quadrant = shifted - _ROUND_SHIFT, _bits(shifted).copy()
    r = fma(n, _f("-0x1.921fb6p0"), a)
    r = fma(n, _f("0x1.777a5cp-25"), r)
    r = fma(n, _f("0x1.ee59dap-50"), r)
    large = (a > _f("0x1p17")) & np.isfinite(a)
    r[large], quadrant[large] = _reduce_large(a[large])
    s, c = _sin_polynomial(r), _cos_polynomial(r)

    def turned(quadrant: NDArray[np.uint32]) -> NDArray[np.uint32]:
        value = np.where((quadrant & np.uint32(1)) != 0, c, s)
        return _bits(value) ^ ((quadrant & np.uint32(2)) << np.uint32(30))

    return _float(turned(quadrant) ^ (_bits(x) & _SIGN)), _float(turned(quadrant + np.uint32(1)))


@np.errstate(all="ignore")
def sin(x: Float, /) -> Float:
    """Sine of x radians."""
    return _sincos(np.atleast_1d(x))[0].reshape(np.shape(x))


@np.errstate(all="ignore")
def cos(x: Float, /) -> Float:
    """Cosine of x radians."""
    return _sincos(np.atleast_1d(x))[1].reshape(np.shape(x))


@np.errstate(all="ignore")
def erf(x: Float, /) -> Float:
    """Error function."""
    a, z = np.abs(x), x * x
    b = _at_most(a, 4)
    p = _polynomial(
        z,
        "0x1.4f676p-14",
        "-0x1.a60a2ep-11",
        "0x1.544a1ap-8",
        "-0x1.b8011ap-6",
        "0x1.ce2d64p-4",
        "-0x1.81274p-2",
        "0x1.06eba8p-3",
    )
    q = b * _polynomial(
        b, "-0x1.bfccbp-13", "0x1.a4e858p-9", "-0x1.76d734p-6", "0x1.af14c8p-4", "0x1.457e8cp-1", "0x1.20e614p0"
    )
    return np.copysign(np.where(a < np.float32(0.93), fma(a, p, a), _ONE - _exp_normal(-q)), x)


@np.errstate(all="ignore")
def tanh(x: Float, /) -> Float:
    """Hyperbolic tangent."""
    a, z = np.abs(x), x * x
    p = _polynomial(z, "-0x1.750ce4p-8", "0x1.51f8cep-6", "-0x1.b835a4p-5", "0x1.1106f6p-3", "-0x1.555532p-2")
    far = _ONE - np.float32(2) / (_exp_normal(_at_most(a + a, 40)) + _ONE)
    return np.copysign(np.where(a < np.float32(0.625), fma(p * z, a, a), far), x)


def _logistic_denominator(x: Float) -> Float:
    """2^-32 * (1 + e^-x)."""
    y = _at_most(_at_least(-x, -104), 112)
    n = fma(y, _LOG2_E, _ROUND_SHIFT) - _ROUND_SHIFT
    return np.asarray(_LOGISTIC_SCALE + _ldexp(_exp_polynomial(_exp_remainder(y, n)), n - np.float32(32)))


@np.errstate(all="ignore")
def sigmoid(x: Float, /) -> Float:
    """1 / (1 + e^-x)."""
    return np.asarray(_LOGISTIC_SCALE / _logistic_denominator(x))


@np.errstate(all="ignore")
def silu(x: Float, /) -> Float:
    """x * sigmoid(x)."""
    quotient = _at_least(x, -112) / _logistic_denominator(x)
    return np.where(x > 112, x, quotient * _LOGISTIC_SCALE)


def _logistic(x: Float) -> tuple[Float, Float]:
    """sigmoid(x) and sigmoid(-x)."""
    e = _exp_of_minus(np.abs(x))
    large = _ONE / (_ONE + e)
    small = e * large
    return np.where(x < 0, small, large), np.where(x < 0, large, small)


@np.errstate(all="ignore")
def silu_grad(x: Float, /) -> Float:
    """Derivative of silu."""
    x = _at_most(_at_least(x, -104), 104)
    value, complement = _logistic(x)
    return np.asarray(value * fma(x, complement, _ONE))


def _normal_tail(a: Float) -> tuple[Float, Float]:
    """exp(-a^2 / 2), and the upper tail of the normal distribution divided by it."""
    t = _ONE / fma(a, _f("0x1.666666p-2"), _ONE)
    p = _polynomial(
        t,
        "-0x1.ddcf4cp-6",
        "0x1.270798p-3",
        "-0x1.060976p-2",
        "0x1.466c4ep-3",
        "-0x1.7d1666p-6",
        "0x1.b06d9cp-4",
        "0x1.eac4p-4",
        "0x1.1e712cp-3",
        "0x1.1df1cp-3",
    )
    square = a * a
    error = fma(a, a, -square)
    e = _exp_of_minus(square * _HALF)
    return fma(e * -_HALF, error, e), np.asarray(p * t)


@np.errstate(all="ignore")
def gelu(x: Float, /) -> Float:
    """x times the cumulative normal distribution."""
    b = _at_most(_at_least(x, -15), 15)
    density, ratio = _normal_tail(np.abs(b))
    tail = density * ratio
    return np.where(x <= 0, b * tail, fma(-b, tail, x))


@np.errstate(all="ignore")
def gelu_grad(x: Float, /) -> Float:
    """Derivative of gelu."""
    a = _at_most(np.abs(x), 15)
    density, ratio = _normal_tail(a)
    g = density * fma(a, _f("-0x1.988454p-2"), ratio)
    return np.where(x < 0, g, _ONE - g)


def _gelu_tanh_argument(x: Float) -> Float:
    return np.asarray(x * fma(x * x, _f("0x1.2444f2p-4"), _f("0x1.988454p0")))


@np.errstate(all="ignore")
def gelu_tanh(x: Float, /) -> Float:
    """x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) / 2."""
    low = _at_least(x, -11)
    quotient = low / _logistic_denominator(_gelu_tanh_argument(low))
    return np.where(x > 11, x, quotient * _LOGISTIC_SCALE)


@np.errstate(all="ignore")
def gelu_tanh_grad(x: Float, /) -> Float:
    """Derivative of gelu_tanh."""
    x = _at_most(_at_least(x, -11), 11)
    value, complement = _logistic(_gelu_tanh_argument(x))
    slope = fma(x * x, _f("0x1.b6676cp-3"), _f("0x1.988454p0"))
    return np.asarray(value * fma(x * slope, complement, _ONE))


def relu(x: Float, /) -> Float:
    """x > 0 ? x : +0; NaN stays."""
    return np.where(x > 0, x, np.where(np.isnan(x), x, _ZERO))


@np.errstate(all="ignore")
def box_muller(radius: NDArray[np.uint32], angle: NDArray[np.uint32]) -> tuple[Float, Float]:
    """Two normal variates (R cos, R sin) of two random words."""
    u = fma(radius.astype(np.float32), _f("0x1p-32"), _f("0x1p-33"))
    m, e = _split_exponent(u)
    s = (m - _ONE) / (m + _ONE)
    p = _polynomial(s * s, "-0x1.31e096p-1", "-0x1.995ed6p-1", "-0x1.55557ap0", "-0x1p2")
    r = np.sqrt(fma(e, _f("-0x1.62e43p0"), s * p))
    octant = angle >> np.uint32(29)
    below = angle & np.uint32(0x1FFFFFFF)
    offset = np.where((octant & np.uint32(1)) != 0, np.uint32(0x20000000) - below, below)
    t = offset.astype(np.float32) * _f("0x1.921fb6p-30")
    sin_t, cos_t = _sin_polynomial(t), _cos_polynomial(t)
    swapped = np.isin(octant, (1, 2, 5, 6))
    cosine = np.where(np.isin(octant, (2, 3, 4, 5)), -_ONE, _ONE) * np.where(swapped, sin_t, cos_t)
    sine = np.where(octant >= 4, -_ONE, _ONE) * np.where(swapped, cos_t, sin_t)
    return np.asarray(r * cosine), np.asarray(r * sine)


def philox_normal(keys: Array, /, *, extents: tuple[int, ...], offset: int) -> Float:
    """float32[N *extents]: words (0, 1) of each counter make elements 0 and 1, words (2, 3) elements 2 and 3."""
    keys = np.asarray(keys, np.uint64)
    count = math.prod(extents)
    groups = -(-count // 4)
    counters = np.zeros((keys.size, groups, 4), np.uint32)
    counters[:, :, :2] = (np.arange(groups, dtype=np.uint64) + np.uint64(offset % 2**64)).view(np.uint32).reshape(-1, 2)
    key_words = np.repeat(np.ascontiguousarray(keys).view(np.uint32).reshape(-1, 2), groups, axis=0)
    words = philox4x32(counters.reshape(-1, 4), key_words)
    cosine, sine = box_muller(words[:, 0::2], words[:, 1::2])
    normals = np.stack([cosine, sine], axis=2).reshape(keys.size, 4 * groups)
    return normals[:, :count].reshape(keys.size, *extents)
