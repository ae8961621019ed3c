"""What the demo needs beside mmkernels, asked for before any work begins."""

from __future__ import annotations

import importlib

from ..errors import BackendError

__all__ = ["require"]

_NEEDED = {
    "PIL": "pillow",
    "rich": "rich",
    "safetensors": "safetensors",
    "sklearn": "scikit-learn",
    "tqdm": "tqdm",
}


def require() -> None:
    """Raises BackendError with one line that says what is missing and how to get it."""
    missing = []
    for module, package in _NEEDED.items():
        try:
            importlib.import_module(module)
        except ImportError:
            missing.append(package)
    if missing:
        raise BackendError(f"demo: {', '.join(missing)} not installed; expected: pip install 'mmkernels[demo]'")
