"""What the operators of the pooling family share: windows along one, two or three axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..contract import Attr, Operand, Require
from ..errors import ContractError, ContractTypeError

__all__ = [
    "CEIL", "COUNT", "DIVISOR", "END", "GEOMETRY", "windowed", "axes", "counted", "fits", "geometry_of", "limits",
    "plain_windows", "plane", "several", "windows", "windows_of",
]  # fmt: skip

# Names of the extents of one, two or three axes, before and after pooling.
axes = {rank: ("DHW"[3 - rank :], "OPQ"[3 - rank :]) for rank in (1, 2, 3)}
_PLACES = {1: "width", 2: "(height, width)", 3: "(depth, height, width)"}

CEIL = Attr("ceil_mode", "bool", False, doc="a last window may overhang if it starts inside or in the padding")
COUNT = Attr("count_include_pad", "bool", True, doc="padding, but never what overhangs it, counts in the divisor")
DIVISOR = Attr("divisor_override", "int", 0, doc="the divisor; 0: the number of elements")
END = Attr("padding_end", "ints", (), doc="after each axis, if it is not padding; padding may then be a window but one")
# The attributes of any windows, as vector-Jacobian products pass them on.
GEOMETRY = (
    "kernel=kernel, stride=stride, padding=padding, ceil_mode=ceil_mode, dilation=dilation, padding_end=padding_end"
)


def windows_of(rank: int) -> dict[str, Attr]:
    """The attributes that say where windows lie, by name."""
    zeros, ones = (0,) * rank, (1,) * rank
    return {
        "kernel": Attr("kernel", "ints", length=rank),
        "stride": Attr("stride", "ints", length=rank),
        "padding": Attr("padding", "ints", zeros, length=rank, doc=f"on both sides of {_PLACES[rank]}"),
        "dilation": Attr("dilation", "ints", ones, length=rank),
        "ceil_mode": CEIL,
        "padding_end": END,
    }


def geometry_of(rank: int) -> tuple[Attr, ...]:
    """The attributes in the order of GEOMETRY."""
    named = windows_of(rank)
    return tuple(named[n] for n in ("kernel", "stride", "padding", "ceil_mode", "dilation", "padding_end"))


def windows(rank: int) -> dict[str, str]:
    """Windows along each axis. With ceil_mode a last, overhanging one counts if it starts inside or in the padding."""
    lets = {"padding_after": "padding_end if len(padding_end) > 0 else padding"}
    extents, counts = axes[rank]
    lets |= counted(extents, counts, "padding_after", "dilation")
    return {**lets, **{count: f"{count}_windows" for count in counts}}


def counted(extents: Sequence[str], counts: Sequence[str], after: str, dilation: str) -> dict[str, str]:
    """How many windows there are along each axis; ``dilation`` is a name, or "" where there is none."""
    lets = {}
    for axis, (extent, count) in enumerate(zip(extents, counts, strict=True)):
        i = f"[{axis}]"
        span = f"{extent} + padding{i} + {after}{i} - {f'{dilation}{i}' if dilation else '1'} * (kernel{i} - 1) - 1"
        lets[f"{count}_all"] = f"({span} + (stride{i} - 1 if ceil_mode else 0)) // stride{i} + 1"
        lets[f"{count}_windows"] = (
            f"{count}_all - 1 if ceil_mode and ({count}_all - 1) * stride{i} >= {extent} + padding{i} else {count}_all"
        )
    return lets


def _positive(name: str, rank: int) -> Require:
    return Require(
        f"min({name}) >= 1 and max({name}) < 2147483648",
        f"{name} is {{{name}}}; expected numbers from 1 to 2147483647",
        {name: (0,) + (3,) * (rank - 1)},
    )


def limits(rank: int, plain: bool = False) -> tuple[Require, ...]:
    """What is asked of kernel, stride, padding and, where windows are not ``plain``, dilation and padding_end."""
    every = range(rank)
    half = " and ".join(f"2 * padding[{i}] <= kernel[{i}]" for i in every)
    common = (
        _positive("kernel", rank),
        _positive("stride", rank),
        Require(
            "min(padding) >= 0",
            "padding is {padding}; expected numbers of at least 0",
            {"padding": (0,) * (rank - 1) + (-1,)},
        ),
        Require(
            half if plain else f"len(padding_end) > 0 or ({half})",
            "padding is {padding}; expected at most half of kernel = {kernel}",
            {"padding": (0,) * (rank - 1) + (9,)},
        ),
    )
    if plain:
        return common
    return (
        *common,
        _positive("dilation", rank),
        Require(
            f"len(padding_end) in (0, {rank}) and min(padding_after) >= 0",
            f"padding_end is {{padding_end}}; expected {rank} numbers of at least 0, or none",
            {"padding_end": (-1,) * rank},
        ),
        Require(
            "len(padding_end) == 0 or ("
            + " and ".join(f"max(padding[{i}], padding_after[{i}]) <= dilation[{i}] * (kernel[{i}] - 1)" for i in every)
            + ")",
            "padding is {padding} before and {padding_after} after; expected less than what a window spans",
            {"padding_end": (99,) * rank},
        ),
    )  # fmt: skip


def fits(rank: int) -> Require:
    """There is a window, if there is anything at all."""
    extents, counts = axes[rank]
    windows = [f"{count}_windows" for count in counts]
    least, any_extent = ", ".join([*windows, "1"]), ", ".join([*extents, "1"])
    return Require(
        f"min({least}) >= 1 or min({any_extent}) == 0",
        f"there would be {' x '.join(f'{{{w}}}' for w in windows)} windows of kernel = {{kernel}}; expected at least "
        "one: the padded input is too small",
        {"kernel": (2,) * (rank - 1) + (99,)},
    )


def plane(names: Sequence[str], of: str) -> tuple[tuple[Attr, ...], tuple[Require, ...]]:
    """Attributes that say the extents of a gradient's result."""
    return (
        tuple(Attr(name, "int", doc=f"of {of}") for name in names),
        tuple(Require(f"{n} >= 0", f"{n} is {{{n}}}; expected at least 0", {n: -1}) for n in names),
    )


def windowed(kernel: Any, stride: Any, padding: Any = None, **more: Any) -> dict[str, Any]:
    """The attributes of a case."""
    return {"kernel": kernel, "stride": stride, "padding": padding or (0,) * len(kernel), **more}


def several(name: str, value: Any, rank: int) -> Any:
    """One number for all axes; a sequence of one is one number too, as in torch."""
    if isinstance(value, (str, bytes)):
        raise ContractTypeError(f"{name} is {value!r}; expected an integer, or one for each axis")
    if isinstance(value, Sequence) and len(value) == 1:
        value = value[0]
    if isinstance(value, Sequence):
        return tuple(value)
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ContractTypeError(f"{name} is {value!r}; expected an integer, or one for each axis")
    return (value,) * rank


def _padding(raw: Mapping[str, Any], rank: int) -> dict[str, Any]:
    """One number, one for each axis, or (before, after) for each axis."""
    value, end = raw["padding"], raw["padding_end"]
    if not isinstance(value, Sequence) or not any(isinstance(side, Sequence) for side in value):
        return {"padding": several("padding", value, rank), "padding_end": end}
    if len(value) != rank or any(not isinstance(side, Sequence) or len(side) != 2 for side in value):
        raise ContractError(f"padding is {value!r}; expected an integer, {rank} of them, or {rank} pairs")
    return {"padding": tuple(before for before, _ in value), "padding_end": tuple(after for _, after in value)}


def plain_windows(rank: int) -> Callable[[dict[str, Any], Mapping[str, Operand]], dict[str, Any]]:
    """Sugar: any form of kernel, stride, padding and dilation, as numbers for each axis."""

    def plain(raw: dict[str, Any], operands: Mapping[str, Operand]) -> dict[str, Any]:
        kernel = several("kernel_size", raw["kernel"], rank)
        stride = kernel if raw["stride"] is None else several("stride", raw["stride"], rank)
        result = {**raw, "kernel": kernel, "stride": stride, **_padding(raw, rank)}
        if "dilation" in raw:
            result["dilation"] = several("dilation", raw["dilation"], rank)
        if raw.get("divisor_override", 0) is None:
            result["divisor_override"] = 0
        return result

    return plain
