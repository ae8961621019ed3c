"""The drawings as pictures: ink on paper, enlarged smoothly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["save_grid", "save_process"]

_CELL, _GAP, _MARGIN = 64, 8, 48
_PAPER, _INK, _LABEL = (250, 248, 243), (28, 32, 44), (120, 124, 136)


def save_grid(path: Path, images: Any, labels: Any) -> None:
    """One row of drawings per class, with the class in the margin; images (N, 1, 8, 8) in [-1, 1]."""
    rows = [images[labels == label] for label in np.unique(labels)]
    picture = _page(rows, [str(label) for label in np.unique(labels)])
    picture.save(path, optimize=True)


def save_process(path: Path, frames: Sequence[Any], labels: Any) -> None:
    """An animation from noise to digits: the first drawing of every class, in two rows; the last frame stays."""
    first = np.unique(labels, return_index=True)[1]
    half = (len(first) + 1) // 2
    pages = [_page([frame[first[:half]], frame[first[half:]]], None) for frame in frames]
    durations = [80] * (len(pages) - 1) + [2500]
    pages[0].save(path, save_all=True, append_images=pages[1:], duration=durations, loop=0, optimize=True)


def _page(rows: Sequence[Any], names: Sequence[str] | None) -> Any:
    from PIL import Image, ImageDraw, ImageFont

    margin = _MARGIN if names else _GAP * 2
    pitch = _CELL + _GAP
    width = margin + max(len(row) for row in rows) * pitch + _GAP
    height = len(rows) * pitch + _GAP * 3
    page = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(page)
    font = ImageFont.load_default(24)
    for r, row in enumerate(rows):
        top = 2 * _GAP + r * pitch
        if names:
            pen.text((margin // 2, top + _CELL // 2), names[r], fill=_LABEL, font=font, anchor="mm")
        for c, image in enumerate(row):
            page.paste(_cell(image[0]), (margin + c * pitch, top))
    return page.quantize(64)  # paper to ink is one line in colour space; files are a quarter of the size


def _cell(image: Any) -> Any:
    from PIL import Image

    ink = np.clip(image * 0.5 + 0.5, 0.0, 1.0).astype(np.float32)
    mask = Image.fromarray(np.rint(ink * 255).astype(np.uint8)).resize((_CELL, _CELL), Image.Resampling.BICUBIC)
    return Image.composite(Image.new("RGB", mask.size, _INK), Image.new("RGB", mask.size, _PAPER), mask)
