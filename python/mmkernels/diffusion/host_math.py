"""Scalar exp, log, sin and cos in float64, with the same bits on every machine.

Tables of coefficients are built on the host and then reach every result.  The exp of a C library and the vectorised
exp of NumPy change their last bits with the machine they run on; these functions use only ``+ - * /``, rounding,
exact scaling by powers of two and exact integers, so their bits follow from IEEE 754 alone.  Errors are at most 2
units in the last place.

>>> from mmkernels.diffusion.host_math import exp, log
>>> exp(0.0), log(1.0)
(1.0, 0.0)
"""

from __future__ import annotations

import math
from typing import Final

__all__ = ["PI", "cos", "exp", "log", "sin"]

PI: Final = math.pi

# ln 2 as a sum: the high part has 33 significant bits, so k * _LN2_HIGH is exact for every |k| < 2**20.
_LN2_HIGH: Final = float.fromhex("0x1.62e42feep-1")
_LN2_LOW: Final = float.fromhex("0x1.a39ef35793c76p-33")
_INVERSE_LN2: Final = float.fromhex("0x1.71547652b82fep+0")
_SQRT_HALF: Final = math.sqrt(0.5)

# pi / 2 in units of 2**-256.
_FRACTION_BITS: Final = 256
_ONE: Final = 1 << _FRACTION_BITS
_HALF_PI: Final = 0x1921FB54442D18469898CC51701B839A252049C1114CF98E804177D4C76273645
_QUARTER_PI: Final = 0.25 * PI

# Taylor coefficients.  Where a series is cut, the first term left out is below 2**-56 of the result on its interval:
# exp on |r| <= ln(2) / 2, log on s**2 <= 0.0295, sin and cos on |r| <= pi / 4.
_EXP: Final = tuple(1.0 / math.factorial(n) for n in range(14, 1, -1))
_LOG: Final = tuple(2.0 / (2 * n + 1) for n in range(10, 0, -1))
_SIN: Final = tuple((-1.0) ** n / math.factorial(2 * n + 1) for n in range(9, 0, -1))
_COS: Final = tuple((-1.0) ** n / math.factorial(2 * n) for n in range(9, 1, -1))


def _horner(coefficients: tuple[float, ...], x: float) -> float:
    """The polynomial with the given coefficients, highest power first."""
    value = 0.0
    for coefficient in coefficients:
        value = value * x + coefficient
    return value


def exp(x: float) -> float:
    """e to the power x.

    Args:
        x: any float64; infinities and NaN are allowed.

    Returns:
        exp(x) within 2 units in the last place; inf above the largest exponent, 0.0 below the smallest subnormal.

    >>> exp(float("-inf")), exp(1000.0)
    (0.0, inf)
    """
    if math.isnan(x):
        return x
    if x > 709.79:
        return math.inf
    if x < -746.0:
        return 0.0
    k = round(x * _INVERSE_LN2)
    high = x - k * _LN2_HIGH
    low = k * _LN2_LOW
    r = high - low
    correction = (high - r) - low
    value = 1.0 + (r + (correction + r * r * _horner(_EXP, r)))
    # ldexp raises where its result overflows; the product gives inf.  Below, one rounding alone keeps subnormals exact.
    return math.ldexp(value, k - 1) * 2.0 if k > 0 else math.ldexp(value, k)


def log(x: float) -> float:
    """The natural logarithm of x.

    Args:
        x: any float64.

    Returns:
        ln(x) within 2 units in the last place; -inf at zero, NaN below it.

    >>> log(0.0), log(float("inf"))
    (-inf, inf)
    """
    if math.isnan(x) or x < 0.0:
        return math.nan
    if x == 0.0:
        return -math.inf
    if math.isinf(x):
        return x
    mantissa, exponent = math.frexp(x)
    if mantissa < _SQRT_HALF:
        mantissa *= 2.0
        exponent -= 1
    # ln(1 + f) = 2 atanh(s) with s = f / (2 + f), arranged so that only f itself is a large term:
    # 2 s = f - s f  and  s f = f f / 2 - s f f / 2.
    f = mantissa - 1.0
    s = f / (2.0 + f)
    z = s * s
    tail = z * _horner(_LOG, z)
    half_square = 0.5 * f * f
    low = exponent * _LN2_LOW
    return exponent * _LN2_HIGH - ((half_square - (s * (half_square + tail) + low)) - f)


def _reduce(x: float) -> tuple[int, float, float]:
    """(n, r, rest) with x = n * pi / 2 + r + rest and |r| <= pi / 4; the subtraction is made in exact integers."""
    if not abs(x) <= 2.0**64:
        raise ValueError(f"sin, cos: x is {x}; expected |x| <= 2**64")
    if abs(x) <= _QUARTER_PI:
        return 0, x, 0.0
    numerator, denominator = x.as_integer_ratio()
    scaled = numerator * (_ONE // denominator)
    n = (2 * scaled + _HALF_PI) // (2 * _HALF_PI)
    remainder = scaled - n * _HALF_PI
    r = remainder / _ONE
    numerator, denominator = r.as_integer_ratio()
    rest = (remainder - numerator * (_ONE // denominator)) / _ONE
    return n, r, rest


def _sin_reduced(r: float, rest: float) -> float:
    z = r * r
    return r + (r * z * _horner(_SIN, z) + rest * (1.0 - 0.5 * z))


def _cos_reduced(r: float, rest: float) -> float:
    z = r * r
    half = 0.5 * z
    leading = 1.0 - half
    return leading + (((1.0 - leading) - half) + (z * z * _horner(_COS, z) - r * rest))


def sin(x: float) -> float:
    """The sine of x radians.

    Args:
        x: radians, ``|x| <= 2**64``.

    Returns:
        sin(x) within 2 units in the last place.

    Raises:
        ValueError: x is NaN or beyond the range.

    >>> sin(0.0)
    0.0
    """
    n, r, rest = _reduce(x)
    value = _cos_reduced(r, rest) if n & 1 else _sin_reduced(r, rest)
    return -value if n & 2 else value


def cos(x: float) -> float:
    """The cosine of x radians.

    Args:
        x: radians, ``|x| <= 2**64``.

    Returns:
        cos(x) within 2 units in the last place.

    Raises:
        ValueError: x is NaN or beyond the range.

    >>> cos(0.0)
    1.0
    """
    n, r, rest = _reduce(x)
    value = _sin_reduced(r, rest) if n & 1 else _cos_reduced(r, rest)
    return -value if (n + 1) & 2 else value
