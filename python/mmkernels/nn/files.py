"""Weights in files: safetensors, read and written without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any

import numpy as np

from ..errors import BackendError
from .module import Module

__all__ = ["load", "metadata", "save"]


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError:
        raise BackendError(
            "nn.save, nn.load: safetensors is not installed; expected it, as by: pip install safetensors"
        ) from None
    return safetensors


def save(
    module: Module | Mapping[str, Any], path: str | PathLike[str], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a module's state, or any arrays by name, to a safetensors file, with texts beside them.

    Raises BackendError if safetensors is not installed, OSError if the file cannot be written.

    >>> import tempfile, pathlib
    >>> from mmkernels import nn
    >>> model = nn.Linear(2, 3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     nn.save(model, pathlib.Path(folder) / "weights.safetensors", {"step": "7"})
    ...     state = nn.load(pathlib.Path(folder) / "weights.safetensors")
    >>> sorted(state), bool((state["bias"] == model.bias.data).all())
    (['bias', 'weight'], True)
    """
    state = module.state_dict() if isinstance(module, Module) else module
    arrays = {name: np.ascontiguousarray(value).reshape(np.shape(value)) for name, value in state.items()}
    data = _safetensors().numpy.save(arrays, metadata=dict(metadata) if metadata else None)
    with open(path, "wb") as file:  # save_file makes files that only their owner may read
        file.write(data)


def load(path: str | PathLike[str]) -> dict[str, Any]:
    """The arrays of a safetensors file by name, for load_state_dict; see save."""
    result: dict[str, Any] = _safetensors().numpy.load_file(fspath(path))
    return result


def metadata(path: str | PathLike[str]) -> dict[str, str]:
    """The texts that were saved beside the arrays."""
    with _safetensors().safe_open(fspath(path), framework="numpy") as file:
        return dict(file.metadata() or {})
