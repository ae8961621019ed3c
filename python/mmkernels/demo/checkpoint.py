"""The state of a training run in one file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from .. import nn

__all__ = ["load", "save"]


class Stateful(Protocol):
    """What has a state_dict."""

    def state_dict(self) -> dict[str, Any]:
        """Arrays by name."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes them back."""


def save(path: Path, run: str, parts: Mapping[str, Stateful]) -> None:
    """Writes the parts' states; ``run`` says to which run they belong. A file that is there is replaced as a whole."""
    state = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    unfinished = path.with_suffix(".part")
    nn.save(state, unfinished, {"run": run})
    os.replace(unfinished, path)


def load(path: Path, run: str, parts: Mapping[str, Stateful]) -> bool:
    """Gives the parts their states back, if there is a file and it belongs to this run."""
    if not path.exists() or nn.metadata(path).get("run") != run:
        return False
    state = nn.load(path)
    for name, part in parts.items():
        prefix = f"{name}."
        part.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    return True
