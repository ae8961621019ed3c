"""Random configurations of calls that PyTorch answers too, in a room per family: what test_torch.py judges."""

from __future__ import annotations

from collections.abc import Callable

from . import activation, attention, conv, deform, embed, matmul, norm, pointwise, pool, resample
from .draws import Config, Random

__all__ = ["JUDGED"]

_ROOMS = (activation, attention, conv, deform, embed, matmul, norm, pointwise, pool, resample)
JUDGED: dict[str, Callable[[Random], Config]] = {name: drawn for room in _ROOMS for name, drawn in room.JUDGED.items()}
