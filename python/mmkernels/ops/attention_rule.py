"""What the forms of attention share: attributes, conditions, and how callers may spell them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..contract import FLOATS, Attr, Operand, Require
from ..errors import ContractError

__all__ = ["ATTRIBUTES", "REQUIRES", "SOURCE", "TYPES", "plain"]

TYPES = {"T": FLOATS, "I": ("int64", "int32")}
ATTRIBUTES = (
    Attr("causal", "int", 0, doc='0 none; 1 "top-left"; 2 "bottom-right": key <= position'),
    Attr("scale", "float", None, doc="of q k^T; 1 / sqrt(D) if not given"),
    Attr("window", "ints", (-1, -1), 2, doc="position - left <= key <= position + right; -1 is open"),
    Attr("softcap", "float", 0.0, doc="scores become softcap tanh(score / softcap); 0 is none"),
)
REQUIRES = (
    Require("H == 0 or (Hkv > 0 and H % Hkv == 0)", "Hkv is {Hkv}; expected a divisor of H = {H}", {"Hkv": 3}),
    Require("1 <= D and D <= 512", "D is {D}; expected 1 to 512", {"D": 513}),
    Require("Dv <= 512", "Dv is {Dv}; expected at most 512", {"Dv": 513}),
    Require("0 <= causal and causal <= 2", "causal is {causal}; expected 0, 1 or 2", {"causal": 3}),
    Require(
        "window[0] >= -1 and window[1] >= -1", "window is {window}; expected two lengths, -1 if open",
        {"window": (-2, 0)},
    ),
    Require("0 <= softcap and softcap < 1e30", "softcap is {softcap}; expected 0 or more", {"softcap": -1.0}),
)  # fmt: skip
SOURCE = "Vaswani et al. 2017, arXiv 1706.03762, equation 1; Dao et al. 2022, arXiv 2205.14135"

_CAUSAL = {False: 0, None: 0, True: 1, "top-left": 1, "bottom-right": 2}


def plain(raw: dict[str, Any], operands: Mapping[str, Operand]) -> dict[str, Any]:
    """Attributes as the contract has them, from the callers' words."""
    causal, scale = raw["causal"], raw["scale"]
    if isinstance(causal, str | bool) or causal is None:
        if causal not in _CAUSAL:
            raise ContractError(f"causal is {causal!r}; expected False, True, 'top-left' or 'bottom-right'")
        causal = _CAUSAL[causal]
    if scale is None:
        shape = operands["q"].shape if "q" in operands else ()
        scale = 1 / math.sqrt(shape[-1]) if shape and shape[-1] else 1.0
    window = (-1, -1) if raw["window"] is None else raw["window"]
    softcap = 0.0 if raw["softcap"] is None else raw["softcap"]
    return {**raw, "causal": causal, "scale": scale, "window": window, "softcap": softcap}
